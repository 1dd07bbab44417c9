"""Running the grid: every trial is a Ray Train run; as many run in parallel as fit on the cluster."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

import ray

from derm_ray import runtime, storage
from derm_ray.bundle import INDEX, load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import Split, label_set
from derm_ray.errors import DermRayError, ImageError, StorageError, WorkError, counted
from derm_ray.models.trunks import TRUNKS, Trunk
from derm_ray.models.weights import load_trunk_weights, read_init_weights
from derm_ray.studies.reproduction.grid import Trial
from derm_ray.studies.reproduction.predictions import TrialPredictions, read_predictions, write_predictions
from derm_ray.training.batches import labeled
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import LIMIT_GIB, FeatureCache
from derm_ray.training.run.cache import prepare_features
from derm_ray.training.run.driver import train
from derm_ray.training.run.predictions import predict_split

logger = logging.getLogger(__name__)

RUNS = "trials"
CACHE = "cache"
UNAVAILABLE = "not run: weights unavailable"


@dataclass(frozen=True)
class Resources:
    """Resources of one trial's training, with one GPU per worker if any, and the size limit of the feature cache."""

    workers: int = 1
    cpus: int = 1
    use_gpu: bool = False
    cache_limit_gib: float = LIMIT_GIB

    def trials_at_once(self) -> int:
        """Return how many trials the connected Ray holds; one CPU of each is left for reading."""
        there = ray.cluster_resources()
        trials = int(there.get("CPU", 1)) // (self.workers * self.cpus + 1)
        if self.use_gpu:
            trials = min(trials, int(there.get("GPU", 0)) // self.workers)
        return max(1, trials)


@dataclass(frozen=True)
class TrialOutcome:
    """Outcome of a trial: its predictions, or the problem."""

    trial: Trial
    predictions: TrialPredictions | None
    problem: str | None = None


@dataclass(frozen=True)
class Grid:
    """Runs trials of a validated manifest below one folder.

    Trunks without a safetensors file in ``init_weights`` use torchvision's download.
    """

    manifest: Manifest
    out_uri: str
    init_weights: Mapping[str, str]
    resources: Resources
    address: str | None = None

    def finished(self, trials: Sequence[Trial]) -> list[TrialOutcome]:
        """Return the finished trials of earlier calls."""
        read = ((trial, read_predictions(self._folder(trial))) for trial in trials)
        return [TrialOutcome(trial, predictions) for trial, predictions in read if predictions is not None]

    def seeds(self) -> list[int]:
        """Return the seeds of all trials in the folder."""
        folder = storage.join(self.out_uri, RUNS)
        names = {uri.removeprefix(folder).strip("/").split("/")[0] for uri in storage.list_files(folder)}
        endings = {name.rpartition("-seed")[2] for name in names if "-seed" in name}
        return sorted(int(ending) for ending in endings if ending.isdecimal())

    def run(self, trials: Sequence[Trial]) -> list[TrialOutcome]:
        """Run the unfinished trials, CAM networks first; one that fails does not stop the others."""
        done = {trial: read_predictions(self._folder(trial)) for trial in trials}
        problems: dict[Trial, str] = {}
        waiting = [trial for trial in trials if done[trial] is None]
        logger.info("%s, %d already done", counted(len(trials), "trial"), len(trials) - len(waiting))
        missing = self._missing_weights({trunk for trial in waiting for trunk in trial.trunks})
        problems |= {trial: UNAVAILABLE for trial in waiting if trial.trunks & missing}
        if len(problems) == len(trials):
            raise StorageError(
                "no trial can start: torchvision's ImageNet weights cannot be downloaded here. "
                "Give a local file with --init-weights."
            )
        if ready := [trial for trial in waiting if trial not in problems]:
            size = self.resources
            cpus = max(runtime.machine_cpus() * 2, size.workers * size.cpus + 2)
            with runtime.ray_session(self.address, num_cpus=cpus) as session:
                session.require(cpus=size.workers * size.cpus + 1, gpus=size.workers if size.use_gpu else 0)
                # Before the trials start, so that no two of them compute the same.
                configs = {(c.config.trunk, c.config.freeze): c.config for c in ready if c.cached}
                self._features(configs.values(), tuple(Split))
                for trial, result in self._run_all(ready).items():
                    if isinstance(result, TrialPredictions):
                        done[trial] = result
                    else:
                        problems[trial] = f"failed: {_publishable(result)}"
        return [TrialOutcome(trial, done[trial], problems.get(trial)) for trial in trials]

    def _missing_weights(self, trunks: set[str]) -> set[str]:
        """Return the trunks whose weights are available neither from a file nor from torchvision."""
        missing = set()
        for trunk in sorted(trunks):
            if TRUNKS[trunk].from_scratch:
                continue
            try:
                read_init_weights(trunk, self.init_weights.get(trunk))
            except StorageError as error:
                if trunk in self.init_weights:
                    raise
                logger.warning("%s", error)
                missing.add(trunk)
        return missing

    def _features(self, configs: Iterable[TrainConfig], splits: Sequence[Split]) -> list[dict[Split, FeatureCache]]:
        """Compute the features of some recipes, unless they are there; none removes the cache of another."""
        wanted = [
            (c, self._trunk(c), {split: labeled(self.manifest, split, label_set(c.label_set)) for split in splits})
            for c in configs
        ]
        folder, size = storage.join(self.out_uri, CACHE), self.resources
        return prepare_features(wanted, folder, limit_gib=size.cache_limit_gib, use_gpu=size.use_gpu)

    def _trunk(self, config: TrainConfig) -> Trunk:
        trunk = Trunk(config.trunk, config.tap, config.freeze)
        if not TRUNKS[config.trunk].from_scratch:
            uri = self.init_weights.get(config.trunk)
            load_trunk_weights(trunk, read_init_weights(config.trunk, uri), uri or "torchvision")
        return trunk

    def _run_all(self, trials: Sequence[Trial]) -> "dict[Trial, TrialPredictions | DermRayError]":
        at_once = self.resources.trials_at_once()
        logger.info("running %s, %d in parallel", counted(len(trials), "trial"), at_once)
        futures: dict[Trial, Future[TrialPredictions]] = {}
        results: dict[Trial, TrialPredictions | DermRayError] = {}
        executor = ThreadPoolExecutor(at_once)
        try:
            for trial in trials:
                futures[trial] = executor.submit(self._run, trial, futures.get(trial.cam) if trial.cam else None)
            for trial, future in futures.items():
                try:
                    results[trial] = future.result()
                except DermRayError as error:
                    results[trial] = error
                except Exception as error:
                    # A defect in one trial must not cost the hours of the others.
                    results[trial] = WorkError(f"{type(error).__name__}: {error}")
                    logger.debug("%s", trial.name, exc_info=error)
                if isinstance(results[trial], DermRayError):
                    logger.warning("%s failed: %s", trial.name, results[trial])
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        return results

    def _run(self, trial: Trial, cam: "Future[TrialPredictions] | None") -> TrialPredictions:
        """Train a trial if necessary, predict the test split, and save the predictions."""
        if cam is not None and (error := cam.exception()) is not None:
            raise WorkError(f"its CAM network failed: {error}") from error
        began, size, config = monotonic(), self.resources, trial.config
        bundle_uri = storage.join(self._folder(trial), "bundle")
        if not storage.exists(storage.join(bundle_uri, INDEX)):
            train(
                config,
                self.manifest,
                storage.join(self.out_uri, RUNS),
                trial.name,
                init_weights=self.init_weights.get(config.trunk),
                cam=storage.join(self._folder(trial.cam), "bundle") if trial.cam is not None else None,
                cache=storage.join(self.out_uri, CACHE) if trial.cached else None,
                cache_limit_gib=size.cache_limit_gib,
                workers=size.workers,
                cpus_per_worker=size.cpus,
                use_gpu=size.use_gpu,
            )
        labels = label_set(config.label_set)
        model = load_bundle(bundle_uri)
        test = labeled(self.manifest, Split.TEST, labels, model.patient)
        # Of one view of each image; with test-time augmentation, the images are read.
        cached = trial.cached and model.tta == "none"
        features = self._features([config], [Split.TEST])[0][Split.TEST] if cached else None
        predicted = predict_split(model, config, test, features, use_gpu=size.use_gpu)
        metadata = {
            "model_digest": model.model_digest,
            "best_epoch": model.provenance["best_epoch"],
            "last_run_seconds": round(monotonic() - began, 1),
            "temperatures": {str(kind): value for kind, value in model.calibration.temperatures.items()},
            "offsets": {str(kind): list(values) for kind, values in model.calibration.offsets.items()},
        }
        predictions = TrialPredictions(
            labels,
            tuple(pair.pair_id for pair in test.pairs),
            tuple(pair.lesion_id for pair in test.pairs),
            test.labels,
            predicted.given,
            predicted.swapped,
            metadata,
        )
        write_predictions(predictions, self._folder(trial))
        logger.info("%s  done in %.0f s", trial.name, metadata["last_run_seconds"])
        return predictions

    def bundle_uri(self, row: str, seed: int) -> str:
        """Return the URI of a row's bundle for one seed."""
        return storage.join(self.out_uri, RUNS, f"{row}-seed{seed}", "bundle")

    def _folder(self, trial: Trial) -> str:
        return storage.join(self.out_uri, RUNS, trial.name)


def _publishable(error: DermRayError) -> str:
    """Return an error's text for the report, which must not name patients' images; the log has all of it."""
    if isinstance(error, ImageError):
        return f"an image cannot be used ({error.code}); the log names it"
    return str(error)
