"""Heads: from a feature map, and its saliency where a head uses one, to class logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from derm_ray.models.pooling import BilinearPool, resize_map

HEADS = ("gap", "fc", "cam", "bp", "cam_bp")


def _in_fp32(layers: nn.Module, inputs: Tensor) -> Tensor:
    """Apply a head's last layers outside autocast: logits of three digits would move probabilities by percents."""
    with torch.autocast(inputs.device.type, enabled=False):
        return torch.as_tensor(layers(inputs.float()))


class Head(nn.Module):
    """Base of all heads: ``forward(features (B, C, H, W), map (B, H', W') or None) -> logits (B, classes)``."""


class GapHead(Head):
    """Global average pooling, batch norm, linear.

    The batch norm tames the large activations of the ImageNet trunk, on which a fresh linear layer diverges.
    """

    def __init__(self, channels: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, features_BCHW: Tensor, _map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        pooled = features_BCHW.float().mean(dim=(2, 3))
        return _in_fp32(self.classifier, self.dropout(_in_fp32(self.norm, pooled)))


class FcHead(Head):
    """VGG-16's fc6, fc7 and a classifier, 4096 wide, on the pooled map (Simonyan and Zisserman 2014).

    Args:
        batch_norm: add batch norm after fc6 and fc7, as for the paper's sub-network trained from scratch.
    """

    width = 4096

    def __init__(self, channels: int, classes: int, *, dropout: float, batch_norm: bool) -> None:
        super().__init__()

        def block(before: int) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(self.width)] if batch_norm else []
            return [nn.Linear(before, self.width), *norm, nn.ReLU(), nn.Dropout(dropout)]

        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.fc6 = nn.Sequential(*block(channels * 49))
        self.fc7 = nn.Sequential(*block(self.width))
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, features_BCHW: Tensor, _map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        return _in_fp32(self.classifier, self.fc7(self.fc6(self.pool(features_BCHW))))


class CamHead(Head):
    """The CAM network's end: conv3x3 to 1024 maps, global average pooling, linear (Zhou et al. 2016, section 3)."""

    width = 1024

    def __init__(self, channels: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, self.width, 3, padding=1, bias=False), nn.BatchNorm2d(self.width), nn.ReLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, features_BCHW: Tensor, _map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        pooled = self.conv(features_BCHW).float().mean(dim=(2, 3))
        return _in_fp32(self.classifier, self.dropout(pooled))

    def explain(self, features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return class activation maps and logits: (B, classes, H, W), (B, classes).

        A map is sum_k w_k^c f_k(i, j), without the bias (Eq. 6, left).
        """
        maps = self.conv(features_BCHW)
        activation = functional.conv2d(maps, self.classifier.weight[:, :, None, None])
        return activation, _in_fp32(self.classifier, self.dropout(maps.float().mean(dim=(2, 3))))


class BilinearHead(Head):
    """Bilinear pooling and a linear layer; with a map it is CAM-BP.

    Args:
        rank: see :class:`derm_ray.models.pooling.BilinearPool`.
        saliency: weigh positions by the map (CAM-BP), or all alike (BP).
    """

    gain = 16.0
    """Length of the descriptor before the classifier: length 1 would need a separate learning rate."""

    def __init__(self, channels: int, classes: int, *, dropout: float, rank: int | None, saliency: bool) -> None:
        super().__init__()
        self.pool = BilinearPool(channels, rank)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.pool.size, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self._saliency = saliency

    def forward(self, features_BCHW: Tensor, map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        weights = None
        if self._saliency:
            assert map_BHW is not None, "CAM-BP needs a map"
            weights = resize_map(map_BHW, features_BCHW.shape[2], features_BCHW.shape[3])
        return _in_fp32(self.classifier, self.dropout(self.gain * self.pool(features_BCHW, weights)))


def make_head(
    name: str, channels: int, classes: int, *, dropout: float, from_scratch: bool, rank: int | None = None
) -> Head:
    """Return a fresh head by its name in :data:`HEADS`.

    Args:
        name: ``gap``, ``fc``, ``cam`` (of a CAM network), ``bp`` or ``cam_bp``.
        channels, classes: of its input and output.
        dropout: before the classifier, and in fc layers.
        from_scratch: nothing of it will be loaded from ImageNet, so that an fc head takes batch norm.
        rank: of the bilinear heads.
    """
    match name:
        case "gap":
            return GapHead(channels, classes, dropout=dropout)
        case "fc":
            return FcHead(channels, classes, dropout=dropout, batch_norm=from_scratch)
        case "cam":
            return CamHead(channels, classes, dropout=dropout)
        case _:
            return BilinearHead(channels, classes, dropout=dropout, rank=rank, saliency=name == "cam_bp")
