"""Bilinear pooling and CAM bilinear pooling (Ge et al. 2017, Eq. 6), in matmul form."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-8
"""Below the square root, so that its slope stays finite at 0."""


def uniform_map(features_BCHW: Tensor) -> Tensor:
    """Return (B, H, W) float32 weights 1/(H*W), with which CAM-BP is plain BP."""
    batch, _, height, width = features_BCHW.shape
    return features_BCHW.new_full((batch, height, width), 1 / (height * width), dtype=torch.float32)


def normalize_map(map_BHW: Tensor) -> Tensor:
    """Return a saliency map as weights: nothing below 0, sum 1 (the Z of Eq. 6), float32.

    A map that vanishes becomes uniform.
    """
    positive = map_BHW.float().clamp_min(0)
    total = positive.sum((1, 2), keepdim=True)
    height, width = map_BHW.shape[1:]
    vanishes = total <= torch.finfo(torch.float32).tiny * height * width
    return torch.where(vanishes, 1 / (height * width), positive / torch.where(vanishes, 1.0, total))


def resize_map(map_BHW: Tensor, height: int, width: int) -> Tensor:
    """Return weights on another grid, bilinear, summing to 1 again."""
    if map_BHW.shape[1:] == (height, width):
        return map_BHW
    grown = functional.interpolate(map_BHW[:, None], (height, width), mode="bilinear", align_corners=False)
    return normalize_map(grown[:, 0])


def weighted_gram(features_BCHW: Tensor, map_BHW: Tensor) -> Tensor:
    """Return sum_p A(p) f(p) f(p)^T as one matrix product: (B, C, C), in float32 at least.

    Eq. 6 writes an outer product per position and weighs it; (F diag(A)) F^T is the same sum without them.
    """
    # Autocast would multiply in bf16, which is too imprecise for a square root of small sums.
    with torch.autocast(features_BCHW.device.type, enabled=False):
        features = features_BCHW.flatten(2)
        if features.dtype in (torch.bfloat16, torch.float16):
            features = features.float()
        return (features * map_BHW.flatten(1).unsqueeze(1).to(features.dtype)) @ features.transpose(1, 2)


class BilinearPool(nn.Module):
    """From a feature map to a normalized second-order descriptor.

    Gram matrix weighted by a map, signed square root, L2 norm (Lin et al. 2015, section 3.1; Ge et al. 2017,
    Eq. 6). The matrix is symmetric: only its upper half is kept, off-diagonals times sqrt(2), so that inner
    products of two descriptors are those of the whole matrices.

    Args:
        channels: C of the feature map.
        rank: ``None``, or the number of channels that a learned 1x1 projection leaves before the Gram matrix.

    Attributes:
        size: length of the descriptor, C(C+1)/2 (131,328 for VGG-16).
    """

    upper: Tensor
    weight: Tensor

    def __init__(self, channels: int, rank: int | None = None) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, rank, 1, bias=False) if rank is not None else nn.Identity()
        side = rank or channels
        rows, columns = torch.triu_indices(side, side)
        self.register_buffer("upper", rows * side + columns, persistent=False)
        self.register_buffer("weight", torch.where(rows == columns, 1.0, math.sqrt(2.0)), persistent=False)
        self.size = len(rows)

    def forward(self, features_BCHW: Tensor, map_BHW: Tensor | None = None) -> Tensor:
        """Return descriptors of length 1 (B, size), in float32 at least.

        Args:
            features_BCHW: any float type.
            map_BHW: weights >= 0 that sum to 1; ``None`` weighs all positions alike (plain BP).
        """
        projected = self.project(features_BCHW)
        gram = weighted_gram(projected, uniform_map(projected) if map_BHW is None else map_BHW)
        half = gram.flatten(1).index_select(1, self.upper)
        rooted = half.sign() * (half.abs() + EPSILON).sqrt() * self.weight.to(half.dtype)
        return functional.normalize(rooted, dim=1)
