"""The paper's losses, Eq. 1-5, and distillation."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from derm_ray.models.networks import PairLogits
from derm_ray.models.present import Present


def squared(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return ||softmax(logits) - onehot(class)||^2 per pair, summed over classes (Eq. 1): (B,), 0..2.

    Several classes that a pair can be count as one, with the sum of their probabilities.
    """
    assert not smoothing, "of cross-entropy only"
    probabilities = logits.float().softmax(1)
    right = (probabilities * classes).sum(1)
    return (1 - right).square() + (probabilities * ~classes).square().sum(1)


def cross_entropy(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the negative log-likelihood of the classes that each pair can be, and of all classes as far as smoothed:
    (B,).

    For one class it is the cross-entropy, smoothed as by Szegedy et al. (2016, section 7).
    """
    logs = logits.float().log_softmax(1)
    right = -logs.masked_fill(~classes, -torch.inf).logsumexp(1)
    return (1 - smoothing) * right - smoothing * logs.mean(1)


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def class_weights(counts: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float32]:
    """Return one weight per class (K,), proportional to its number of pairs (K,) to the power ``-power``.

    Their mean over the pairs is 1; a class without pairs gets 0.
    """
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def log_frequencies(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the logarithm of the frequency of each class (K,); one without pairs counts as one with a pair."""
    return np.asarray(np.log(np.maximum(counts, 1) / counts.sum()), np.float32)


class SoftTargets(NamedTuple):
    """What a teacher says of a batch.

    Attributes:
        probabilities: (B, 3, K), one row per :class:`derm_ray.domain.PredictionKind`; NaN for those that a pair lacks.
        weight: share of the teacher in the loss, 0..1.
        temperature: of both sides, above 0.
    """

    probabilities: Tensor
    weight: float
    temperature: float

    def of(self, rows: Tensor) -> "SoftTargets":
        """Return those of some pairs (n,)."""
        return self._replace(probabilities=self.probabilities[rows])

    def mixed(self, loss: Tensor, logits: Tensor, kind: int) -> Tensor:
        """Return (1 - w) loss + w T^2 KL(teacher_T || student_T) per pair (Hinton et al. 2015, section 2): (B,).

        ``loss`` is that of the labels (B,), and ``kind`` the row of the probabilities that the logits (B, K) are for.
        """
        target = self.probabilities[:, kind].clamp_min(torch.finfo(torch.float32).tiny).log()
        target, own = ((of.float() / self.temperature).log_softmax(1) for of in (target, logits))
        divergence = functional.kl_div(own, target, reduction="none", log_target=True).sum(1)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence


def pair_loss(
    logits: PairLogits,
    classes: Tensor,
    *,
    loss: str,
    alpha: float,
    smoothing: float = 0.0,
    adjustment: Tensor | None = None,
    teacher: SoftTargets | None = None,
    present: Present | None = None,
) -> Tensor:
    """Return cost_overall = cost_C + cost_D + alpha * cost_T per pair (Eq. 3-5): (B,).

    Args:
        logits: of each sub-network; without a third one there is no cost_T.
        classes: those that each pair can be (B, K): one, or several of a coarse diagnosis.
        loss: a key of :data:`LOSSES`.
        alpha: weight of cost_T.
        smoothing: of labels.
        adjustment: (K,) is added to all logits.
        teacher: each cost is mixed with the distance to its prediction from the same images.
        present: the images that pairs have, where some lack one; costs of what a pair lacks are left out. ``None``:
            all pairs have both.
    """
    assert logits.clinical is not None, "training gives both"
    assert logits.dermoscopy is not None, "training gives both"

    def cost(part: Tensor, kind: int) -> Tensor:
        if present is None:
            return mixed(part, classes, teacher, kind)
        rows = (*present.rows, present.both)[kind]
        own = mixed(part[rows], classes[rows], teacher.of(rows) if teacher is not None else None, kind)
        return own.new_zeros(len(classes)).index_copy(0, rows, own)

    def mixed(part: Tensor, classes: Tensor, teacher: SoftTargets | None, kind: int) -> Tensor:
        own = LOSSES[loss](part if adjustment is None else part + adjustment, classes, smoothing)
        return own if teacher is None else teacher.mixed(own, part, kind)

    total = cost(logits.clinical, 0) + cost(logits.dermoscopy, 1)
    if logits.triple is not None:
        total = total + alpha * cost(logits.triple, 2)
    return total
