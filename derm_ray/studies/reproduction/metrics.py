"""Metrics of all seeds of a row, on the whole test split and on resamples of its lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.domain import CancerDefinition, LabelSet, PredictionKind, Task
from derm_ray.evaluation.comparison import Interval, percentile_interval
from derm_ray.studies.reproduction.grid import TASK_SETS
from derm_ray.studies.reproduction.predictions import TrialPredictions

RESAMPLES = 2000

Draws = npt.NDArray[np.float64]
"""A metric's values (1 + resamples,): of the whole split first."""

METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "cancer/auroc": "Cancer AUROC",
    "cancer_isic/auroc": "Cancer AUROC, carcinoma in situ counted",
    "melanoma/auroc": "Melanoma vs benign AUROC",
    "cancer/accuracy": "Cancer accuracy at 0.5",
    "melanoma/accuracy": "Melanoma accuracy at 0.5",
}


def metrics_of(labels: LabelSet) -> tuple[str, ...]:
    """Return the metrics a label set has: all of :data:`METRICS`, or those of its task."""
    if not labels.collapses:
        return tuple(METRICS)
    own = next(name for name in TASK_SETS if labels.name.endswith(f"_{name}"))
    return tuple(name for name in METRICS if "/" not in name or name.startswith(f"{own}/"))


def lesion_weights(lesion_ids: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Draws:
    """Return how often each pair counts (1 + resamples, N): once each, then as lesions are drawn with replacement."""
    _, lesion = np.unique(np.asarray(lesion_ids), return_inverse=True)
    count = int(lesion.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return np.concatenate((np.ones((1, len(lesion_ids))), drawn[:, lesion])).astype(np.float64)


def draws(name: str, trial: TrialPredictions, scores: npt.NDArray[np.float32], weights: Draws) -> Draws:
    """Return a metric's values under weights of the pairs; NaN where it is undefined.

    Args:
        name: a key of :data:`METRICS`.
        trial: truth and class order.
        scores: probabilities (N, K).
        weights: (draws, N).
    """
    labels, truth = trial.labels, trial.truth
    right = (scores.argmax(1) == truth).astype(np.float64)
    if name == "accuracy":
        return np.asarray(weights @ right / weights.sum(1))
    if name == "balanced_accuracy":
        return _balanced(right, truth, weights)
    task_name, kind = name.split("/")
    definition = CancerDefinition.ISIC if task_name == "cancer_isic" else CancerDefinition.PAPER
    found = [task for task in labels.tasks(definition) if task.name == task_name.removesuffix("_isic")]
    if not found:
        return np.full(len(weights), np.nan)
    return _task(found[0], kind, labels, truth, scores, weights)


def _balanced(right: Draws, truth: npt.NDArray[np.int64], weights: Draws) -> Draws:
    onehot = np.eye(int(truth.max()) + 1)[truth]
    counts = weights @ onehot
    recalls = np.divide(
        weights @ (onehot * right[:, None]), counts, out=np.full(counts.shape, np.nan), where=counts > 0
    )
    return np.asarray(np.nanmean(recalls, axis=1))


def _task(
    task: Task,
    kind: str,
    labels: LabelSet,
    truth: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    weights: Draws,
) -> Draws:
    names = labels.class_names
    positive, negative = ([names.index(name) for name in side] for side in (task.positive, task.negative))
    sums = scores[:, positive].sum(1)
    is_positive, is_negative = np.isin(truth, positive), np.isin(truth, negative)
    up, down = weights[:, is_positive], weights[:, is_negative]
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind == "accuracy":
            right = up @ (sums[is_positive] >= 0.5) + down @ (sums[is_negative] < 0.5)
            return np.asarray(right / (up.sum(1) + down.sum(1)))
        gap = sums[is_positive][:, None] - sums[is_negative][None, :]
        wins = ((up @ ((gap > 0) + 0.5 * (gap == 0))) * down).sum(1)
        return np.asarray(wins / (up.sum(1) * down.sum(1)))


@dataclass(frozen=True)
class SeedMetrics:
    """A metric of one row.

    Attributes:
        mean: of all seeds, with the 95% interval over lesions.
        seeds: seed -> value.
        draws: of the mean; see :data:`Draws`.
    """

    mean: Interval
    seeds: Mapping[int, float]
    draws: Draws


def seed_metrics(
    name: str, seeds: Mapping[int, TrialPredictions], kind: PredictionKind, weights: Draws, *, swapped: bool = False
) -> SeedMetrics | None:
    """Return a metric over a row's seeds, or ``None`` where these have no such predictions.

    Args:
        name: a key of :data:`METRICS`.
        seeds: seed -> predictions of the same pairs.
        kind: which prediction.
        weights: see :func:`lesion_weights`.
        swapped: with the images exchanged.
    """
    found: dict[int, Draws] = {}
    for seed, trial in seeds.items():
        scores = (trial.swapped if swapped else trial.given).get(kind)
        if scores is not None:
            found[seed] = draws(name, trial, scores, weights)
    if not found:
        return None
    mean = np.mean(list(found.values()), axis=0)
    return SeedMetrics(percentile_interval(mean[0], mean[1:]), {seed: float(v[0]) for seed, v in found.items()}, mean)
