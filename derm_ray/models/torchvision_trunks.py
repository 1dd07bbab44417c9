"""Torchvision's convolutional networks, as trunks ``torchvision/<name>``."""

from collections import OrderedDict
from functools import lru_cache, partial

import torch
from torch import nn
from torchvision import models

from derm_ray.errors import ConfigError, did_you_mean
from derm_ray.models.trunks import Layer, TrunkSpec

_FAMILIES = (
    *("convnext", "densenet", "efficientnet", "mnasnet", "mobilenet", "regnet", "resnet", "resnext", "shufflenet"),
    *("vgg", "wide_resnet"),
)
"""Those that are a sequence up to their last map."""
_SEQUENCES = ("features", "layers", "trunk_output")
_AFTER = ("avgpool", "classifier", "fc")


@lru_cache
def make_spec(name: str) -> TrunkSpec:
    """Return the trunk of a convolutional network of torchvision, with a layer per stride: ``stride4`` and so on.

    Args:
        name: torchvision's.

    Raises:
        ConfigError: torchvision has no such network, or it is not a sequence of convolutional layers.
    """
    known = [one for one in models.list_models(module=models) if one.startswith(_FAMILIES)]
    if name not in known:
        hint = did_you_mean(f"torchvision/{name}", [f"torchvision/{one}" for one in known])
        raise ConfigError(f"trunk torchvision/{name}: not a convolutional network of torchvision.{hint}")
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    layers = _layers(name)
    ends = _ends(layers)
    *_, tap, last = ends
    return TrunkSpec(
        make=partial(_layers, name),
        channels=ends[last].channels,
        taps={tap: ends[tap], **ends},
        freezes={key: layer.end for key, layer in ends.items()},
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        size=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        pretrained=partial(weights.get_state_dict, progress=False, check_hash=True),
        published=lambda: models.get_model(name, weights=None).state_dict(),
        source_key=_source_key,
    )


def _layers(name: str) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for key, child in models.get_model(name, weights=None).named_children():
        if key in _AFTER:
            break
        parts = child.named_children() if key in _SEQUENCES else [("", child)]
        layers.update((f"{key}_{part}" if part else key, layer) for part, layer in parts)
    if name.startswith("densenet"):
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


@torch.no_grad()
def _ends(layers: nn.Sequential) -> dict[str, Layer]:
    """Return the last layer of each stride, and the stride by which it is named."""
    side, ends = 64, {}
    output = torch.zeros(1, 3, side, side)
    for end, layer in enumerate(layers.eval(), 1):
        output = layer(output)
        ends[f"stride{round(side / output.shape[-1])}"] = Layer(end, output.shape[1])
    return ends


def _source_key(key: str) -> str:
    for sequence in _SEQUENCES:
        key = key.replace(f"{sequence}_", f"{sequence}.", 1) if key.startswith(f"{sequence}_") else key
    return key
