"""The metrics that come with derm_ray; shapes as in :mod:`derm_ray.evaluation.metrics`."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from derm_ray.evaluation.metrics import Draws, Flags, Labels, Metric, Scores

SPECIFICITY = 0.95


def accuracy(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the share of pairs whose most probable class is correct."""
    return np.asarray(weights @ (probabilities.argmax(1) == labels) / weights.sum(1))


def task_accuracy(positive: Flags, scores: Scores, weights: Draws) -> Draws:
    """Return the share of pairs on the correct side of a task probability of 0.5."""
    return np.asarray(weights @ ((scores >= 0.5) == positive) / weights.sum(1))


def balanced_accuracy(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean recall over the classes present."""
    truth, _, right = _counts(labels, probabilities, weights)
    return _mean(right / truth)


def macro_f1(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean F1 over the classes present or predicted."""
    truth, predicted, right = _counts(labels, probabilities, weights)
    return _mean(2 * right / (truth + predicted))


def macro_auroc(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean one-vs-rest AUROC over the classes for which it is defined."""
    areas = [auroc(labels == k, probabilities[:, k], weights) for k in range(probabilities.shape[1])]
    return _mean(np.stack(areas, axis=1))


def auroc(positive: Flags, scores: Scores, weights: Draws) -> Draws:
    """Return the area under the ROC curve; ties count half."""
    values, own = np.unique(scores[positive], return_inverse=True)
    below, upto = (np.searchsorted(values, scores[~positive], side) for side in ("left", "right"))
    up = _sums(own, positive, weights, len(values))
    # An odd bin holds the negatives equal to a value, an even bin those between two values.
    down = _sums(below + upto, ~positive, weights, 2 * len(values) + 1).cumsum(0)
    wins = (up * (down[:-1:2] + down[1::2])).sum(0) / 2
    return np.asarray(wins / (up.sum(0) * down[-1]))


def sensitivity(positive: Flags, scores: Scores, weights: Draws) -> Draws:
    """Return the largest share of positives above a threshold that at most 5% of the negatives exceed."""
    if positive.all():
        return np.full(len(weights), np.nan)
    by_score = np.argsort(scores)
    negatives, positives = by_score[~positive[by_score]], by_score[positive[by_score]]
    below = weights.T[negatives].cumsum(0)
    total = below[-1]
    thresholds = scores[negatives][(below < np.ceil(SPECIFICITY * total - 1e-9)).sum(0)]
    upto = np.zeros((len(positives) + 1, len(weights)))
    np.cumsum(weights.T[positives], axis=0, out=upto[1:])
    missed = upto[np.searchsorted(scores[positives], thresholds, "right"), np.arange(len(weights))]
    return np.where(total > 0, 1 - missed / upto[-1], np.nan)


def _sums(bins: npt.NDArray[np.int64], which: Flags, weights: Draws, count: int) -> Draws:
    """Return the weights of some pairs, summed by bin: (count, D)."""
    shape = (count, len(which))
    return np.asarray(sparse.csr_array((np.ones(len(bins)), (bins, np.flatnonzero(which))), shape=shape) @ weights.T)


def _counts(labels: Labels, probabilities: Scores, weights: Draws) -> tuple[Draws, Draws, Draws]:
    """Return how often each class is true, predicted, and both: (D, K) each."""
    predicted, classes = probabilities.argmax(1), probabilities.shape[1]
    every, right = np.ones(len(labels), np.bool_), predicted == labels
    counts = ((labels, every), (predicted, every), (labels[right], right))
    truth, guessed, both = (_sums(bins, which, weights, classes).T for bins, which in counts)
    return truth, guessed, both


def _mean(values: Draws) -> Draws:
    """Return the mean over classes (D,) of those that are defined."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(1) / defined.sum(1))


ACCURACY = Metric("Accuracy", accuracy, task_accuracy, task_title="accuracy at 0.5", of_decision=True)
BALANCED_ACCURACY = Metric("Balanced accuracy", balanced_accuracy, of_decision=True)
MACRO_F1 = Metric("Macro F1", macro_f1, of_decision=True)
MACRO_AUROC = Metric("Macro AUROC", macro_auroc)
AUROC = Metric("AUROC", of_task=auroc, per_class=True)
SENSITIVITY = Metric("sensitivity at 95% specificity", of_task=sensitivity)
