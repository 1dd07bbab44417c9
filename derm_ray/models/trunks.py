"""Convolutional trunks: frozen stem, trained body, a tap in the middle and the last feature map."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from derm_ray.errors import ConfigError, unknown_name


class TrunkFeatures(NamedTuple):
    """Output of a trunk for one batch.

    Attributes:
        tap_BCHW: the map that the cross sub-network reads (the paper's l-th layer, Eq. 4).
        last_BCHW: the last map after its ReLU, before the final pooling.
    """

    tap_BCHW: Tensor
    last_BCHW: Tensor


@dataclass(frozen=True)
class TrunkSpec:
    """Layout of a trunk's ``features`` sequence.

    Attributes:
        make: builds the sequence with fresh weights.
        channels: channels of the tap and of the last map.
        taps: tap name -> index just after it; the first is the default.
        freezes: name -> index just after the last frozen layer.
        pretrained: torchvision's ImageNet weights; ``None`` for a trunk that is trained from scratch.
    """

    make: Callable[[], nn.Sequential]
    channels: int
    taps: Mapping[str, int]
    freezes: Mapping[str, int]
    pretrained: models.WeightsEnum | None


def _vgg16_features() -> nn.Sequential:
    """Return VGG-16's convolutions without the final pooling: relu5_3 is (B, 512, H/16, W/16)."""
    return nn.Sequential(*make_layers(cfgs["D"])[:30])


class _ToUnit(nn.Module):
    """From ImageNet's mean and deviation to -1..1, which torchvision's GoogLeNet weights expect."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        mean = images_BCHW.new_tensor((0.485, 0.456, 0.406))[:, None, None]
        deviation = images_BCHW.new_tensor((0.229, 0.224, 0.225))[:, None, None]
        return (images_BCHW * deviation + mean) * 2 - 1


def _googlenet_features() -> nn.Sequential:
    """Return GoogLeNet cut after inception4e: (B, 832, H/16, W/16) (Ge et al. 2017, section 3; Zhou et al. 2016)."""
    network = models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    layers: list[tuple[str, nn.Module]] = [("to_unit", _ToUnit())]
    for name, layer in network.named_children():
        layers.append((name, layer))
        if name == "inception4e":
            break
    return nn.Sequential(OrderedDict(layers))


def _resnet50_features() -> nn.Sequential:
    """Return ResNet-50 without pooling and classifier: (B, 2048, H/32, W/32) (He et al. 2016)."""
    network = models.resnet50(weights=None)
    return nn.Sequential(OrderedDict(list(network.named_children())[:-2]))


def _tiny_features() -> nn.Sequential:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 48)
    )


TRUNKS: Mapping[str, TrunkSpec] = {
    "vgg16": TrunkSpec(
        _vgg16_features,
        512,
        {"relu5_2": 28, "relu5_1": 26, "relu5_3": 30},
        {"none": 0, "pool4": 24},
        models.VGG16_Weights.IMAGENET1K_V1,
    ),
    "googlenet": TrunkSpec(
        _googlenet_features,
        832,
        {"inception4e": 14},
        {"none": 0, "maxpool3": 9},
        models.GoogLeNet_Weights.IMAGENET1K_V1,
    ),
    "resnet50": TrunkSpec(
        _resnet50_features, 2048, {"layer4": 8}, {"none": 0, "layer3": 7}, models.ResNet50_Weights.IMAGENET1K_V1
    ),
    "tiny": TrunkSpec(_tiny_features, 48, {"relu3_1": 11}, {"none": 0, "pool2": 8}, None),
}
"""``vgg16`` is the paper's (Simonyan and Zisserman 2014), ``googlenet`` its CAM network's, ``resnet50`` its
comparison; ``tiny`` is for tests and the demo, trained from scratch."""


def trunk_spec(name: str) -> TrunkSpec:
    """Return a trunk's layout.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in TRUNKS:
        raise ConfigError(unknown_name("trunk", name, tuple(TRUNKS)))
    return TRUNKS[name]


class Trunk(nn.Module):
    """A trunk with torchvision's key names (``features.N.weight`` for VGG-16).

    Args:
        name: a key of :data:`TRUNKS`.
        tap: a key of the trunk's taps; ``None`` is its default.
        freeze: a key of the trunk's freezes; the stem, the layers up to there, gets no gradient.
        body_only: leave the stem's layers out: another trunk computes its output.

    Attributes:
        frozen: number of leading layers that are the stem.

    Raises:
        ConfigError: one of the names is unknown.
    """

    def __init__(self, name: str, tap: str | None = None, freeze: str = "none", *, body_only: bool = False) -> None:
        super().__init__()
        spec = trunk_spec(name)
        tap = tap or next(iter(spec.taps))
        for kind, value, known in (("tap", tap, spec.taps), ("freeze", freeze, spec.freezes)):
            if value not in known:
                raise ConfigError(unknown_name(f"{kind} of trunk {name}", value, tuple(known)))
        self.name = name
        self.channels = spec.channels
        start = spec.freezes[freeze]
        layers = spec.make()
        self.features = layers[start:] if body_only else layers
        self.frozen = 0 if body_only else start
        self._tap = spec.taps[tap] - (start if body_only else 0)
        self.features[: self.frozen].requires_grad_(False)

    def stem(self, images_BCHW: Tensor) -> Tensor:
        """Return the frozen layers' output for normalized images (B, 3, H, W), without a graph where there are any."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen == 0):
            return torch.as_tensor(self.features[: self.frozen](images_BCHW))

    def body(self, stem_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map from the stem's output."""
        tap = self.features[self.frozen : self._tap](stem_BCHW)
        return TrunkFeatures(tap, self.features[self._tap :](tap))

    def forward(self, images_BCHW: Tensor) -> TrunkFeatures:
        """Return tap and last map of normalized images (B, 3, H, W)."""
        return self.body(self.stem(images_BCHW))

    def train(self, mode: bool = True) -> "Trunk":
        """Switch between training and evaluation; the frozen stem's batch norms keep their statistics."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self
