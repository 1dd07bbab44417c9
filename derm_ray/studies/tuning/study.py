"""A search for a recipe: Ray Tune with Optuna's proposals and ASHA's early stops (Li et al. 2020)."""

import importlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from derm_ray import runtime, storage
from derm_ray.data.labels import collapse
from derm_ray.data.manifest import Manifest
from derm_ray.data.validation import validate
from derm_ray.domain import PredictionKind, Split, label_set
from derm_ray.errors import ConfigError, OutputExistsError, TrainingError, counted
from derm_ray.lease import hold
from derm_ray.observability import WorkerLogs
from derm_ray.studies.reproduction.trials import Resources
from derm_ray.studies.tuning.report import TrialRow, plot_png, ranked, short, table_csv
from derm_ray.studies.tuning.space import Space, domains, most_epochs
from derm_ray.studies.tuning.trial import EPOCH, LAST, SCORE, TrialTask, epoch_scores, is_finished, run_trial
from derm_ray.training.batches import check_batch_size, labeled
from derm_ray.training.config import TrainConfig, config_from_json
from derm_ray.training.recipe import write_recipe
from derm_ray.training.run.cache import common_stem
from derm_ray.training.run.folder import INVOCATIONS, differences, run_folder
from derm_ray.training.start import make_start

logger = logging.getLogger(__name__)

SEARCH = "search.json"
RUNS = "runs"
STATE = "state"
BEST, TABLE, PLOT = "best.yaml", "trials.csv", "trials.png"
REDUCTION = 3
"""Of trials that reach a ninth, and a third, of the epochs, one in so many goes on."""
_TRIAL_CPUS = 0.01
_ARCHITECTURE = {"network", "trunk", "head", "tap", "rank", "cam_mode", "size", "freeze"}
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs log themselves
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints to standard output
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass(frozen=True)
class SearchResult:
    """A finished search: its trials, best first, the best recipe, and the files they are in."""

    trials: tuple[TrialRow, ...]
    best: TrainConfig
    best_uri: str
    table_uri: str
    plot_uri: str


def search(
    config: TrainConfig,
    space: Space,
    manifest: Manifest,
    out_uri: str,
    name: str,
    *,
    trials: int,
    init_weights: str | None = None,
    cache: str | None = None,
    resources: Resources = Resources(),
    address: str | None = None,
) -> SearchResult:
    """Search a space of recipes, or go on with the search of that name; failed trials are repeated then.

    As many trials run at once as the cluster holds. Each is a training run below ``<out>/<name>/runs``.

    Args:
        config: the recipe that trials change; its ``monitor`` compares them.
        space: of :func:`derm_ray.studies.tuning.space.read_space`.
        manifest, init_weights, cache: as of :func:`derm_ray.training.run.driver.train`.
        out_uri, name: the search's folder, and its name below it.
        trials: how many recipes to try.
        resources: of each trial.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.

    Raises:
        ManifestError, ConfigError, StorageError: the input is not usable.
        OutputExistsError: the folder holds another search or something else, or another process works on it.
        TrainingError: no trial trained an epoch.
    """
    _require_optuna()
    uri = run_folder(out_uri, name)
    _check(config, space, manifest, init_weights, cache, resources)
    cpus = max(runtime.machine_cpus() * 2, resources.workers * resources.cpus + 2)
    with runtime.ray_session(address, num_cpus=cpus) as session:
        gpus = resources.workers if resources.use_gpu else 0
        session.require(cpus=resources.workers * resources.cpus + 2, gpus=gpus, worker_cpus=resources.cpus)
        with hold(storage.join(uri, INVOCATIONS)) as lease:
            description = {
                "manifest_digest": manifest.digest,
                "init_weights": init_weights,
                "trials": trials,
                "space": {name: of if isinstance(of, tuple) else list(of) for name, of in space.items()},
                "recipe": config.to_json(),
            }
            _claim(uri, description)
            task = TrialTask(
                config.to_json(),
                manifest.absolute(),
                storage.join(uri, RUNS),
                init_weights,
                cache,
                resources,
                WorkerLogs.like_here(None),
                labeled(manifest, Split.VAL, label_set(config.label_set)).kind,
            )
            with _quiet():
                found = _tune(task, config, space, uri, trials)
            lease.check()
            return _report(found, config, space, uri, task.kind)


def _require_optuna() -> None:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError("derm-ray tune needs the package optuna: pip install 'derm-ray[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _check(
    config: TrainConfig,
    space: Space,
    manifest: Manifest,
    init_weights: str | None,
    cache: str | None,
    resources: Resources,
) -> None:
    """Refuse what no trial could train on; what depends on drawn settings fails the trials that draw them."""
    labels = label_set(config.label_set)
    validate(collapse(manifest, labels, coarse=(Split.TRAIN,)), labels, labeled=(Split.TRAIN, Split.VAL))
    if "global_batch_size" not in space:
        check_batch_size(len(labeled(manifest, Split.TRAIN, labels)), config.global_batch_size, resources.workers)
    if not _ARCHITECTURE & space.keys():
        start = make_start(config, init_weights, None)
        if cache is not None:
            common_stem(config, start.network)


def _claim(uri: str, description: Mapping[str, Any]) -> None:
    """Claim the search's folder: a new one, or that of the same search."""
    record = storage.join(uri, SEARCH)
    if storage.exists(record):
        if changes := differences(storage.read_json(record), _as_json(description)):
            raise OutputExistsError(
                f"{uri} contains another search: {'; '.join(changes)}. Use the same space, recipe and number of "
                "trials to go on with it, or another --name."
            )
    elif any(storage.parent(one).rpartition("/")[2] != INVOCATIONS for one in storage.list_files(uri)):
        raise OutputExistsError(f"{uri} contains files that are not a search. Choose another --name.")
    else:
        storage.write_json(record, description)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave reports and signals to derm_ray while Ray Tune works."""
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    own = logging.getLogger("ray.tune")
    before = own.level
    own.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        own.setLevel(before)


class _Scheduler(ASHAScheduler):  # type: ignore[misc]
    """Lets a trial end by itself after its last epoch, with a bundle."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if result[LAST] else str(decision)


class _Lines(tune.Callback):  # type: ignore[misc]
    """Logs a line per epoch of each trial, and its end."""

    def on_trial_result(self, *_: Any, trial: Any, result: dict[str, Any], **__: Any) -> None:
        logger.info("trial %s  epoch %d  score %.4f", trial.trial_id, result[EPOCH], result[SCORE])

    def on_trial_complete(self, *_: Any, trial: Any, **__: Any) -> None:
        logger.info("trial %s  done; %s", trial.trial_id, _settings(trial.config))

    def on_trial_error(self, *_: Any, trial: Any, **__: Any) -> None:
        logger.warning("trial %s failed; %s", trial.trial_id, _settings(trial.config))


def _settings(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in config.items())


def _tune(task: TrialTask, config: TrainConfig, space: Space, uri: str, trials: int) -> list[TrialRow]:
    from ray.tune.search.optuna import OptunaSearch  # imports Optuna

    at_once = min(trials, task.resources.trials_at_once())
    logger.info("%s, %d at once", counted(trials, "trial"), at_once)
    filesystem, path = storage.filesystem(uri)
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    trainable = tune.with_resources(tune.with_parameters(run_trial, task=task), {"CPU": _TRIAL_CPUS})
    state = f"{path}/{STATE}"
    if tune.Tuner.can_restore(state, storage_filesystem=arrow):
        tuner = tune.Tuner.restore(state, trainable, resume_errored=True, storage_filesystem=arrow)
    else:
        epochs = most_epochs(space, config)
        tuner = tune.Tuner(
            trainable,
            param_space=domains(space),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=at_once,
                search_alg=OptunaSearch(seed=config.seed),
                scheduler=_Scheduler(
                    time_attr=EPOCH,
                    max_t=epochs,
                    grace_period=max(1, round(epochs / REDUCTION**2)),
                    reduction_factor=REDUCTION,
                ),
                trial_dirname_creator=_folder_of,
            ),
            run_config=tune.RunConfig(
                name=STATE, storage_path=path, storage_filesystem=arrow, verbose=0, callbacks=[_Lines()]
            ),
        )
    return [_row(result, task, config) for result in tuner.fit()]


def _folder_of(trial: Any) -> str:
    return str(trial.trial_id)


def _row(result: Any, task: TrialTask, config: TrainConfig) -> TrialRow:
    name = result.path.rstrip("/").rpartition("/")[2]
    run_uri = storage.join(task.runs_uri, name)
    problem = None if result.error is None else _problem(result.error)
    state = "failed" if problem else "finished" if is_finished(run_uri) else "stopped"
    return TrialRow(name, state, dict(result.config), tuple(epoch_scores(run_uri, config, task.kind)), run_uri, problem)


def _problem(error: BaseException) -> str:
    """Return the last line, without the class that Ray writes before an error of derm_ray."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^derm_ray\.errors\.\w+: ", "", lines[-1])


def _report(
    found: Sequence[TrialRow], config: TrainConfig, space: Space, uri: str, kind: PredictionKind
) -> SearchResult:
    rows = ranked(found)
    if rows[0].best[0] is None:
        raise TrainingError(f"no trial has a {config.monitor}; the first: {rows[0].problem or 'not defined on val'}")
    best = config_from_json({**config.to_json(), **rows[0].settings})
    uris = [storage.join(uri, file) for file in (BEST, TABLE, PLOT)]
    storage.write_bytes(uris[1], table_csv(rows).encode())
    storage.write_bytes(uris[2], plot_png(rows, space, f"{kind} {config.monitor}"))
    storage.write_bytes(uris[0], write_recipe(best).encode())
    return SearchResult(tuple(rows), best, *uris)


def _as_json(value: Any) -> Any:
    """Return a value as it is once written and read."""
    return json.loads(json.dumps(value))
