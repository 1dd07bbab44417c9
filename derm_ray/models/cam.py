"""The CAM network inside CAM-BP: frozen, trained on its own, one saliency map per image."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from derm_ray.models.heads import CamHead
from derm_ray.models.pooling import normalize_map
from derm_ray.models.trunks import Trunk

CAM_MODES = ("relu_sum", "probability", "top1", "literal")


def saliency(activation_maps_BKHW: Tensor, logits_BK: Tensor, mode: str) -> Tensor:
    """Collapse class activation maps to weights (B, H, W), >= 0 and summing to 1 (the left factor of Eq. 6).

    Args:
        activation_maps_BKHW: see :meth:`derm_ray.models.heads.CamHead.explain`.
        logits_BK: the CAM network's.
        mode: ``relu_sum`` sums what speaks for any class; ``probability`` weighs classes by their probability;
            ``top1`` takes the most probable one; ``literal`` is Eq. 6 as printed, whose sum over classes
            does not learn, since softmax losses push the class weights by amounts that add up to zero.
    """
    maps, logits = activation_maps_BKHW.float(), logits_BK.float()
    if mode == "literal":
        return normalize_map(maps.sum(1))
    positive = maps.clamp_min(0)
    if mode == "relu_sum":
        return normalize_map(positive.sum(1))
    if mode == "probability":
        shares = logits.softmax(1)
    else:
        shares = functional.one_hot(logits.argmax(1), logits.shape[1]).float()
    return normalize_map(torch.einsum("bkhw,bk->bhw", positive, shares))


class CamStream(nn.Module):
    """A trunk and a trained CAM head, frozen: images, or the stem's output, to saliency in one of :data:`CAM_MODES`."""

    def __init__(self, trunk: Trunk, head: CamHead, mode: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self._mode = mode
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, input_BCHW: Tensor) -> Tensor:
        """Return weights (B, H, W), >= 0 and summing to 1; see :func:`saliency`."""
        activation_maps, logits = self.head.explain(self.trunk(input_BCHW).last_BCHW)
        return saliency(activation_maps, logits, self._mode)
