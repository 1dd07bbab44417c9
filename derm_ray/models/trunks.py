"""Convolutional trunks: frozen stem, trained body, a tap in the middle and the last feature map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.registry import Registry

Channels = tuple[float, float, float]
"""One number for each of R, G and B."""


class TrunkFeatures(NamedTuple):
    """The map (B, C, H, W) that the cross sub-network reads (the paper's l-th layer, Eq. 4), and the last one after its
    ReLU.
    """

    tap_BCHW: Tensor
    last_BCHW: Tensor


@dataclass(frozen=True)
class TrunkSpec:
    """A kind of trunk: its layers, their layout, the input they expect, and the source of their weights.

    Attributes:
        make: builds the layers with fresh weights.
        channels: channels of the tap and of the last map.
        taps: tap name -> index just after it; the first is the default.
        freezes: name -> index just after the last frozen layer; ``none`` is always there.
        mean, std: normalization of RGB in 0..1 that the layers expect; the default is ImageNet's.
        pretrained: returns ImageNet weights by the layers' key names; ``None`` for a trunk trained from scratch.
    """

    make: Callable[[], nn.Sequential]
    channels: int
    taps: Mapping[str, int]
    freezes: Mapping[str, int]
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None


TRUNKS: Registry[TrunkSpec] = Registry(
    "trunk",
    {
        "vgg16": "derm_ray.models.backbones:VGG16",
        "googlenet": "derm_ray.models.backbones:GOOGLENET",
        "resnet50": "derm_ray.models.backbones:RESNET50",
        "tiny": "derm_ray.models.backbones:TINY",
    },
)


class Trunk(nn.Module):
    """A trunk from the registry; it normalizes images itself, with mean and std among its weights.

    Args:
        name: a key of :data:`TRUNKS`.
        tap: a key of the trunk's taps; ``None`` is its default.
        freeze: ``none``, or a key of the trunk's freezes; the stem, the layers up to there, gets no gradient.
        body_only: leave the stem's layers out: another trunk computes its output.

    Attributes:
        frozen: number of leading layers that are the stem.
        scale, shift: the normalization, of images in 0..255; ``None`` without the stem's layers.

    Raises:
        ConfigError: one of the names is unknown.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, name: str, tap: str | None = None, freeze: str = "none", *, body_only: bool = False) -> None:
        super().__init__()
        spec = TRUNKS[name]
        tap = tap or next(iter(spec.taps))
        freezes = {"none": 0, **spec.freezes}
        for kind, value, known in (("tap", tap, spec.taps), ("freeze", freeze, freezes)):
            if value not in known:
                raise ConfigError(unknown_name(f"{kind} of trunk {name}", value, tuple(known)))
        self.name = name
        self.channels = spec.channels
        start = freezes[freeze]
        layers = spec.make()
        self.features = layers[start:] if body_only else layers
        self.frozen = 0 if body_only else start
        self._tap = spec.taps[tap] - (start if body_only else 0)
        self.features[: self.frozen].requires_grad_(False)
        mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
        self.register_buffer("scale", None if body_only else 255 * std)
        self.register_buffer("shift", None if body_only else mean / std)

    def stem(self, images_BCHW: Tensor) -> Tensor:
        """Return the frozen layers' output for images (B, 3, H, W), RGB 0..255, uint8 or float.

        Without a graph where there are frozen layers; of a trunk without its stem, the input as it is.
        """
        if self.scale is None or self.shift is None:
            return images_BCHW
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen == 0):
            normalized = images_BCHW.float() / self.scale - self.shift
            return torch.as_tensor(self.features[: self.frozen](normalized))

    def stem_state(self) -> dict[str, Tensor]:
        """Return what decides the stem's output: its part of the state dict."""
        layers = self.features[: self.frozen].state_dict(prefix="features.")
        return {"scale": torch.as_tensor(self.scale), "shift": torch.as_tensor(self.shift), **layers}

    def body(self, stem_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map from the stem's output."""
        tap = self.features[self.frozen : self._tap](stem_BCHW)
        return TrunkFeatures(tap, self.features[self._tap :](tap))

    def forward(self, images_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map of images; see :meth:`stem`."""
        return self.body(self.stem(images_BCHW))

    def train(self, mode: bool = True) -> "Trunk":
        """Switch between training and evaluation; the frozen stem's batch norms keep their statistics."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self
