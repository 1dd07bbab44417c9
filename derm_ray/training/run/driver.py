"""The driver's side of a training run: checks, Ray Train, and the sealed bundle."""

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.exceptions
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from derm_ray import __version__, bundle, errors, runtime, storage
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.validation import validate
from derm_ray.errors import ConfigError, OutputExistsError, TrainingError
from derm_ray.models.networks import PairNetwork
from derm_ray.models.zoo import build_network, load_init_weights
from derm_ray.training.batches import check_batch_size
from derm_ray.training.config import TrainConfig
from derm_ray.training.run.feed import LabelledPairs
from derm_ray.training.run.worker import STATE, WorkerTask, train_worker
from derm_ray.vocabulary import LabelSet, Split, label_set

logger = logging.getLogger(__name__)

CONFIG = "config.json"
BUNDLE = "bundle"
COLLECTIVE_TIMEOUT_S = 600


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run lies and how good its best epoch was on val.

    Attributes:
        run_uri, bundle_uri: folders.
        model_digest: of the sealed bundle.
        best_epoch: counted from 1.
        metrics: validation figures of that epoch, ``<kind>/<figure>``.
    """

    run_uri: str
    bundle_uri: str
    model_digest: str
    best_epoch: int
    metrics: dict[str, float]


def train(
    config: TrainConfig,
    manifest: Manifest,
    out_uri: str,
    name: str,
    *,
    init_weights: str | None = None,
    workers: int = 1,
    cpus_per_worker: int | None = None,
    use_gpu: bool = False,
    max_failures: int = 3,
    overwrite: bool = False,
    address: str | None = None,
) -> TrainResult:
    """Train a model, resuming the run of that name where there is one.

    Args:
        config: the recipe.
        manifest: pairs with both images, diagnosis and split; ``test`` is never read.
        out_uri: the folder that holds runs.
        name: the run's folder below it.
        init_weights: ImageNet weights of the trunk (safetensors, torchvision's key names); ``None`` is
            torchvision's download. The tiny trunk takes none.
        workers: data-parallel workers; the global batch does not depend on it.
        cpus_per_worker: CPUs, and torch threads, of each; ``None`` shares out the machine on a local Ray and is
            1 on a cluster.
        use_gpu: one GPU per worker, nccl; otherwise gloo.
        max_failures: dead workers to survive.
        overwrite: remove a finished or different run of that name first.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.

    Raises:
        ManifestError, ConfigError, StorageError: the input is not fit to train on.
        OutputExistsError: the name is taken by a finished run, another recipe or something else.
        TrainingError: the run stopped; its last good checkpoint is kept.
    """
    labels = label_set(config.label_set)
    out_uri = storage.absolute(out_uri)
    run_uri = storage.join(out_uri, name)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit.")
    validate(manifest, labels, complete=(Split.TRAIN, Split.VAL))
    splits = {split: _labelled(manifest, split, labels) for split in (Split.TRAIN, Split.VAL)}
    check_batch_size(len(splits[Split.TRAIN]), config.global_batch_size, workers)
    network = _initial_network(config, init_weights)
    local_cpus = cpus_per_worker or max(1, runtime.machine_cpus() // workers)
    # Ray Data's decoding needs CPUs beside those that Ray Train reserves for its workers.
    spare = max(2, runtime.machine_cpus() // 2)
    with runtime.ray_session(address, num_cpus=workers * local_cpus + spare) as session:
        cpus = cpus_per_worker or session.cpus_each(local_cpus)
        session.require(cpus=workers * cpus + 1, gpus=workers if use_gpu else 0)
        _claim(run_uri, _description(config, manifest, init_weights), overwrite=overwrite)
        with _announcer() as announcer:
            task = WorkerTask(
                config=config,
                run_uri=run_uri,
                initial=ray.put(network.state_dict()),
                train=ray.put(splits[Split.TRAIN]),
                val=ray.put(splits[Split.VAL]),
                announcer=announcer,
                use_gpu=use_gpu,
            )
            result = _fit(task, out_uri, name, workers=workers, cpus=cpus, use_gpu=use_gpu, max_failures=max_failures)
    checkpoint, metrics = result.best_checkpoints[-1]
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
    figures = {key: value for key, value in metrics.items() if "/" in key}
    provenance = {
        **_description(config, manifest, init_weights),
        "manifest_uri": manifest.uri,
        "best_epoch": metrics["epoch"],
        "workers": workers,
        "metrics": figures,
    }
    digest = bundle.seal_bundle(
        storage.join(run_uri, BUNDLE),
        network=config.architecture,
        label_set=labels,
        preprocessing=config.preprocessing,
        weights=state["loop"]["network"],
        provenance=provenance,
    )
    return TrainResult(run_uri, storage.join(run_uri, BUNDLE), digest, int(metrics["epoch"]), figures)


def _labelled(manifest: Manifest, split: Split, labels: LabelSet) -> LabelledPairs:
    pairs = tuple(require_split(manifest, split).pairs())
    return LabelledPairs(pairs, tuple(labels.class_names.index(str(pair.diagnosis)) for pair in pairs))


def _description(config: TrainConfig, manifest: Manifest, init_weights: str | None) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "derm_ray_version": __version__,
        "manifest_digest": manifest.digest,
        "init_weights": init_weights,
        "training": config.to_json(),
    }


def _claim(run_uri: str, description: dict[str, Any], *, overwrite: bool) -> None:
    """Make the run's folder ours: a new one, or one that the same recipe has left unfinished."""
    config_uri = storage.join(run_uri, CONFIG)
    if overwrite and storage.exists(config_uri):
        storage.remove_tree(run_uri)
    if storage.exists(storage.join(run_uri, BUNDLE, bundle.INDEX)):
        raise OutputExistsError(f"{run_uri} holds a finished run. Choose another --name, or give --overwrite.")
    if not storage.exists(config_uri):
        if storage.list_files(run_uri):
            raise OutputExistsError(f"{run_uri} holds files that are no run of derm_ray. Choose another --name.")
        storage.write_json(config_uri, description)
        return
    if changes := _differences(storage.read_json(config_uri), description):
        raise OutputExistsError(
            f"{run_uri} holds an unfinished run with other settings: {'; '.join(changes)}. "
            "Give the same settings to resume it, another --name, or --overwrite."
        )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} was {json.dumps(before)}, now {json.dumps(after)}")
    return changes


def _initial_network(config: TrainConfig, init_weights: str | None) -> PairNetwork:
    torch.manual_seed(config.seed)
    network = build_network(config.architecture, freeze=config.freeze, dropout=config.dropout)
    if config.trunk != "tiny":
        load_init_weights(network, init_weights)
    elif init_weights is not None:
        raise ConfigError("the tiny trunk is trained from scratch; leave --init-weights out, or choose trunk=vgg16.")
    return network


class _Announcer:
    """Carries progress lines from workers to the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def say(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def _announcer() -> Iterator[Any]:
    """Log workers' lines as they come, until the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Announcer).remote()
    ended = threading.Event()

    def listen() -> None:
        while True:
            last = ended.wait(0.5)
            for line in ray.get(actor.take.remote()):
                logger.info(line)
            if last:
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join(timeout=10)
        ray.kill(actor)


def _fit(
    task: WorkerTask, out_uri: str, name: str, *, workers: int, cpus: int, use_gpu: bool, max_failures: int
) -> "ray.train.Result":
    filesystem, path = storage.filesystem(out_uri)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except (TrainingFailedError, ray.exceptions.RayActorError) as error:
        raise TrainingError(
            f"the run stopped: {_cause(error)}. Its checkpoints are kept in {task.run_uri}; the same command resumes."
        ) from error
    if result.return_value is not None:
        kind = getattr(errors, result.return_value["type"])
        raise _rebuilt(kind, result.return_value["message"], task.run_uri)
    return result


def _rebuilt(kind: type[errors.DermRayError], message: str, run_uri: str) -> errors.DermRayError:
    if issubclass(kind, TrainingError):
        return TrainingError(f"{message} Checkpoints of the epochs before are kept in {run_uri}.")
    return errors.InputError(message)


def _cause(error: BaseException) -> str:
    """Return the last line of what the first failed worker raised."""
    if isinstance(error, WorkerGroupError):
        rank, cause = next(iter(error.worker_failures.items()))
        return f"worker {rank}: " + str(cause).strip().splitlines()[-1].rstrip(".")
    return str(error).strip().splitlines()[-1].rstrip(".")
