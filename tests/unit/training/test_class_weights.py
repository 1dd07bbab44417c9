import numpy as np
import pytest
import torch

from derm_ray.models.networks import PairLogits
from derm_ray.training.losses import class_weights, log_frequencies, pair_loss

COUNTS = np.array([90.0, 9, 0, 1])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_their_mean_over_the_pairs_is_one(power: float) -> None:
    assert (class_weights(COUNTS, power) * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    for power, ratio in ((0.0, 1), (0.5, 10**0.5), (1.0, 10)):
        weights = class_weights(COUNTS, power)
        assert weights[1] / weights[0] == pytest.approx(ratio)
        assert weights[2] == 0


def test_adjusted_logits_are_those_of_balanced_classes() -> None:
    """A network that answers with the classes' frequencies has logits of 0 after its adjustment is taken off."""
    frequent = torch.from_numpy(log_frequencies(COUNTS))
    assert frequent[[0, 1, 3]].exp().tolist() == pytest.approx([0.9, 0.09, 0.01])
    zero, label = torch.zeros(1, 4), torch.tensor([[False, True, False, False]])
    logits = PairLogits(zero, zero, None)
    loss = pair_loss(logits, label, loss="cross_entropy", alpha=1.5, adjustment=frequent)
    assert loss.item() == pytest.approx(-2 * np.log(0.09 / 1.01), rel=1e-5)
