"""The metrics that come with derm_ray; shapes as in :mod:`derm_ray.evaluation.metrics`."""

import numpy as np

from derm_ray.evaluation.metrics import Draws, Flags, Labels, Metric, Scores

SPECIFICITY = 0.95


def accuracy(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the share of pairs whose most probable class is right."""
    return np.asarray(weights @ (probabilities.argmax(1) == labels) / weights.sum(1))


def task_accuracy(positive: Flags, risks: Scores, weights: Draws) -> Draws:
    """Return the share of pairs on the right side of a risk of 0.5."""
    return np.asarray(weights @ ((risks >= 0.5) == positive) / weights.sum(1))


def balanced_accuracy(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean recall over the classes that are there."""
    truth, _, right = _counts(labels, probabilities, weights)
    return _mean(right / truth)


def macro_f1(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean F1 over the classes that are there or predicted."""
    truth, predicted, right = _counts(labels, probabilities, weights)
    return _mean(2 * right / (truth + predicted))


def macro_auroc(labels: Labels, probabilities: Scores, weights: Draws) -> Draws:
    """Return the mean one-vs-rest AUROC over the classes for which it is defined."""
    areas = [auroc(labels == k, probabilities[:, k], weights) for k in range(probabilities.shape[1])]
    return _mean(np.stack(areas, axis=1))


def auroc(positive: Flags, risks: Scores, weights: Draws) -> Draws:
    """Return the area under the ROC curve; ties count half."""
    order = np.argsort(risks[~positive])
    negative, up, down = risks[~positive][order], weights[:, positive], weights[:, ~positive][:, order]
    before = np.zeros((len(weights), len(negative) + 1))
    np.cumsum(down, axis=1, out=before[:, 1:])
    below, upto = (np.searchsorted(negative, risks[positive], side) for side in ("left", "right"))
    wins = (up * (before[:, below] + before[:, upto])).sum(1) / 2
    return np.asarray(wins / (up.sum(1) * before[:, -1]))


def sensitivity(positive: Flags, risks: Scores, weights: Draws) -> Draws:
    """Return the largest share of positives found while at most 5% of the negatives are above the threshold."""
    order = np.argsort(risks[~positive])
    negative, up = risks[~positive][order], weights[:, positive]
    below = weights[:, ~positive][:, order].cumsum(1)
    if not len(negative):
        return np.full(len(weights), np.nan)
    total = below[:, -1:]
    thresholds = negative[(below >= np.ceil(SPECIFICITY * total - 1e-9)).argmax(1)]
    found = (up * (risks[positive] > thresholds[:, None])).sum(1) / up.sum(1)
    return np.where(total[:, 0] > 0, found, np.nan)


def _counts(labels: Labels, probabilities: Scores, weights: Draws) -> tuple[Draws, Draws, Draws]:
    """Return how often each class is true, predicted, and both: (D, K) each."""
    classes = np.eye(probabilities.shape[1])
    truth, predicted = classes[labels], classes[probabilities.argmax(1)]
    return weights @ truth, weights @ predicted, weights @ (truth * predicted)


def _mean(values: Draws) -> Draws:
    """Return the mean over classes (D,) of those that are defined."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(1) / defined.sum(1))


ACCURACY = Metric("Accuracy", accuracy, task_accuracy, task_title="accuracy at 0.5")
BALANCED_ACCURACY = Metric("Balanced accuracy", balanced_accuracy)
MACRO_F1 = Metric("Macro F1", macro_f1)
MACRO_AUROC = Metric("Macro AUROC", macro_auroc)
AUROC = Metric("AUROC", of_task=auroc, per_class=True)
SENSITIVITY = Metric("sensitivity at 95% specificity", of_task=sensitivity)
