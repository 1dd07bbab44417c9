import numpy as np
import pytest

from derm_ray.domain import PAPER15, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.decisions import OFFSETS, decided, fit_offsets
from derm_ray.evaluation.drift import fit_reference
from derm_ray.evaluation.evaluate import evaluate_kind
from derm_ray.evaluation.metrics import METRICS


def predictions(pairs: int = 400, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities of a model that knows something, on classes of unequal size."""
    generator = np.random.default_rng(0)
    labels = generator.choice(classes, pairs, p=[0.7, 0.2, 0.07, 0.03])
    logits = generator.normal(size=(pairs, classes)) + 1.2 * np.eye(classes)[labels] + np.log([0.7, 0.2, 0.07, 0.03])
    powers = np.exp(logits)
    return labels, (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def metric(name: str, labels: np.ndarray, scores: np.ndarray) -> float:
    of_classes = METRICS[name].of_classes
    assert of_classes is not None
    return float(of_classes(labels, scores, np.ones((1, len(labels))))[0])


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_offsets_raise_their_metric_and_no_single_class_can_do_better(name: str) -> None:
    labels, probabilities = predictions()
    offsets = fit_offsets(labels, probabilities, name)
    assert offsets is not None
    best = metric(name, labels, decided(probabilities, offsets))
    assert best > metric(name, labels, probabilities) + 0.03
    for index in range(len(offsets)):
        for tried in OFFSETS:
            moved = [tried if at == index else offset for at, offset in enumerate(offsets)]
            assert metric(name, labels, decided(probabilities, moved)) <= best + 1e-6
    assert fit_offsets(labels, probabilities, name) == offsets


def test_argmax_has_no_offsets_and_a_perfect_model_keeps_zero() -> None:
    labels, probabilities = predictions()
    assert fit_offsets(labels, probabilities, "argmax") is None
    assert fit_offsets(labels, np.eye(4)[labels], "macro_f1") == (0.0,) * 4


def test_offsets_change_the_named_diagnosis_and_no_probability() -> None:
    labels, probabilities = predictions()
    offsets = (-3.0, 0.0, 0.0, 3.0)
    ids = [str(index) for index in range(len(labels))]
    plain = evaluate_kind({}, list("abcd"), labels, probabilities, ids, (), resamples=5)
    moved = evaluate_kind({}, list("abcd"), labels, probabilities, ids, (), offsets=offsets, resamples=5)
    each = np.tile(offsets, (len(labels), 1))
    assert evaluate_kind({}, list("abcd"), labels, probabilities, ids, (), offsets=each, resamples=5).metrics == (
        moved.metrics
    )
    for name in ("accuracy", "macro_f1", "balanced_accuracy"):
        assert moved.metrics[name].value == metric(name, labels, decided(probabilities, offsets))
        assert moved.metrics[name].value != plain.metrics[name].value
    for name in ("macro_auroc", "auroc/a"):
        assert moved.metrics[name] == plain.metrics[name]
    assert moved.reliability == plain.reliability
    assert moved.confusion.sum(0)[3] > plain.confusion.sum(0)[3]


def test_the_drift_reference_counts_the_named_diagnosis() -> None:
    _, probabilities = predictions()
    kind = PredictionKind.CROSS
    shares = [
        dict(zip(found.bins, found.shares, strict=True))
        for offsets in ({}, {kind: (-3.0, 0.0, 0.0, 0.0)})
        for found in fit_reference(list("abcd"), {kind: probabilities}, {}, offsets=offsets)
        if found.quantity == "diagnosis"
    ]
    assert shares[0]["a"] > 0.6
    assert shares[1].get("a", 0) < 0.3


def test_the_calibration_keeps_what_was_decided_for() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 15, 300)
    probabilities = generator.dirichlet(np.ones(15), 300).astype(np.float32)
    fitted = fit_calibration(PAPER15, labels, {PredictionKind.CROSS: probabilities}, "macro_f1")
    assert fitted.decide == "macro_f1"
    assert len(fitted.offsets[PredictionKind.CROSS]) == 15
    assert fit_calibration(PAPER15, labels, {PredictionKind.CROSS: probabilities}).offsets == {}
