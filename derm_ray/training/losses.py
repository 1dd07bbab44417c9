"""The paper's losses, Eq. 1-5."""

import torch
from torch import Tensor
from torch.nn import functional

from derm_ray.models.networks import PairLogits


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ||softmax(logits) - onehot(labels)||^2 per pair, summed over classes (Eq. 1): (B,), 0..2."""
    onehot = functional.one_hot(labels, logits.shape[1]).float()
    return (logits.float().softmax(1) - onehot).square().sum(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy per pair: (B,)."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def pair_loss(logits: PairLogits, labels: Tensor, *, loss: str, alpha: float) -> Tensor:
    """Return cost_overall = cost_C + cost_D + alpha * cost_T per pair (Eq. 3-5): (B,).

    Networks without a third sub-network have no cost_T.
    """
    function = LOSSES[loss]
    assert logits.clinical is not None, "training needs both images"
    assert logits.dermoscopy is not None, "training needs both images"
    total = function(logits.clinical, labels) + function(logits.dermoscopy, labels)
    if logits.triple is not None:
        total = total + alpha * function(logits.triple, labels)
    return torch.as_tensor(total)
