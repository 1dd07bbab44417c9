"""The training worker that Ray Train runs."""

import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from derm_ray import storage
from derm_ray.data.patient import PatientEncoder
from derm_ray.domain import Split, label_set
from derm_ray.errors import DermRayError, StorageError
from derm_ray.evaluation.evaluate import finite_metrics
from derm_ray.evaluation.metrics import number_text
from derm_ray.models.networks import PairNetwork
from derm_ray.observability import Progress, WorkerLogs
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Batch, Dropout, Indices, LabeledPairs, evaluation_order, training_order
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import FeatureCache
from derm_ray.training.loop import KindProbabilities, TrainingLoop
from derm_ray.training.modality_dropout import ModalityDropout
from derm_ray.training.patient_dropout import PatientDropout
from derm_ray.training.run.data_loading import batches
from derm_ray.training.run.metrics import TrainingMetrics
from derm_ray.training.tensorboard import tensorboard_events
from derm_ray.training.watchdog import Watchdog

logger = logging.getLogger(__name__)

STATE = "state.pt"
METRICS = "metrics.jsonl"
EVENTS = "tensorboard/events.out.tfevents.derm_ray"
REPORT_INTERVAL_S = 10.0
PREEMPTION_CHECK_INTERVAL_S = 5.0
"""Interval of checks for a preemption notice; Ray Train itself checks as often."""
NEVER_BEST = -2.0
"""Score of a checkpoint within an epoch, lower than ``NO_SCORE``."""
NO_SCORE = -1.0
LONG_VALIDATION_S = 30.0
"""If validation takes longer, the epoch is also saved before it: a preemption notice may be shorter."""


@dataclass(frozen=True)
class WorkerTask:
    """Task of every worker.

    Attributes:
        class_counts: pairs of each class in train (K,).
        run_uri: the run's folder.
        network: with its initial weights.
        features: the splits' activations; ``None`` reads images.
        patient: encoding of patient data; ``None``: the network uses none.
        relay: the actor that carries progress lines to the driver.
        logs: how the worker itself logs.
        use_gpu: run on the GPU that Ray assigned; otherwise on CPU, also where a GPU is visible.
        threads: of torch, regardless of ``OMP_NUM_THREADS``.
    """

    config: TrainConfig
    class_counts: npt.NDArray[np.float64]
    run_uri: str
    network: "ray.ObjectRef[PairNetwork]"
    train: "ray.ObjectRef[LabeledPairs]"
    val: "ray.ObjectRef[LabeledPairs]"
    features: Mapping[Split, FeatureCache] | None
    patient: PatientEncoder | None
    relay: Any
    logs: WorkerLogs
    use_gpu: bool
    threads: int


def read_state(checkpoint: ray.train.Checkpoint, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint directly from its storage.

    Ray Train's own copies share a folder per node, so that one worker may replace what another one reads.
    """
    with checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{STATE}") as file:
        held = io.BytesIO(file.read())
    state: dict[str, Any] = torch.load(held, map_location=device, weights_only=True)
    return state


def train_worker(settings: dict[str, Any]) -> DermRayError | None:
    """Train, validate and report until the last epoch.

    Returns:
        ``None``, or an error that a restart cannot fix; every rank returns it, so that Ray does not retry.
    """
    task: WorkerTask = settings["task"]
    task.logs.begin()
    torch.set_num_threads(task.threads)
    try:
        worker = _Worker(task)
        with worker.watchdog.watch():
            worker.run()
    except DermRayError as error:
        return error
    return None


class _Worker:
    def __init__(self, task: WorkerTask) -> None:
        self.task = task
        self.config = task.config
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.train: LabeledPairs = ray.get(task.train)
        self.val: LabeledPairs = ray.get(task.val)
        self.kind = self.val.kind
        self.metrics = TrainingMetrics(context.get_experiment_name(), self.rank)
        self.history: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.first_epoch = 0
        self.preemption_notice = False
        self.validation_s = 0.0
        self.preemption_checked_s = time.monotonic()
        self.watchdog = Watchdog(self._report_stall)
        network = ray.get(task.network)
        device = get_device() if task.use_gpu else torch.device("cpu")
        self.loop = TrainingLoop(self.config, network, device, task.class_counts, self.watchdog)
        self._resume()
        logger.info("worker %d of %d is ready to train, %d threads", self.rank, self.world_size, task.threads)

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        state = read_state(checkpoint, self.loop.device)
        self.loop.load_state_dict(state["loop"])
        self.first_epoch = state["epoch"]
        self.history, self.steps = state["history"], state["steps"]
        self._log(
            f"resuming at epoch {self.first_epoch + 1}, step {len(self.steps) + 1}"
            if self.steps
            else f"resuming after epoch {self.first_epoch}/{self.config.epochs}"
        )

    def run(self) -> None:
        """Run all epochs that are left."""
        done = len(self.steps) * self.config.global_batch_size
        pairs_per_epoch = len(self.train) // self.config.global_batch_size * self.config.global_batch_size
        progress = Progress((self.config.epochs - self.first_epoch) * pairs_per_epoch - done)
        for epoch in range(self.first_epoch, self.config.epochs):
            if self._is_stale():
                self._log(f"no better {self.config.monitor} in {self.config.patience} epochs; training ends")
                break
            start_step = len(self.steps)
            order = training_order(len(self.train), self.config.global_batch_size, seed=self.config.seed, epoch=epoch)
            augmentation = Augmentation(self.config.policy, self.config.seed, epoch)
            self.loop.train_epoch(
                epoch,
                self.metrics.training(
                    self._batches(Split.TRAIN, order[start_step:], augmentation, self._dropout(epoch))
                ),
                self._on_step(epoch, progress),
                steps=len(order),
                start_step=start_step,
                should_checkpoint=self._should_check_preemption,
            )
            self._checkpoint_before_validation(epoch)
            scores = self._predict()
            metric = self._metrics(scores)
            loss = float(np.mean([step["loss"] for step in self.steps]))
            rate = round(progress.rate, 2)
            summary = {"epoch": epoch + 1, "loss": loss, "pairs_per_s": rate, "workers": self.world_size, **metric}
            self.history += [*self.steps, summary]
            self.steps = []
            with self.metrics.reporting():
                self._report_epoch(epoch, metric, scores)
            self._log(
                f"epoch {epoch + 1}/{self.config.epochs}  loss {loss:.4f}  val {self.kind}: accuracy "
                f"{metric[f'{self.kind}/accuracy']:.3f}, balanced {metric[f'{self.kind}/balanced_accuracy']:.3f}, "
                f"AUROC {number_text(metric.get(f'{self.kind}/macro_auroc', float('nan')))}  ({progress.line()})"
            )

    def _is_stale(self) -> bool:
        """Return whether the last epochs, as many as the recipe's patience, brought no better score."""
        scores = [self._score(line) for line in self.history if "step" not in line]
        if not self.config.patience or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.config.patience

    def _score(self, metric: Mapping[str, Any]) -> float:
        # Ray's checkpoint manager fails on NaN, and ranks a missing score best or worst by its order.
        score: float = metric.get(f"{self.kind}/{self.config.monitor}", NO_SCORE)
        return score

    def _dropout(self, epoch: int) -> list[Dropout]:
        config, encoder = self.config, self.task.patient
        of_patient = [PatientDropout(encoder, config.patient_dropout, config.seed, epoch)] if encoder else []
        return [ModalityDropout(config.modality_dropout, config.seed, epoch), *of_patient]

    def _batches(
        self,
        split: Split,
        order: list[Indices],
        augmentation: Augmentation | None = None,
        dropout: Sequence[Dropout] = (),
    ) -> Iterator[Batch | DermRayError]:
        features = self.task.features[split] if self.task.features else None
        return batches(
            self.train if split is Split.TRAIN else self.val,
            order,
            self.config.preprocessing,
            rank=self.rank,
            world_size=self.world_size,
            augmentation=augmentation,
            features=features,
            dropout=dropout,
        )

    def _on_step(self, epoch: int, progress: Progress) -> Callable[[int, float, bool], None]:
        last_report_s = progress.elapsed_s

        def on_step(step: int, loss: float, should_checkpoint: bool) -> None:
            nonlocal last_report_s
            self.metrics.step(self.config.global_batch_size, loss)
            progress.advance(self.config.global_batch_size)
            self.steps.append(
                {"epoch": epoch + 1, "step": step, "loss": loss, "elapsed_s": round(progress.elapsed_s, 3)}
            )
            if progress.elapsed_s - last_report_s > REPORT_INTERVAL_S:
                last_report_s = progress.elapsed_s
                self._log(f"epoch {epoch + 1}/{self.config.epochs}  step {step}  loss {loss:.4f}  ({progress.line()})")
            if should_checkpoint:
                self._checkpoint_on_preemption(epoch, step)

        return on_step

    def _should_check_preemption(self) -> bool:
        """Return whether it is time to check for a preemption notice; one notice is enough."""
        return not self.preemption_notice and time.monotonic() - self.preemption_checked_s > PREEMPTION_CHECK_INTERVAL_S

    def _checkpoint_on_preemption(self, epoch: int, step: int) -> None:
        """Save at once before a preemption; all ranks check together and continue until Ray Train stops them."""
        self.preemption_notice = ray.train.get_preemption_info() is not None
        self.preemption_checked_s = time.monotonic()
        if self.preemption_notice:
            self._log(f"a node is about to be preempted; saving epoch {epoch + 1}, step {step}")
            self._checkpoint_within(epoch, f"step_{step:06d}")

    def _checkpoint_before_validation(self, epoch: int) -> None:
        """Save an epoch before a long validation; all ranks use rank 0's clock."""
        if not self.preemption_notice and broadcast_from_rank_zero(self.validation_s) > LONG_VALIDATION_S:
            self._checkpoint_within(epoch, "trained")

    def _checkpoint_within(self, epoch: int, point: str) -> None:
        metrics = {"epoch": epoch + 1, "score": NEVER_BEST}
        self._report(metrics, {"epoch": epoch}, f"checkpoint_epoch_{epoch + 1:04d}_{point}")

    def _predict(self) -> KindProbabilities:
        """Return the probabilities of all val pairs."""
        begun = time.monotonic()
        val_batches = self._batches(Split.VAL, evaluation_order(len(self.val), self.config.global_batch_size))
        probabilities = self.loop.predict(self.metrics.validating(val_batches), len(self.val))
        self.validation_s = time.monotonic() - begun
        return probabilities

    def _metrics(self, scores: KindProbabilities) -> dict[str, float]:
        """Return every defined metric of every prediction kind."""
        return finite_metrics(label_set(self.config.label_set), self.val.labels, scores)

    def _report_epoch(self, epoch: int, metric: dict[str, float], scores: KindProbabilities) -> None:
        """Report a finished epoch, with the val probabilities that calibrate it should it be the best."""
        score = self._score(metric) if self.config.keep == "best" else epoch + 1
        val = {str(kind): torch.from_numpy(probabilities) for kind, probabilities in scores.items()}
        metrics = {"epoch": epoch + 1, "score": score, **metric}
        self._report(metrics, {"epoch": epoch + 1, "val": val}, f"checkpoint_epoch_{epoch + 1:04d}")

    def _report(self, metrics: dict[str, Any], state: dict[str, Any], folder_name: str) -> None:
        """Hand checkpoint and metrics to Ray Train; all ranks meet here.

        ``state`` holds the ``epoch`` to continue with, counted from 0; no other checkpoint has the folder's name.
        """
        if self.rank != 0:
            ray.train.report(metrics)
            return
        lines = [*self.history, *self.steps]
        try:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            storage.write_bytes(storage.join(self.task.run_uri, METRICS), text.encode())
            storage.write_bytes(storage.join(self.task.run_uri, EVENTS), tensorboard_events(lines))
            for split, features in (self.task.features or {}).items():
                features.touch(len((self.train if split is Split.TRAIN else self.val).listed))
        except StorageError as error:
            # Only this rank failed: it has to exit, since the others wait for it.
            raise OSError(str(error)) from error
        with tempfile.TemporaryDirectory() as folder:
            whole = {"loop": self.loop.state_dict(), "history": self.history, "steps": self.steps, **state}
            torch.save(whole, Path(folder) / STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=folder_name)

    def _report_stall(self, line: str) -> None:
        """Report a stall, on any rank, before this process exits."""
        said = self.task.relay.add.remote(
            f"worker {self.rank} {line}; it exits, and the run continues from its last checkpoint"
        )
        ray.wait([said], timeout=5)

    def _log(self, line: str) -> None:
        if self.rank == 0:
            self.task.relay.add.remote(line)
