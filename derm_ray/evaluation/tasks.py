"""The paper's two binary tasks, collapsed from class probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from derm_ray.domain import Task
from derm_ray.evaluation.metrics import Labels, Scores, auroc

SPECIFICITY = 0.95


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of a binary task, each 0..1; NaN where one side is empty.

    Attributes:
        auroc: area under the ROC curve.
        sensitivity_at_95_specificity: largest share of positives above a threshold that at most 5% of
            negatives exceed.
        positives, negatives: pairs on each side.
    """

    auroc: float
    sensitivity_at_95_specificity: float
    positives: int
    negatives: int


def sensitivity_at_specificity(positive: Scores, negative: Scores, specificity: float = SPECIFICITY) -> float:
    """Return the largest sensitivity of a threshold that keeps at least the given specificity.

    Args:
        positive: scores of the positives; above the threshold counts as positive.
        negative: scores of the negatives.
        specificity: share of negatives that must stay below the threshold, 0..1.
    """
    if not len(positive) or not len(negative):
        return float("nan")
    quiet = int(np.ceil(specificity * len(negative) - 1e-9))
    threshold = np.sort(negative)[quiet - 1] if quiet else -np.inf
    return float((positive > threshold).mean())


def task_metrics(task: Task, class_names: Sequence[str], labels: Labels, probabilities: Scores) -> TaskMetrics:
    """Compute a task's metrics; pairs of classes in neither list are left out.

    Args:
        task: positives and negatives by class name; the score is the summed probability of the positives.
        class_names: K names in class order.
        labels: (N,) class indices.
        probabilities: (N, K).
    """
    positive, negative = task_scores(task, class_names, labels, probabilities)
    truth = np.arange(len(positive) + len(negative)) < len(positive)
    area = auroc(truth, np.concatenate((positive, negative))) if len(truth) else np.nan
    return TaskMetrics(
        auroc=float(area),
        sensitivity_at_95_specificity=sensitivity_at_specificity(positive, negative),
        positives=len(positive),
        negatives=len(negative),
    )


def task_scores(task: Task, class_names: Sequence[str], labels: Labels, probabilities: Scores) -> tuple[Scores, Scores]:
    """Return the task probabilities of a task's positive pairs and of its negative pairs."""
    positive = [class_names.index(name) for name in task.positive]
    negative = [class_names.index(name) for name in task.negative]
    scores = probabilities[:, positive].sum(1, dtype=np.float64)
    return scores[np.isin(labels, positive)], scores[np.isin(labels, negative)]
