"""One trial of a search, as Ray Tune runs it: a training run that reports every epoch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from derm_ray import storage
from derm_ray.bundle import INDEX
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PredictionKind
from derm_ray.errors import DermRayError
from derm_ray.observability import WorkerLogs
from derm_ray.studies.reproduction.trials import Resources
from derm_ray.training.config import TrainConfig, config_from_json
from derm_ray.training.run.driver import train
from derm_ray.training.run.folder import BUNDLE
from derm_ray.training.run.worker import METRICS, NEVER_BEST, NO_SCORE

SCORE, EPOCH, LAST = "score", "epoch", "last"
"""What a trial reports of an epoch: its number, its score, and whether it is the trial's last."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials share; ``recipe`` is what their settings change, ``runs_uri`` the folder of their runs, and
    ``kind`` the prediction kind whose metrics compare them.
    """

    recipe: Mapping[str, Any]
    manifest: Manifest
    runs_uri: str
    init_weights: str | None
    cache: str | None
    resources: Resources
    logs: WorkerLogs
    kind: PredictionKind


class _EpochReports(TuneReportCallback):  # type: ignore[misc]
    """Reports finished epochs to Ray Tune, not checkpoints within one."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        del checkpoint
        epoch, score = metrics[0][EPOCH], metrics[0][SCORE]
        if score != NEVER_BEST:
            super().after_report(run_context, [_report(epoch, score, self._epochs)], None)


def _report(epoch: int, score: float, epochs: int) -> dict[str, Any]:
    return {EPOCH: epoch, SCORE: NO_SCORE if math.isnan(score) else score, LAST: epoch == epochs}


def epoch_scores(run_uri: str, config: TrainConfig, kind: PredictionKind) -> list[tuple[int, float]]:
    """Return the epochs a run has finished and their monitored metric of a kind, NaN where it is not defined."""
    uri = storage.join(run_uri, METRICS)
    if not storage.exists(uri):
        return []
    lines = [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
    name = f"{kind}/{config.monitor}"
    return [(line["epoch"], line.get(name, float("nan"))) for line in lines if "step" not in line]


def is_finished(run_uri: str) -> bool:
    """Return whether a run has sealed its bundle."""
    return storage.exists(storage.join(run_uri, BUNDLE, INDEX))


def run_trial(settings: dict[str, Any], task: TrialTask) -> None:
    """Train a trial, or the rest of it; what an earlier attempt has finished is reported again, which changes nothing.

    Raises:
        DermRayError: as the run raised it.
    """
    config = config_from_json({**task.recipe, **settings})
    name = tune.get_context().get_trial_id()
    run_uri = storage.join(task.runs_uri, name)
    for epoch, score in epoch_scores(run_uri, config, task.kind):
        tune.report(_report(epoch, score, config.epochs))
    if is_finished(run_uri):
        return
    # Outside the placement group of this trial, whose resources are its own: training takes others.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(_train).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    try:
        ray.get(remote.remote(config, name, task, _EpochReports(config.epochs)))
    except RayTaskError as error:
        if isinstance(error.cause, DermRayError):
            raise error.cause from None
        raise


def _train(config: TrainConfig, name: str, task: TrialTask, reports: _EpochReports) -> None:
    task.logs.begin()
    size = task.resources
    train(
        config,
        task.manifest,
        task.runs_uri,
        name,
        init_weights=task.init_weights,
        cache=task.cache,
        cache_limit_gib=size.cache_limit_gib,
        workers=size.workers,
        cpus_per_worker=size.cpus,
        use_gpu=size.use_gpu,
        callbacks=[reports],
    )
