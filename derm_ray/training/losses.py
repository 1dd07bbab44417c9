"""The paper's losses, Eq. 1-5."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from derm_ray.models.networks import PairLogits


def squared(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return ||softmax(logits) - onehot(labels)||^2 per pair, summed over classes (Eq. 1): (B,), 0..2."""
    assert not smoothing, "of cross-entropy only"
    onehot = functional.one_hot(labels, logits.shape[1]).float()
    return (logits.float().softmax(1) - onehot).square().sum(1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy per pair, of labels smoothed over all classes (Szegedy et al. 2016, section 7): (B,)."""
    return functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


BETA = 0.999
LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def class_weights(labels: npt.NDArray[np.int64], classes: int, scheme: str) -> npt.NDArray[np.float32]:
    """Return one weight per class (K,), whose mean over the pairs (N,) is 1; a class without pairs gets 0.

    ``scheme`` is ``none``, ``inverse`` frequency, or ``effective`` number (1 - b) / (1 - b^n) with b = 0.999 (Cui et
    al. 2019, Eq. 2).
    """
    counts = np.bincount(labels, minlength=classes)
    if scheme == "none":
        return np.ones(classes, np.float32)
    numbers = counts.astype(float) if scheme == "inverse" else (1 - BETA**counts) / (1 - BETA)
    weights = np.divide(1, numbers, out=np.zeros(classes), where=counts > 0)
    return np.asarray(weights * len(labels) / (weights * counts).sum(), np.float32)


def pair_loss(logits: PairLogits, labels: Tensor, *, loss: str, alpha: float, smoothing: float = 0.0) -> Tensor:
    """Return cost_overall = cost_C + cost_D + alpha * cost_T per pair (Eq. 3-5): (B,).

    Networks without a third sub-network have no cost_T.
    """
    function = LOSSES[loss]
    assert logits.clinical is not None, "training needs both images"
    assert logits.dermoscopy is not None, "training needs both images"
    total = function(logits.clinical, labels, smoothing) + function(logits.dermoscopy, labels, smoothing)
    if logits.triple is not None:
        total = total + alpha * function(logits.triple, labels, smoothing)
    return torch.as_tensor(total)
