"""Heads: from a feature map, and its saliency where a head uses one, to class logits."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from derm_ray.models.pooling import BilinearPool, resize_map
from derm_ray.registry import Registry

logger = logging.getLogger(__name__)


def _in_fp32(layers: nn.Module, inputs: Tensor) -> Tensor:
    """Apply a head's last layers outside autocast: logits of three digits would move probabilities by percents."""
    with torch.autocast(inputs.device.type, enabled=False):
        return torch.as_tensor(layers(inputs.float()))


class Head(nn.Module):
    """Base of all heads: ``forward(features (B, C, H, W), map (B, H', W') or None) -> logits (B, classes)``.

    It is created with the number of channels and classes, and uses those of these settings that apply: ``dropout``
    (before the classifier, and in fc layers), ``from_scratch`` (no part is loaded from ImageNet weights) and ``rank``
    (of bilinear pooling).

    Attributes:
        needs_map: it weights positions by the map of a CAM network.
        takes_rank: it uses ``rank``.
    """

    needs_map = False
    takes_rank = False

    def load_pretrained(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load the part of ImageNet weights that fits this head, by default none; ``source`` is for messages."""


HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "gap": "derm_ray.models.heads:GapHead",
        "fc": "derm_ray.models.heads:FcHead",
        "cam": "derm_ray.models.heads:CamHead",
        "bp": "derm_ray.models.heads:BilinearHead",
        "cam_bp": "derm_ray.models.heads:CamBilinearHead",
    },
)


class GapHead(Head):
    """Global average pooling, batch norm, linear.

    The batch norm tames the large activations of the ImageNet trunk, on which a fresh linear layer diverges.
    """

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.0, **_: object) -> None:
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

    From scratch, as the paper's third sub-network, fc6 and fc7 have batch norm after them.
    """

    width = 4096

    def __init__(
        self, channels: int, classes: int, *, dropout: float = 0.0, from_scratch: bool = False, **_: object
    ) -> None:
        super().__init__()

        def block(before: int) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(self.width)] if from_scratch else []
            return [nn.Linear(before, self.width), *norm, nn.ReLU(), nn.Dropout(dropout)]

        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.fc6 = nn.Sequential(*block(channels * 49))
        self.fc7 = nn.Sequential(*block(self.width))
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, features_BCHW: Tensor, _map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        return _in_fp32(self.classifier, self.fc7(self.fc6(self.pool(features_BCHW))))

    def load_pretrained(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load fc6 and fc7 of torchvision's VGG-16, where they are there."""
        layers = {"classifier.0": self.fc6[0], "classifier.3": self.fc7[0]}
        if not all(f"{name}.weight" in state for name in layers):
            logger.warning("%s has no fc6/fc7: these layers start from random weights.", source)
            return
        for name, layer in layers.items():
            layer.load_state_dict({part: state[f"{name}.{part}"].float() for part in ("weight", "bias")})


class CamHead(Head):
    """The CAM network's end: conv3x3 to 1024 maps, global average pooling, linear (Zhou et al. 2016, section 3)."""

    width = 1024

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.0, **_: object) -> None:
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
    """Bilinear pooling (BP) of all positions alike, and a linear layer."""

    takes_rank = True

    gain = 16.0
    """Length of the descriptor before the classifier: length 1 would need a separate learning rate."""

    def __init__(
        self, channels: int, classes: int, *, dropout: float = 0.0, rank: int | None = None, **_: object
    ) -> None:
        super().__init__()
        self.pool = BilinearPool(channels, rank)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.pool.size, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features_BCHW: Tensor, map_BHW: Tensor | None = None) -> Tensor:
        """See :class:`Head`."""
        weights = None
        if self.needs_map:
            assert map_BHW is not None, "CAM-BP needs a map"
            weights = resize_map(map_BHW, features_BCHW.shape[2], features_BCHW.shape[3])
        return _in_fp32(self.classifier, self.dropout(self.gain * self.pool(features_BCHW, weights)))


class CamBilinearHead(BilinearHead):
    """Bilinear pooling of positions weighted by the map (CAM-BP, Eq. 6), and a linear layer."""

    needs_map = True
