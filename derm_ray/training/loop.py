"""The training loop in plain torch; it runs alone or under an initialized process group."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from derm_ray.domain import PredictionKind
from derm_ray.errors import DermRayError, TrainingError
from derm_ray.evaluation.kinds import rows_of
from derm_ray.inference.precision import autocast, network_input, resolve_precision, to_device
from derm_ray.models.networks import PairLogits, PairNetwork
from derm_ray.models.present import Present
from derm_ray.training.batches import Batch
from derm_ray.training.config import TrainConfig
from derm_ray.training.losses import SoftTargets, class_weights, log_frequencies, pair_loss
from derm_ray.training.optimizer import make_optimizer, set_rates
from derm_ray.training.watchdog import Watchdog

_FIX = "Lower learning_rate or head_learning_rate, or set clip_norm, and start under a new name."
_NOT_FINITE = f"the network's predictions on val are not finite. {_FIX}"

_Tensors = tuple[Tensor, ...] | list[Tensor]
KindProbabilities = dict[PredictionKind, npt.NDArray[np.float32]]


class TrainingLoop:
    """Network and optimizer of a run.

    ``network`` has its initial weights and is changed in place; ``class_counts`` are the pairs of each class in train
    (K,), which the recipe's weights of classes come from.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: PairNetwork,
        device: torch.device,
        class_counts: npt.NDArray[np.float64] | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.config = config
        self._watchdog = watchdog or Watchdog()
        self.network = to_device(network, device)
        self.device = device
        self.precision = resolve_precision(config.precision, device)
        if self.precision == "fp32":
            torch.backends.cudnn.deterministic = True  # so that a resumed run equals an uninterrupted one on GPUs too
        counts = np.ones(config.classes) if class_counts is None else class_counts
        self._weights = torch.from_numpy(class_weights(counts, config.class_weight_power)).to(device)
        self._adjustment = None
        if config.logit_adjustment:
            self._adjustment = config.logit_adjustment * torch.from_numpy(log_frequencies(counts)).to(device)
        self._distributed = dist.is_available() and dist.is_initialized()
        self._module: nn.Module = network
        self._synchronized = False
        if self._distributed:
            if device.type == "cuda":
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
                self._synchronized = not config.freeze_batch_norm
                self.network = network
            # Local batch norms keep their own statistics on CPU; rank 0's are the ones that are saved.
            self._module = DistributedDataParallel(
                network, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
            )
        self._average = None
        if config.ema_decay:
            self._average = AveragedModel(network, multi_avg_fn=_moving_average(config.ema_decay), use_buffers=True)
        self._optimizer = make_optimizer(network, config)

    def train_epoch(
        self,
        epoch: int,
        batches: Iterable[Batch | DermRayError],
        on_step: Callable[[int, float, bool], None],
        *,
        steps: int,
        start_step: int = 0,
        should_checkpoint: Callable[[], bool] = lambda: False,
    ) -> list[float]:
        """Run one epoch, or the rest of it.

        Random numbers restart from (seed, epoch, step, rank), so that a resumed run equals an uninterrupted one.

        Args:
            epoch: counted from 0.
            batches: this rank's shares of the steps to run, in order; an error in place of one stops all ranks.
            on_step: called with the number of the step in the epoch, from 1, its global mean loss, and whether
                ``should_checkpoint`` returned true on any rank; all ranks get the same arguments.
            steps: of a whole epoch.
            start_step: those of this one that are already done.
            should_checkpoint: called in every step.

        Returns:
            The global mean loss of every step that was run, the same on all ranks.

        Raises:
            TrainingError: the loss is not finite.
            DermRayError: some rank's batch is an error; the same one is raised on all ranks, so that none of
                them waits for the others in a collective.
        """
        rank = dist.get_rank() if self._distributed else 0
        self._module.train()
        if self.config.freeze_batch_norm:
            _freeze_batch_norm(self._module)
        losses: list[float] = []
        for step, batch in enumerate(batches, start_step + 1):
            self._raise_on_all_ranks(batch if isinstance(batch, DermRayError) else None)
            assert isinstance(batch, Batch)
            self._watchdog.work()
            torch.manual_seed(int(np.random.SeedSequence((self.config.seed, epoch, step, rank)).generate_state(1)[0]))
            set_rates(self._optimizer, self.config, epoch, step, steps)
            loss, checkpoint = self._step(batch, should_checkpoint())
            self._watchdog.wait()
            losses.append(loss)
            if not np.isfinite(loss):
                raise TrainingError(f"the loss became {loss} at epoch {epoch + 1}, step {step}. {_FIX}")
            on_step(step, loss, checkpoint)
        return losses

    def _raise_on_all_ranks(self, error: DermRayError | None) -> None:
        """Raise on all ranks an error that any rank has found."""
        if self._distributed:
            found = torch.tensor(int(error is not None), device=self.device)
            dist.all_reduce(found, dist.ReduceOp.MAX)
            if found.item():
                error = next(e for e in self._gather(error) if e is not None)
        if error is not None:
            raise error

    def _gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order."""
        if not self._distributed:
            return [value]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, value)
        return gathered

    def _step(self, batch: Batch, should_checkpoint: bool) -> tuple[float, bool]:
        """Return the global mean loss, and whether ``should_checkpoint`` is true on any rank."""
        config = self.config
        parts = batch.parts(config.accumulation)
        total = torch.zeros(2, device=self.device)
        total[1] = should_checkpoint
        for number, part in enumerate(parts, 1):
            with self._synchronized_if(last=number == len(parts)):
                total[0] += self._backward(part)
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.network)
        if self._distributed:
            dist.all_reduce(total)
        loss, votes = total.tolist()
        return loss, votes > 0

    def _synchronized_if(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a part's backward pass: gradients are averaged over ranks in a step's last one."""
        if last or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradients of a batch, and return its share of the global mean loss."""
        present = self._present(batch)
        with autocast(self.precision, self.device):
            logits = self._forward(batch, present)
        classes = torch.from_numpy(batch.classes).to(self.device)
        losses = pair_loss(
            logits,
            classes,
            loss=self.config.loss,
            alpha=self.config.alpha,
            smoothing=self.config.label_smoothing,
            adjustment=self._adjustment,
            teacher=self._soft_targets(batch),
            present=present,
        )
        # DDP averages over ranks, so that shares of unequal size must weigh by their pairs.
        weights = (classes * self._weights).sum(1) / classes.sum(1)
        share = (losses * weights).sum() / batch.global_size
        torch.autograd.backward(share * (dist.get_world_size() if self._distributed else 1))
        return share.detach().float()

    def _soft_targets(self, batch: Batch) -> SoftTargets | None:
        if batch.teacher is None:
            return None
        probabilities = torch.from_numpy(batch.teacher).to(self.device)
        return SoftTargets(probabilities, self.config.distillation_weight, self.config.distillation_temperature)

    def _present(self, batch: Batch) -> Present | None:
        """Return the images that the pairs of a batch have; ``None``: all of them."""
        flags, shared = batch.given, None
        if self._synchronized and self._module.training:
            images = torch.tensor([*flags.sum(0).tolist(), int(flags.all(1).sum())], device=self.device)
            dist.all_reduce(images)
            shared = images.tolist()
        return None if flags.all() else Present.of(flags, self.device, shared)

    def _forward(self, batch: Batch, present: Present | None, module: nn.Module | None = None) -> PairLogits:
        inputs = [network_input(a, self.device) for a in (batch.clinical, batch.dermoscopy)]
        if self.precision == "fp32":
            inputs = [tensor.float() for tensor in inputs]
        if batch.patient is not None:
            inputs.append(torch.from_numpy(batch.patient).to(self.device))
        from_stem = batch.clinical.dtype != np.uint8
        logits: PairLogits = (module or self._module)(*inputs, from_stem=from_stem, present=present)
        return logits

    def predict(self, batches: Iterable[Batch | DermRayError], pairs: int) -> KindProbabilities:
        """Return the probabilities of every pair, (pairs, classes) float32 per prediction kind, the same on all ranks.

        Rows of pairs that lack a kind's images are NaN. The batches are this rank's shares; all ranks together hold
        every index of ``range(pairs)`` once.

        Raises:
            TrainingError: a probability is not finite.
            DermRayError: some rank's batch is an error; the same one is raised on all ranks.
        """
        network = self._average.module if self._average is not None else self.network
        network.eval()
        self._share_buffers()
        mine: list[tuple[npt.NDArray[np.int64], KindProbabilities] | DermRayError] = []
        # The bare network: DDP's forward synchronizes buffers, and ranks may have unequal numbers of batches.
        with torch.inference_mode(), autocast(self.precision, self.device):
            for batch in batches:
                if isinstance(batch, DermRayError):
                    mine.append(batch)
                elif len(batch.indices):
                    self._watchdog.work()
                    logits = self._forward(batch, self._present(batch), network)
                    kinds = {kind: p.cpu().numpy() for kind, p in logits.probabilities().items()}
                    mine.append((batch.indices, kinds) if _is_finite(kinds, batch) else TrainingError(_NOT_FINITE))
                    self._watchdog.wait()
        gathered = [item for rank in self._gather(mine) for item in rank]
        whole = {kind: np.zeros((pairs, self.config.classes), np.float32) for kind in PredictionKind}
        for item in gathered:
            if isinstance(item, DermRayError):
                raise item
            indices, kinds = item
            for kind, probabilities in kinds.items():
                whole[kind][indices] = probabilities
        return whole

    def _share_buffers(self) -> None:
        """Give every rank the batch norm statistics of rank 0, so that validated and saved statistics are the same."""
        if self._distributed:
            for network in (self.network, *([self._average.module] if self._average is not None else [])):
                for buffer in network.buffers():
                    dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, their average, and optimizer; random numbers and learning rates follow from the next step."""
        average = {"average": self._average.state_dict()} if self._average is not None else {}
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), **average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _is_finite(kinds: KindProbabilities, batch: Batch) -> bool:
    """Return whether the probabilities are finite of all kinds whose images a pair has."""
    rows = rows_of(batch.given)
    return all(bool(np.isfinite(probabilities[rows[kind]]).all()) for kind, probabilities in kinds.items())


def sealed_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that were validated, of :meth:`TrainingLoop.state_dict`: the average where there is one."""
    average = state.get("average", {f"module.{key}": value for key, value in state["network"].items()})
    return {key.removeprefix("module."): value for key, value in average.items() if key != "n_averaged"}


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Return how an average of weights takes a step; the first ones count for more, so that the start is forgotten."""

    @torch.no_grad()
    def update(averages: _Tensors, values: _Tensors, taken: Tensor | int) -> None:
        if averages[0].is_floating_point():
            steps = int(taken)
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + steps) / (10 + steps)))
        else:  # the number of batches that a batch norm has seen
            torch._foreach_copy_(averages, values)

    return update


def _freeze_batch_norm(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
