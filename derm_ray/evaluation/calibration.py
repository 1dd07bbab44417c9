"""Calibration: temperatures, operating points and decision offsets fitted on val; reliability of probabilities.

Shapes: N pairs, K classes. ``labels`` are class indices (N,), ``probabilities`` (N, K).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from derm_ray.domain import SENSITIVITIES, Calibration, LabelSet, OperatingPoint, PredictionKind, Task
from derm_ray.evaluation.decisions import fit_offsets
from derm_ray.evaluation.kinds import having
from derm_ray.evaluation.metrics import Labels, Scores, task_scores
from derm_ray.inference.predictor import temper

BINS = 10
TEMPERATURES = (0.25, 8.0)
"""Range of the fit: val sets are small, and a temperature outside means that the model learned nothing."""


def fit_temperature(labels: Labels, probabilities: npt.NDArray[np.float32]) -> float:
    """Return the temperature that minimizes the negative log-likelihood (Guo et al. 2017), within 0.25..8."""

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(labels, temper(probabilities, float(np.exp(log_temperature))))

    return float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded").x))


def negative_log_likelihood(labels: Labels, probabilities: Scores) -> float:
    """Return the mean negative log-probability of the true class."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def fit_calibration(
    label_set: LabelSet,
    labels: Labels,
    probabilities: Mapping[PredictionKind, npt.NDArray[np.float32]],
    decide: str = "argmax",
) -> Calibration:
    """Fit temperatures on each prediction kind's (N, K) on val, then operating points and decision offsets.

    Rows of lesions that lack a kind's images are NaN, and do not count; a kind without any row is left out. The last
    two are fitted on the tempered probabilities; ``decide`` is one of
    :data:`derm_ray.evaluation.decisions.DECISIONS`.
    """
    rows = {kind: having(p) for kind, p in probabilities.items() if having(p).any()}
    temperatures = {kind: fit_temperature(labels[of], probabilities[kind][of]) for kind, of in rows.items()}
    tempered = {kind: temper(probabilities[kind][of], temperatures[kind]) for kind, of in rows.items()}
    points = [
        point
        for kind, p in tempered.items()
        for task in label_set.tasks()
        for point in operating_points(kind, task, label_set, labels[rows[kind]], p)
    ]
    offsets = {
        kind: found for kind, p in tempered.items() if (found := fit_offsets(labels[rows[kind]], p, decide)) is not None
    }
    return Calibration(temperatures, tuple(points), decide, offsets)


def operating_points(
    kind: PredictionKind, task: Task, label_set: LabelSet, labels: Labels, probabilities: Scores
) -> list[OperatingPoint]:
    """Return thresholds that reach each target sensitivity; none where a side of the task is empty.

    A threshold lies midway between the last positive that has to be found and the next lower score of the task's val
    pairs (or 0), so that a rounding error does not exclude that positive.
    """
    positive, negative = task_scores(task, label_set.class_names, labels, probabilities)
    if not len(positive) or not len(negative):
        return []
    falling = np.sort(positive)[::-1]
    scores = np.concatenate((positive, negative))
    points = []
    for target in SENSITIVITIES:
        # The small slack keeps 0.9 * 10 = 9.000000000000002 from asking for a tenth positive.
        last = falling[int(np.ceil(target * len(falling) - 1e-9)) - 1]
        threshold = float((last + scores[scores < last].max(initial=0)) / 2)
        points.append(
            OperatingPoint(
                kind,
                task.name,
                target,
                threshold,
                sensitivity=float((positive >= threshold).mean()),
                specificity=float((negative < threshold).mean()),
            )
        )
    return points


@dataclass(frozen=True)
class Reliability:
    """How often predictions of a confidence are right.

    Attributes:
        confidence, accuracy: mean of each bin that holds any pair, by rising confidence.
        counts: pairs in each of these.
        ece: expected calibration error, the mean gap weighted by counts, 0..1.
        brier: mean squared distance to the one-hot truth, summed over classes, 0..2.
        nll: mean negative log-likelihood.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]
    ece: float
    brier: float
    nll: float


def reliability(labels: Labels, probabilities: Scores) -> Reliability:
    """Compute :class:`Reliability` with bins of equal width over 0..1."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    filled = [which == b for b in range(BINS) if (which == b).any()]
    means = [float(confidence[mask].mean()) for mask in filled]
    shares = [float(right[mask].mean()) for mask in filled]
    counts = [int(mask.sum()) for mask in filled]
    gaps = sum(n * abs(a - c) for n, a, c in zip(counts, shares, means, strict=True))
    onehot = np.eye(probabilities.shape[1])[labels]
    return Reliability(
        tuple(means),
        tuple(shares),
        tuple(counts),
        ece=gaps / len(labels),
        brier=float(np.square(probabilities - onehot).sum(1).mean()),
        nll=negative_log_likelihood(labels, probabilities),
    )
