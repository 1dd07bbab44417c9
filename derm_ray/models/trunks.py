"""Convolutional trunks: shared layers, a tap in the middle and the last feature map."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from derm_ray.errors import ConfigError, unknown_name


class TrunkFeatures(NamedTuple):
    """What a trunk computes from one batch.

    Attributes:
        tap_BCHW: the map that the cross sub-network reads (the paper's l-th layer, Eq. 4).
        last_BCHW: the last map after its ReLU, before the final pooling.
    """

    tap_BCHW: Tensor
    last_BCHW: Tensor


@dataclass(frozen=True)
class TrunkSpec:
    """Where things are in a trunk's ``features`` sequence.

    Attributes:
        channels: channels of the tap and of the last map.
        stride: input pixels per position of the last map.
        taps: tap name -> index just behind it.
        freezes: name -> index just behind the last frozen layer.
    """

    channels: int
    stride: int
    taps: Mapping[str, int]
    freezes: Mapping[str, int]


TRUNKS: Mapping[str, TrunkSpec] = {
    "vgg16": TrunkSpec(512, 16, {"relu5_1": 26, "relu5_2": 28, "relu5_3": 30}, {"none": 0, "pool4": 24}),
    "tiny": TrunkSpec(48, 4, {"relu3_1": 11}, {"none": 0, "pool2": 8}),
}
"""``vgg16`` is the paper's (Simonyan and Zisserman 2014); ``tiny`` is for tests and the demo, trained from scratch."""

DEFAULT_TAP = {"vgg16": "relu5_2", "tiny": "relu3_1"}


class Trunk(nn.Module):
    """A trunk with torchvision's key names (``features.N.weight``).

    Args:
        name: a key of :data:`TRUNKS`.
        tap: a key of the trunk's taps.
        freeze: a key of the trunk's freezes; layers up to there get no gradient.

    Raises:
        ConfigError: one of the names is unknown.
    """

    def __init__(self, name: str, tap: str, freeze: str = "none") -> None:
        super().__init__()
        spec = trunk_spec(name)
        for kind, value, known in (("tap", tap, spec.taps), ("freeze", freeze, spec.freezes)):
            if value not in known:
                raise ConfigError(unknown_name(f"{kind} of trunk {name}", value, tuple(known)))
        self.channels = spec.channels
        self.features = _vgg16_features() if name == "vgg16" else _tiny_features()
        self._tap_end = spec.taps[tap]
        self._frozen_end = spec.freezes[freeze]
        self.features[: self._frozen_end].requires_grad_(False)

    def forward(self, images_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map of normalised images (B, 3, H, W)."""
        # No graph is kept for the frozen layers, and their batch norms keep their statistics.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._frozen_end == 0):
            stem = self.features[: self._frozen_end](images_BCHW)
        tap = self.features[self._frozen_end : self._tap_end](stem)
        return TrunkFeatures(tap, self.features[self._tap_end :](tap))

    def train(self, mode: bool = True) -> "Trunk":
        """Switch between training and evaluation; frozen layers stay in evaluation."""
        super().train(mode)
        self.features[: self._frozen_end].eval()
        return self


def trunk_spec(name: str) -> TrunkSpec:
    """Return a trunk's layout.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in TRUNKS:
        raise ConfigError(unknown_name("trunk", name, tuple(TRUNKS)))
    return TRUNKS[name]


def _vgg16_features() -> nn.Sequential:
    """Return VGG-16's convolutions without the final pooling: relu5_3 is (B, 512, H/16, W/16)."""
    features = nn.Sequential(*make_layers(cfgs["D"])[:30])
    for layer in features:
        # A rectifier in place would overwrite the tap.
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return features


def _tiny_features() -> nn.Sequential:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 48)
    )
