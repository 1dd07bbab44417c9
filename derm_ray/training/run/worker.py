"""What every Ray Train worker runs."""

import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
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
from torch import Tensor

from derm_ray import storage
from derm_ray.errors import DermRayError, StorageError
from derm_ray.evaluation.evaluate import figures
from derm_ray.models.zoo import NetworkConfig, build_network
from derm_ray.observability import Progress, WorkerLogs
from derm_ray.training.batches import evaluation_order, training_order
from derm_ray.training.config import TrainConfig
from derm_ray.training.loop import KindProbabilities, TrainingLoop
from derm_ray.training.run.feed import LabelledPairs, batches
from derm_ray.training.run.metrics import TrainingMetrics
from derm_ray.training.stems import StemCache
from derm_ray.training.tensorboard import tensorboard_events
from derm_ray.training.watchdog import Watchdog
from derm_ray.vocabulary import PredictionKind, Split, label_set

logger = logging.getLogger(__name__)

STATE = "state.pt"
METRICS = "metrics.jsonl"
EVENTS = "tensorboard/events.out.tfevents.derm_ray"
SAY_EVERY_S = 10.0
ASK_EVERY_S = 5.0
"""How often Ray Train is asked whether a node of the run is about to go; it looks as often."""
NEVER_BEST = -2.0
"""Score of a checkpoint within an epoch, below that of an epoch without a score."""
WITHOUT_SCORE = -1.0
LONG_VALIDATION_S = 30.0
"""Where validation takes longer, the epoch is saved before it as well: a notice may be shorter than it."""


@dataclass(frozen=True)
class WorkerTask:
    """What the driver hands to every worker.

    Attributes:
        config: the recipe.
        architecture: the network.
        class_weights: of the loss (K,).
        run_uri: the run's folder.
        initial: reference to the initial state dict.
        train, val: references to the splits.
        stems: the splits' activations; ``None`` reads images.
        relay: the actor that carries progress lines to the driver.
        logs: how the worker itself logs.
        use_gpu: run on the GPU that Ray assigned; otherwise on CPU, also where a GPU is visible.
        threads: of torch, whatever ``OMP_NUM_THREADS`` says on the machine.
    """

    config: TrainConfig
    architecture: NetworkConfig
    class_weights: npt.NDArray[np.float32]
    run_uri: str
    initial: "ray.ObjectRef[dict[str, Tensor]]"
    train: "ray.ObjectRef[LabelledPairs]"
    val: "ray.ObjectRef[LabelledPairs]"
    stems: Mapping[Split, StemCache] | None
    relay: Any
    logs: WorkerLogs
    use_gpu: bool
    threads: int


def read_state(checkpoint: ray.train.Checkpoint, device: torch.device) -> dict[str, Any]:
    """Return what a checkpoint holds, read straight from where it lies.

    Ray Train's own copies share a folder per node, so that one worker may replace what another one reads.
    """
    with checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{STATE}") as file:
        held = io.BytesIO(file.read())
    state: dict[str, Any] = torch.load(held, map_location=device, weights_only=True)
    return state


def train_worker(settings: dict[str, Any]) -> dict[str, str] | None:
    """Train, validate and report until the last epoch.

    Returns:
        ``None``, or type and message of an error that a restart cannot mend; every rank returns it, so that
        Ray does not retry.
    """
    task: WorkerTask = settings["task"]
    task.logs.begin()
    torch.set_num_threads(task.threads)
    try:
        worker = _Worker(task)
        with worker.watchdog.watch():
            worker.run()
    except DermRayError as error:
        return {"type": type(error).__name__, "message": str(error)}
    return None


class _Worker:
    def __init__(self, task: WorkerTask) -> None:
        self.task = task
        self.config = task.config
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.train: LabelledPairs = ray.get(task.train)
        self.val: LabelledPairs = ray.get(task.val)
        self.metrics = TrainingMetrics(context.get_experiment_name(), self.rank)
        self.history: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.first_epoch = 0
        self.warned = False
        self.validation_s = 0.0
        self.asked_s = time.monotonic()
        self.watchdog = Watchdog(self._bark)
        network = build_network(task.architecture, freeze=self.config.freeze, dropout=self.config.dropout)
        network.load_state_dict(ray.get(task.initial))
        device = get_device() if task.use_gpu else torch.device("cpu")
        self.loop = TrainingLoop(self.config, network, device, task.class_weights, self.watchdog)
        self._resume()
        logger.info("worker %d of %d is ready to train, %d threads", self.rank, self.world_size, task.threads)

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        state = read_state(checkpoint, self.loop.device)
        self.loop.load_state_dict(state["loop"])
        self.first_epoch = state["epoch"]
        self.history, self.steps = json.loads(state["history"]), json.loads(state["steps"])
        self._say(
            f"resuming at epoch {self.first_epoch + 1}, step {len(self.steps) + 1}"
            if self.steps
            else f"resuming behind epoch {self.first_epoch}/{self.config.epochs}"
        )

    def run(self) -> None:
        """Run all epochs that are left."""
        done = len(self.steps) * self.config.global_batch_size
        progress = Progress((self.config.epochs - self.first_epoch) * self._pairs_per_epoch() - done)
        for epoch in range(self.first_epoch, self.config.epochs):
            done = len(self.steps)
            feed = self.metrics.training(self._training_batches(epoch, done))
            self.loop.train_epoch(epoch, feed, self._on_step(epoch, progress), done=done, due=self._due)
            self._save_trained(epoch)
            scores = self._predict()
            figure = self._figures(scores)
            loss = float(np.mean([step["loss"] for step in self.steps]))
            rate = round(progress.rate, 2)
            summary = {"epoch": epoch + 1, "loss": loss, "pairs_per_s": rate, "workers": self.world_size, **figure}
            self.history += [*self.steps, summary]
            self.steps = []
            with self.metrics.reporting():
                self._report_epoch(epoch, figure, scores)
            self._say(
                f"epoch {epoch + 1}/{self.config.epochs}  loss {loss:.4f}  val cross: accuracy "
                f"{figure['cross/accuracy']:.3f}, balanced {figure['cross/balanced_accuracy']:.3f}, "
                f"AUROC {figure.get('cross/macro_auroc', float('nan')):.3f}  ({progress.line()})"
            )

    def _pairs_per_epoch(self) -> int:
        batch_size = self.config.global_batch_size
        return len(self.train) // batch_size * batch_size

    def _training_batches(self, epoch: int, done: int) -> Any:
        seed, batch_size = self.config.seed, self.config.global_batch_size
        return batches(
            self.train,
            training_order(len(self.train), batch_size, seed=seed, epoch=epoch)[done:],
            self.config.preprocessing,
            rank=self.rank,
            world_size=self.world_size,
            mirror=(seed, epoch) if self.config.mirror else None,
            stems=self.task.stems[Split.TRAIN] if self.task.stems else None,
        )

    def _on_step(self, epoch: int, progress: Progress) -> Callable[[int, float, bool], None]:
        spoken = progress.elapsed_s

        def on_step(step: int, loss: float, due: bool) -> None:
            nonlocal spoken
            self.metrics.step(self.config.global_batch_size, loss)
            progress.advance(self.config.global_batch_size)
            self.steps.append({"epoch": epoch + 1, "step": step, "loss": loss, "at_s": round(progress.elapsed_s, 3)})
            if progress.elapsed_s - spoken > SAY_EVERY_S:
                spoken = progress.elapsed_s
                self._say(f"epoch {epoch + 1}/{self.config.epochs}  step {step}  loss {loss:.4f}  ({progress.line()})")
            if due:
                self._heed_preemption(epoch, step)

        return on_step

    def _due(self) -> bool:
        """Tell whether it is time to ask for a preemption; one is enough for these workers."""
        return not self.warned and time.monotonic() - self.asked_s > ASK_EVERY_S

    def _heed_preemption(self, epoch: int, step: int) -> None:
        """Save at once where a node is about to go; all ranks ask together, and go on until Ray Train ends them."""
        self.warned = ray.train.get_preemption_info() is not None
        self.asked_s = time.monotonic()
        if self.warned:
            self._say(f"a node is about to be taken away; saving epoch {epoch + 1}, step {step}")
            metrics = {"epoch": epoch + 1, "score": NEVER_BEST}
            self._report(metrics, {"epoch": epoch}, f"checkpoint_epoch_{epoch + 1:04d}_step_{step:06d}")

    def _save_trained(self, epoch: int) -> None:
        """Save an epoch without its figures where its validation will take long; all ranks go by rank 0's clock."""
        if not self.warned and broadcast_from_rank_zero(self.validation_s) > LONG_VALIDATION_S:
            metrics = {"epoch": epoch + 1, "score": NEVER_BEST}
            self._report(metrics, {"epoch": epoch}, f"checkpoint_epoch_{epoch + 1:04d}_trained")

    def _predict(self) -> KindProbabilities:
        """Return the probabilities of all val pairs."""
        begun = time.monotonic()
        feed = batches(
            self.val,
            evaluation_order(len(self.val), self.config.global_batch_size),
            self.config.preprocessing,
            rank=self.rank,
            world_size=self.world_size,
            stems=self.task.stems[Split.VAL] if self.task.stems else None,
        )
        probabilities = self.loop.predict(self.metrics.validating(feed), len(self.val))
        self.validation_s = time.monotonic() - begun
        return probabilities

    def _figures(self, scores: KindProbabilities) -> dict[str, float]:
        """Return every defined figure of every prediction kind."""
        labels = np.array(self.val.labels)
        named = {
            f"{kind}/{name}": value
            for kind in PredictionKind
            for name, value in figures(label_set(self.config.label_set), labels, scores[kind]).items()
        }
        return {name: float(value) for name, value in named.items() if np.isfinite(value)}

    def _report_epoch(self, epoch: int, figure: dict[str, float], scores: KindProbabilities) -> None:
        """Report a finished epoch, with the val probabilities that calibrate it should it be the best."""
        # Ray's checkpoint manager fails on NaN, and ranks a missing score best or worst by its order.
        score = figure.get(f"{PredictionKind.CROSS}/{self.config.monitor}", WITHOUT_SCORE)
        val = {str(kind): torch.from_numpy(probabilities) for kind, probabilities in scores.items()}
        metrics = {"epoch": epoch + 1, "score": score, **figure}
        self._report(metrics, {"epoch": epoch + 1, "val": val}, f"checkpoint_epoch_{epoch + 1:04d}")

    def _report(self, metrics: dict[str, Any], state: dict[str, Any], folder_name: str) -> None:
        """Hand checkpoint and figures to Ray Train; all ranks meet here.

        Args:
            metrics: of the checkpoint.
            state: ``epoch`` to go on with, counted from 0, and what is to be kept beside loop, history and steps.
            folder_name: no other checkpoint of the run has it.
        """
        if self.rank != 0:
            ray.train.report(metrics)
            return
        lines = [*self.history, *self.steps]
        try:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            storage.write_bytes(storage.join(self.task.run_uri, METRICS), text.encode())
            storage.write_bytes(storage.join(self.task.run_uri, EVENTS), tensorboard_events(lines))
            for split, stems in (self.task.stems or {}).items():
                stems.touch(len((self.train if split is Split.TRAIN else self.val).listed))
        except StorageError as error:
            # Only this rank knows: it has to die, since the others wait for it in their report.
            raise OSError(str(error)) from error
        past = {"history": json.dumps(self.history), "steps": json.dumps(self.steps)}
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"loop": self.loop.state_dict(), **past, **state}, Path(folder) / STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=folder_name)

    def _bark(self, line: str) -> None:
        """Leave word, on whatever rank, before this process ends."""
        said = self.task.relay.add.remote(
            f"worker {self.rank} {line}; it ends itself, and the run goes on from its last checkpoint"
        )
        ray.wait([said], timeout=5)

    def _say(self, line: str) -> None:
        if self.rank == 0:
            self.task.relay.add.remote(line)
