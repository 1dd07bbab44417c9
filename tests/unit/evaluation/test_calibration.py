import numpy as np
import pytest

from derm_ray.domain import PAPER15, PredictionKind, label_set
from derm_ray.evaluation.calibration import (
    fit_calibration,
    fit_temperature,
    negative_log_likelihood,
    operating_points,
    reliability,
)
from derm_ray.inference.predictor import temper


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


def draw(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(logits), and probabilities that are too sure of themselves by a factor."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, 4)) * 1.5
    labels = (softmax(logits).cumsum(1) > generator.random((count, 1))).argmax(1)
    return labels, softmax(logits * temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    labels, probabilities = draw(temperature)
    assert fit_temperature(labels, probabilities) == pytest.approx(temperature, rel=0.05)


def test_tempering_lowers_the_calibration_error_and_keeps_the_answers() -> None:
    labels, probabilities = draw(3.0)
    tempered = temper(probabilities, fit_temperature(labels, probabilities))
    assert (tempered.argmax(1) == probabilities.argmax(1)).all()
    assert np.allclose(tempered.sum(1), 1, atol=1e-6)
    before, after = reliability(labels, probabilities), reliability(labels, tempered)
    assert before.ece > 0.1
    assert after.ece < 0.02
    assert after.brier < before.brier
    assert after.nll < before.nll


def test_reliability_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    found = reliability(np.array([0, 1, 1, 1]), probabilities)
    assert found.counts == (1, 1, 2)
    assert found.accuracy == (1.0, 1.0, 0.5)
    assert found.ece == pytest.approx((0.4 + 0.3 + 2 * 0.4) / 4)
    assert found.brier == pytest.approx((0.02 + 1.62 + 0.32 + 0.18) / 4)
    assert found.nll == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.7]).mean())


def test_probabilities_of_zero_stay_finite() -> None:
    certain = np.array([[1.0, 0.0]], np.float32)
    assert np.isfinite(temper(certain, 2.0)).all()
    assert np.isfinite(negative_log_likelihood(np.array([1]), certain))


def test_operating_points_reach_their_sensitivity() -> None:
    labels = np.array([12] * 20 + [0] * 30)
    probabilities = np.zeros((50, 15), np.float32)
    probabilities[:, 12] = np.concatenate((np.linspace(0.05, 1.0, 20), np.linspace(0.0, 0.29, 30)))
    task = PAPER15.tasks()[1]
    ninety, more = operating_points(PredictionKind.CROSS, task, PAPER15, labels, probabilities)
    assert ninety.name == "melanoma_at_90_sensitivity"
    # Midway between the last positive that has to be found and the negative below it.
    assert ninety.threshold == pytest.approx((0.15 + 0.14) / 2)
    assert (ninety.sensitivity, more.sensitivity) == (0.9, 0.95)
    assert ninety.specificity == pytest.approx(0.5)
    assert more.threshold < ninety.threshold


def test_a_task_without_positives_has_no_operating_point() -> None:
    labels = np.zeros(5, np.int64)
    probabilities = np.full((5, 15), 1 / 15, np.float32)
    assert fit_calibration(PAPER15, labels, {PredictionKind.CROSS: probabilities}).operating_points == ()
    assert label_set("paper15_melanoma").tasks()[0].name == "melanoma"
