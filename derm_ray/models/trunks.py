"""Trunks: frozen stem, trained body, a tap in the middle and the last feature map."""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.registry import Registry

MIN_SIZE = 32
"""Of a recipe, in pixels."""
FARTHEST = 512
"""How many pixels above a size that a trunk does not take another one is sought, among even numbers."""

Channels = tuple[float, float, float]
"""One number for each of R, G and B."""


class TrunkFeatures(NamedTuple):
    """The map (B, C, H, W) that the cross sub-network reads (the paper's l-th layer, Eq. 4), and the last one after its
    ReLU.
    """

    tap_BCHW: Tensor
    last_BCHW: Tensor


class Layer(NamedTuple):
    """A point in a trunk: the index just after a layer, and the channels of that layer's map."""

    end: int
    channels: int


@dataclass(frozen=True)
class TrunkSpec:
    """A kind of trunk: its layers, their layout, the input they expect, and the source of their weights.

    Attributes:
        make: builds the layers with fresh weights.
        channels: channels of the last map.
        taps: name -> the layer; the first is the default.
        freezes: name -> index just after the last frozen layer; ``none`` is always there.
        mean, std: normalization of RGB in 0..1 that the layers expect; the default is ImageNet's.
        size: side of the images that the weights were trained on, in pixels.
        interpolation: how these were resized: a key of :data:`derm_ray.data.preprocessing.INTERPOLATIONS`.
        pretrained: downloads published weights, by their own key names; ``None`` where there is no download.
        published: returns the key names of the whole published network; ``None``: any others than needed may be there.
        source_key: returns the published key name of a tensor of the layers.
        as_map: turns the layers' output, in a form of their own, into a map (B, C, H, W); ``None``: it is one.
    """

    make: Callable[[], nn.Sequential]
    channels: int
    taps: Mapping[str, Layer]
    freezes: Mapping[str, int]
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    size: int = 224
    interpolation: str = "bilinear"
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None
    published: Callable[[], Collection[str]] | None = None
    source_key: Callable[[str], str] = str
    as_map: Callable[[Tensor], Tensor] | None = None

    @property
    def from_scratch(self) -> bool:
        """Whether there are no weights to start from."""
        return self.pretrained is None and self.published is None


TRUNKS: Registry[TrunkSpec] = Registry(
    "trunk",
    {
        "vgg16": "derm_ray.models.backbones:VGG16",
        "googlenet": "derm_ray.models.backbones:GOOGLENET",
        "googlenet_2014": "derm_ray.models.backbones:GOOGLENET_2014",
        "resnet50": "derm_ray.models.backbones:RESNET50",
        "resnet50_v1": "derm_ray.models.backbones:RESNET50_V1",
        "tiny": "derm_ray.models.backbones:TINY",
    },
    families={
        "timm": "derm_ray.models.timm_trunks:make_spec",
        "torchvision": "derm_ray.models.torchvision_trunks:make_spec",
    },
)


def find_tap(name: str, tap: str | None) -> Layer:
    """Return a tap of a trunk; ``None`` is its default.

    Raises:
        ConfigError: the trunk or the tap is unknown.
    """
    taps = TRUNKS[name].taps
    if tap is not None and tap not in taps:
        raise ConfigError(unknown_name(f"tap of trunk {name}", tap, tuple(taps)))
    return taps[tap or next(iter(taps))]


class Trunk(nn.Module):
    """A trunk from the registry; it normalizes images itself, with mean and std among its weights.

    Args:
        name: a key of :data:`TRUNKS`.
        tap: a key of the trunk's taps; ``None`` is its default.
        freeze: ``none``, or a key of the trunk's freezes; the stem, the layers up to there, gets no gradient.
        body_only: leave the stem's layers out: another trunk computes its output.

    Attributes:
        frozen: number of leading layers that are the stem.
        channels: of the last map.
        scale, shift: the normalization, of images in 0..255; ``None`` without the stem's layers.

    Raises:
        ConfigError: one of the names is unknown, or the tap is in the stem.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, name: str, tap: str | None = None, freeze: str = "none", *, body_only: bool = False) -> None:
        super().__init__()
        spec, tap_layer = TRUNKS[name], find_tap(name, tap)
        freezes = {"none": 0, **spec.freezes}
        if freeze not in freezes:
            raise ConfigError(unknown_name(f"freeze of trunk {name}", freeze, tuple(freezes)))
        self.name = name
        self.channels = spec.channels
        start = freezes[freeze]
        if start > tap_layer.end:
            raise ConfigError(f"the tap of trunk {name} is frozen by freeze={freeze}. Choose a later tap.")
        layers = spec.make()
        self.features = layers[start:] if body_only else layers
        self.frozen = 0 if body_only else start
        self._tap = tap_layer.end - (start if body_only else 0)
        self._as_map = spec.as_map
        self._ends = [end - (start if body_only else 0) for end in spec.freezes.values()]
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

    def stages(self) -> list[nn.Sequential]:
        """Return the layers by stage, which end where the trunk can be frozen; the last ones are one more."""
        ends = sorted({0, *(end for end in self._ends if 0 < end < len(self.features)), len(self.features)})
        return [self.features[start:end] for start, end in itertools.pairwise(ends)]

    def stem_state(self) -> dict[str, Tensor]:
        """Return what decides the stem's output: its part of the state dict."""
        layers = self.features[: self.frozen].state_dict(prefix="features.")
        return {"scale": torch.as_tensor(self.scale), "shift": torch.as_tensor(self.shift), **layers}

    def body(self, stem_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map from the stem's output."""
        tap = self.features[self.frozen : self._tap](stem_BCHW)
        last = self.features[self._tap :](tap)
        if self._as_map is not None:
            tap, last = self._as_map(tap), self._as_map(last)
        return TrunkFeatures(tap, last)

    def forward(self, images_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map of images; see :meth:`stem`."""
        return self.body(self.stem(images_BCHW))

    def train(self, mode: bool = True) -> "Trunk":
        """Switch between training and evaluation; the frozen stem's batch norms keep their statistics."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self


def check_trunk(name: str, tap: str | None, freeze: str, size: int) -> None:
    """Check that a trunk has a tap and a freeze point, and takes square images of ``size`` pixels.

    Raises:
        ConfigError: it does not. The message names the nearest sizes that it takes.
    """
    try:
        with torch.device("meta"):
            trunk = Trunk(name, tap, freeze).eval()
    except NotImplementedError:  # a network that cannot be built without memory: a convolutional one
        return
    if _takes(trunk, size):
        return
    below, above = range((size - 1) // 2 * 2, MIN_SIZE - 1, -2), range(size // 2 * 2 + 2, size + FARTHEST, 2)
    nearest = (next((str(other) for other in way if _takes(trunk, other)), None) for way in (below, above))
    sizes = " or ".join(other for other in nearest if other is not None)
    raise ConfigError(f"trunk {name} does not take images of {size} px. Choose {sizes or 'another'}, or another trunk.")


@torch.no_grad()
def _takes(trunk: Trunk, size: int) -> bool:
    try:
        trunk(torch.zeros(1, 3, size, size, device="meta"))
    except NotImplementedError:
        return True
    except (AssertionError, RuntimeError):
        return False
    return True
