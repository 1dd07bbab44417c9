"""Metrics of all seeds of a row, on the whole test split and on resamples of its lesions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.domain import CancerDefinition, LabelSet, PredictionKind, Task
from derm_ray.evaluation.comparison import Interval, percentile_interval
from derm_ray.evaluation.decisions import Offsets
from derm_ray.evaluation.metrics import Draws, compute
from derm_ray.studies.reproduction.grid import TASK_SETS
from derm_ray.studies.reproduction.predictions import TrialPredictions

RESAMPLES = 2000


def tasks_of(labels: LabelSet) -> dict[str, Task]:
    """Return the tasks of a label set by the names they have here: all, or its own."""
    paper, isic = labels.tasks(CancerDefinition.PAPER), labels.tasks(CancerDefinition.ISIC)
    tasks = {f"{task.name}_isic": task for task in isic if task.name == "cancer"} | {task.name: task for task in paper}
    own = [name for name in TASK_SETS if labels.name.endswith(f"_{name}")] if labels.collapses else TASK_SETS
    return {name: tasks[name] for name in TASK_SETS if name in tasks and name in own}


def draws(
    name: str, trial: TrialPredictions, scores: npt.NDArray[np.float32], weights: Draws, offsets: Offsets = None
) -> Draws:
    """Return a metric's values under weights of the pairs (draws, N); NaN where it is undefined.

    ``offsets`` are the model's decision offsets of the prediction kind that ``scores`` are of.
    """
    tasks = tasks_of(trial.labels)
    if "/" in name and name.partition("/")[0] not in tasks:
        return np.full(len(weights), np.nan)
    return compute(name, tasks, trial.labels.class_names, trial.truth, scores, weights, offsets)


@dataclass(frozen=True)
class SeedMetrics:
    """A metric of one row: mean of the seeds with its 95% interval over lesions, each seed's value, and draws of the
    mean.
    """

    mean: Interval
    seeds: Mapping[int, float]
    draws: Draws


def seed_metrics(
    name: str, seeds: Mapping[int, TrialPredictions], kind: PredictionKind, weights: Draws, *, swapped: bool = False
) -> SeedMetrics | None:
    """Return a metric over a row's seeds, or ``None`` where these have no such predictions."""
    found: dict[int, Draws] = {}
    for seed, trial in seeds.items():
        scores = (trial.swapped if swapped else trial.given).get(kind)
        if scores is not None:
            found[seed] = draws(name, trial, scores, weights, trial.offsets(kind))
    if not found:
        return None
    mean = np.mean(list(found.values()), axis=0)
    return SeedMetrics(percentile_interval(mean[0], mean[1:]), {seed: float(v[0]) for seed, v in found.items()}, mean)
