import numpy as np
import pytest

from derm_ray.training.losses import class_weights

LABELS = np.array([0] * 90 + [1] * 9 + [3])


@pytest.mark.parametrize("scheme", ["none", "inverse", "effective"])
def test_their_mean_over_the_pairs_is_one(scheme: str) -> None:
    weights = class_weights(LABELS, 4, scheme)
    assert weights[LABELS].mean() == pytest.approx(1)


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    inverse = class_weights(LABELS, 4, "inverse")
    assert inverse[1] / inverse[0] == pytest.approx(10)
    assert inverse[3] / inverse[0] == pytest.approx(90)
    assert inverse[2] == 0
    effective = class_weights(LABELS, 4, "effective")
    number = [(1 - 0.999**n) / (1 - 0.999) for n in (90, 9)]
    assert effective[1] / effective[0] == pytest.approx(number[0] / number[1])
