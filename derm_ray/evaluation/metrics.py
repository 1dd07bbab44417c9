"""The interface of metrics, and all metrics of a set of predictions by name.

Shapes: N pairs, K classes, D draws. ``labels`` are class indices (N,), ``probabilities`` (N, K). Weights (D, N) are how
often each pair counts in each draw, so that one call computes a metric and its bootstrap.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.domain import Task
from derm_ray.evaluation.decisions import Offsets, decided
from derm_ray.registry import Registry

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]
Draws = npt.NDArray[np.float64]
"""Weights (D, N), or the values of a metric (D,)."""


@dataclass(frozen=True)
class Metric:
    """A metric, 0..1, the higher the better. All evaluations compute it.

    Attributes:
        title: for tables.
        of_classes: (labels, probabilities, weights) -> values (D,), NaN where undefined; named ``<metric>``.
        of_task: (positive (N,), task probabilities (N,), weights) -> the same, for a binary task; named
            ``<task>/<metric>``.
        per_class: compute ``of_task`` also for each class against the rest, named ``<metric>/<class>``.
        task_title: title of ``of_task``, if different.
        of_decision: ``of_classes`` uses nothing but each pair's largest value. Where a model has decision offsets, it
            gets the probabilities times their factors.
    """

    title: str
    of_classes: Callable[[Labels, Scores, Draws], Draws] | None = None
    of_task: Callable[[Flags, Scores, Draws], Draws] | None = None
    per_class: bool = False
    task_title: str | None = None
    of_decision: bool = False


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "accuracy": "derm_ray.evaluation.standard_metrics:ACCURACY",
        "balanced_accuracy": "derm_ray.evaluation.standard_metrics:BALANCED_ACCURACY",
        "macro_f1": "derm_ray.evaluation.standard_metrics:MACRO_F1",
        "macro_auroc": "derm_ray.evaluation.standard_metrics:MACRO_AUROC",
        "auroc": "derm_ray.evaluation.standard_metrics:AUROC",
        "sensitivity_at_95_specificity": "derm_ray.evaluation.standard_metrics:SENSITIVITY",
    },
)

NOT_DEFINED = "not defined"

_TASK_TITLES = {"cancer_isic": "Cancer, in situ counted"}


def class_metrics() -> list[str]:
    """Return the names of all metrics of the classes."""
    return [name for name, metric in METRICS.items() if metric.of_classes is not None]


def metric_names(tasks: Iterable[str]) -> list[str]:
    """Return the names of all metrics of the classes, then of these tasks."""
    of_task = [name for name, metric in METRICS.items() if metric.of_task is not None]
    return [*class_metrics(), *(f"{task}/{name}" for task in tasks for name in of_task)]


def metric_title(name: str) -> str:
    """Return the title of a name of :func:`metric_names`."""
    task, _, base = name.rpartition("/")
    metric = METRICS[base]
    title = metric.title if not task else metric.task_title or metric.title
    return f"{_TASK_TITLES.get(task, task.capitalize())}: {title}" if task else title


def number_text(value: float) -> str:
    """Return a metric for people: ``0.712``, or ``not defined``."""
    return f"{value:.3f}" if math.isfinite(value) else NOT_DEFINED


def compute(
    name: str,
    tasks: Mapping[str, Task],
    class_names: Sequence[str],
    labels: Labels,
    probabilities: Scores,
    weights: Draws,
    offsets: Offsets = None,
) -> Draws:
    """Return the values (D,) of one metric of :func:`metric_names`; NaN where it is undefined.

    ``offsets`` are a model's decision offsets, which count where :attr:`Metric.of_decision` says so.
    """
    task_name, _, base = name.rpartition("/")
    metric = METRICS[base]
    with np.errstate(invalid="ignore", divide="ignore"):
        if not task_name:
            assert metric.of_classes is not None
            scores = decided(probabilities, offsets) if metric.of_decision else probabilities
            return metric.of_classes(labels, scores, weights)
        assert metric.of_task is not None
        kept, positive, scores = _select(tasks[task_name], class_names, labels, probabilities)
        return metric.of_task(positive, scores, weights if kept.all() else weights[:, kept])


def compute_all(
    tasks: Mapping[str, Task],
    class_names: Sequence[str],
    labels: Labels,
    probabilities: Scores,
    weights: Draws,
    offsets: Offsets = None,
) -> dict[str, Draws]:
    """Return the values (D,) of every metric by name, of a model's decision offsets; those per class come last."""
    named = {
        name: compute(name, tasks, class_names, labels, probabilities, weights, offsets) for name in metric_names(tasks)
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, metric in METRICS.items():
            if metric.per_class and metric.of_task is not None:
                for index, class_name in enumerate(class_names):
                    values = metric.of_task(labels == index, probabilities[:, index], weights)
                    named[f"{name}/{class_name}"] = values
    return named


def _select(
    task: Task, class_names: Sequence[str], labels: Labels, probabilities: Scores
) -> tuple[Flags, Flags, Scores]:
    """Return which pairs belong to a task (N,), which of these are positive, and their task probabilities."""
    positive, negative = ([class_names.index(name) for name in side] for side in (task.positive, task.negative))
    kept = np.isin(labels, [*positive, *negative])
    return kept, np.isin(labels[kept], positive), probabilities[kept][:, positive].sum(1, dtype=np.float64)


def task_scores(task: Task, class_names: Sequence[str], labels: Labels, probabilities: Scores) -> tuple[Scores, Scores]:
    """Return the task probabilities of a task's positive pairs and of its negative pairs."""
    _, positive, scores = _select(task, class_names, labels, probabilities)
    return scores[positive], scores[~positive]


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return counts (K, K): rows are the true class, columns the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
