"""The driver's side of a training run: checks, Ray Train, and the sealed bundle."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
import ray
import ray.exceptions
import torch
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from derm_ray import bundle, ray_internals, runtime, storage
from derm_ray.data.labels import collapse, left_out
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.patient import PatientEncoder
from derm_ray.data.patient_columns import fit_encoder
from derm_ray.data.prepared import is_prepared, require_size
from derm_ray.data.summary import few_lesions
from derm_ray.data.validation import validate
from derm_ray.domain import Calibration, PredictionKind, Split, label_set
from derm_ray.errors import ConfigError, InputError, TrainingError
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.evaluate import finite_metrics
from derm_ray.evaluation.stored_predictions import write_predictions
from derm_ray.lease import Lease, hold
from derm_ray.models.factory import NetworkConfig
from derm_ray.observability import WorkerLogs, working_for
from derm_ray.training.batches import LabeledPairs, check_batch_size, labeled
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import LIMIT_GIB
from derm_ray.training.loop import sealed_weights
from derm_ray.training.modalities import modality_warnings
from derm_ray.training.run.cache import common_stem, prepare_features
from derm_ray.training.run.folder import BUNDLE, INVOCATIONS, VAL, claim, describe, run_folder
from derm_ray.training.run.pair_predictions import predict_pairs, stored
from derm_ray.training.run.process_group import AddressedTorchConfig
from derm_ray.training.run.progress_relay import relay_progress
from derm_ray.training.run.reference import make_reference, measure_images
from derm_ray.training.run.teacher import learn_from, load_teacher
from derm_ray.training.run.tracking import TrackedRun, send_to, tracking_uri
from derm_ray.training.run.worker import WorkerTask, read_state, train_worker
from derm_ray.training.start import make_start

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT_S = 600
STARTS = 120
"""Attempts to start workers, one minute each, while the cluster lacks resources."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run, and the validation metrics of its best epoch, ``<kind>/<metric>``; ``kind`` judged it.

    ``run_id`` was created at the first start and is recorded in the bundle; ``best_epoch`` counts from 1 and is
    ``None`` for folds.
    """

    run_uri: str
    bundle_uri: str
    run_id: str
    model_digest: str
    best_epoch: int | None
    metrics: dict[str, float]
    kind: PredictionKind


def train(
    config: TrainConfig,
    manifest: Manifest,
    out_uri: str,
    name: str,
    *,
    init_weights: str | None = None,
    cam: str | None = None,
    teacher: str | None = None,
    cache: str | None = None,
    cache_limit_gib: float = LIMIT_GIB,
    workers: int = 1,
    max_workers: int | None = None,
    cpus_per_worker: int | None = None,
    use_gpu: bool = False,
    max_failures: int = 3,
    track: str | None = None,
    overwrite: bool = False,
    address: str | None = None,
    encoder: PatientEncoder | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TrainResult:
    """Train a model, resuming the run of that name where there is one.

    Args:
        config: the recipe.
        manifest: lesions with at least one image, diagnosis and split; ``test`` is never read. Diagnoses may
            be of any label set; those of train may be coarse for the recipe's.
        out_uri: the folder that holds runs.
        name: the run's folder below it.
        init_weights: ImageNet weights of the trunk (safetensors, torchvision's key names); ``None`` is
            torchvision's download. The tiny trunk takes none.
        cam: bundle of the CAM network of a ``cam_bp`` head, trained with ``head=cam``.
        teacher: bundle of the same classes, whose probabilities are learned beside the labels.
        cache: folder that keeps the frozen layers' activations, so that they are computed once.
        cache_limit_gib: limit of that folder; least recently used caches are removed first.
        workers: data-parallel workers; the global batch does not depend on it.
        max_workers: if above ``workers``: use up to this many, as resources allow; the run restarts from its last
            checkpoint whenever the number changes.
        cpus_per_worker: CPUs, and torch threads, of each; ``None`` shares out the machine on a local Ray and is
            1 on a cluster.
        use_gpu: one GPU per worker, nccl; otherwise gloo.
        max_failures: dead or stuck workers to survive; those on nodes that were taken away with notice are not counted.
        track: ``mlflow:URI`` of the tracking server that metrics and bundle are sent to as well.
        overwrite: remove a finished or different run of that name first.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.
        callbacks: of Ray Train, called with every report.

    Raises:
        ManifestError, ConfigError, StorageError: the input is not usable for training.
        OutputExistsError: the name is taken by a finished run, another recipe or something else, or another process
            is working on it.
        TrainingError: the run stopped; its last good checkpoint is kept.
    """
    tracker = tracking_uri(track) if track is not None else None
    labels = label_set(config.label_set)
    out_uri = storage.absolute(out_uri)
    run_uri = run_folder(out_uri, name)
    require_size(manifest, config.preprocessing, "the recipe's size")
    collapsed = collapse(manifest, labels, coarse=(Split.TRAIN,))
    validate(collapsed, labels, labeled=(Split.TRAIN, Split.VAL))
    if encoder is None and config.patient_fields:
        encoder = fit_encoder(config.patient_fields, manifest, require_split(collapsed, Split.TRAIN))
    splits = {split: labeled(manifest, split, labels, encoder) for split in (Split.TRAIN, Split.VAL)}
    most = workers if max_workers is None else max_workers
    if most < workers:
        raise ConfigError(f"--max-workers {most} is below --workers {workers}. Raise it, or remove it.")
    check_batch_size(len(splits[Split.TRAIN]), config.global_batch_size, most, config.accumulation)
    start = make_start(config, init_weights, cam, encoder)
    for split in splits:
        for sentence in left_out(manifest, labels, split):
            logger.warning("%s", sentence)
        if warning := few_lesions(collapsed, labels, split):
            logger.warning("%s", warning)
    if cache is not None and any(pair.has_several for part in splits.values() for pair in part.listed):
        raise ConfigError("--cache: each epoch draws one of a lesion's several images of a modality. Train without it.")
    for warning in modality_warnings(splits[Split.TRAIN].present, splits[Split.VAL].present, config.network):
        logger.warning("%s", warning)
    stem = common_stem(config, start.network) if cache is not None else None
    taught = load_teacher(teacher, labels, manifest) if teacher is not None else None
    description = describe(config, manifest, init_weights, start, taught.model_digest if taught else None)
    if encoder is not None:
        vectors = [storage.sha256(part.patient.tobytes()) for part in splits.values() if part.patient is not None]
        description["patient_data_digest"] = storage.digest([encoder.to_json(), *vectors])
    local_cpus = cpus_per_worker or max(1, runtime.machine_cpus() // most)
    # The tasks that load need CPUs in addition to those that Ray Train reserves for its workers.
    spare = max(2, runtime.machine_cpus() // 2)
    with runtime.ray_session(address, num_cpus=most * local_cpus + spare) as session:
        cpus = cpus_per_worker or session.cpus_each(local_cpus)
        session.require(cpus=workers * cpus + 1, gpus=workers if use_gpu else 0, worker_cpus=cpus)
        with hold(storage.join(run_uri, INVOCATIONS)) as lease:
            started = claim(run_uri, description, overwrite=overwrite)
            tracked = TrackedRun.of(run_uri, name, started["run_id"], config, manifest)
            with working_for(started["run_id"]), relay_progress(name) as relay, send_to(tracker, tracked):
                logger.info("%s  run %s", name, started["run_id"])
                if taught is not None:
                    splits[Split.TRAIN] = learn_from(taught, splits[Split.TRAIN], manifest, run_uri, use_gpu=use_gpu)
                features = None
                if cache is not None and stem is not None:
                    wanted = [(config, stem, splits)]
                    (features,) = prepare_features(wanted, cache, limit_gib=cache_limit_gib, use_gpu=use_gpu)
                task = WorkerTask(
                    config=config,
                    class_counts=splits[Split.TRAIN].class_counts,
                    run_uri=run_uri,
                    network=ray.put(start.network),
                    train=ray.put(splits[Split.TRAIN]),
                    val=ray.put(splits[Split.VAL]),
                    features=features,
                    patient=encoder,
                    relay=relay,
                    logs=WorkerLogs.like_here(started["run_id"]),
                    use_gpu=use_gpu,
                    threads=cpus,
                )
                scaling = ScalingConfig(
                    num_workers=(workers, most) if most > workers else workers,
                    use_gpu=use_gpu,
                    resources_per_worker={"CPU": cpus},
                )
                result = _fit(task, out_uri, name, scaling, max_failures, callbacks)
                provenance = {
                    **description,
                    **started,
                    "manifest_uri": manifest.uri,
                    "workers": workers if most == workers else f"{workers} to {most}",
                }
                prepared = is_prepared(manifest)
                trained = _save_bundle(task, start.architecture, result, splits, provenance, lease, prepared=prepared)
                tracked.best = trained.metrics
                return trained


class _Trainer(TorchTrainer):  # type: ignore[misc]
    def _register_sigint_handler(self, controller: object) -> None:
        """Leave Ctrl-C to the command: Ray's handler would exit silently with code 1."""


def _fit(
    task: WorkerTask,
    out_uri: str,
    name: str,
    scaling: ScalingConfig,
    max_failures: int,
    callbacks: Sequence[UserCallback],
) -> "ray.train.Result":
    filesystem, path = storage.filesystem(out_uri)
    trainer = _Trainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=AddressedTorchConfig(backend="nccl" if task.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=scaling,
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=STARTS),
        ),
    )
    try:
        result = trainer.fit()
    except (TrainingFailedError, ray.exceptions.RayActorError) as error:
        raise TrainingError(
            f"the run stopped: {_cause(error)}. Its checkpoints are kept in {task.run_uri}; the same command resumes."
        ) from error
    if isinstance(result.return_value, TrainingError):
        raise TrainingError(f"{result.return_value} Checkpoints of earlier epochs are kept in {task.run_uri}.")
    if result.return_value is not None:
        raise InputError(str(result.return_value))
    return result


def _save_bundle(
    task: WorkerTask,
    architecture: NetworkConfig,
    result: "ray.train.Result",
    splits: dict[Split, LabeledPairs],
    provenance: dict[str, Any],
    lease: Lease,
    *,
    prepared: bool,
) -> TrainResult:
    """Save the kept epoch's model as a bundle, with its calibration and drift reference."""
    config, labels = task.config, label_set(task.config.label_set)
    images = measure_images(
        [pair for split in splits.values() for pair in split.pairs], config.preprocessing, config.seed
    )
    checkpoint, metrics = result.best_checkpoints[-1]
    state = read_state(checkpoint, torch.device("cpu"))
    scores = {PredictionKind(kind): values.numpy() for kind, values in state["val"].items()}
    epoch = int(metrics["epoch"])
    metrics = {key: value for key, value in metrics.items() if "/" in key}
    model: dict[str, Any] = {
        "network": architecture,
        "label_set": labels,
        "preprocessing": config.preprocessing,
        "weights": sealed_weights(state["loop"]),
        "tta": config.tta,
        "patient": task.patient,
    }
    val = splits[Split.VAL]
    if config.tta != "none" or any(pair.has_several for pair in val.pairs):
        draft = bundle.Bundle(**model, calibration=Calibration(), model_digest="", provenance={}, uri="")
        scores = predict_pairs(draft, val.pairs, use_gpu=task.use_gpu)
        metrics = finite_metrics(labels, val.labels, scores)
    calibration = fit_calibration(labels, val.labels, scores, config.decide)
    write_predictions(stored(labels, val, scores), storage.join(task.run_uri, VAL))
    uri = storage.join(task.run_uri, BUNDLE)
    lease.check()
    digest = bundle.save_bundle(
        uri,
        **model,
        provenance={**provenance, "best_epoch": epoch, "metrics": metrics},
        calibration=calibration,
        reference=make_reference(labels, scores, calibration, images, prepared=prepared),
    )
    return TrainResult(task.run_uri, uri, provenance["run_id"], digest, epoch, metrics, val.kind)


def _cause(error: BaseException) -> str:
    """Return the first cause in one line: a frozen worker, if any, else the lowest rank."""
    if not isinstance(error, WorkerGroupError):
        return _last_line(error)
    for rank, cause in error.worker_failures.items():
        if isinstance(cause, ray_internals.worker_silent_error()):
            return f"worker {rank} was frozen and did not respond"
    rank, cause = next(iter(error.worker_failures.items()))
    return f"worker {rank}: {_last_line(cause)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rstrip(".")
