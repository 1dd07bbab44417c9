"""Every network of timm that gives feature maps, as a trunk ``timm/<name>``."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import timm
import torch
from timm.layers import Format
from timm.models import FeatureListNet
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from derm_ray.data.preprocessing import INTERPOLATIONS
from derm_ray.errors import ConfigError, StorageError, did_you_mean
from derm_ray.models.trunks import Layer, TrunkSpec


@lru_cache
def make_spec(name: str) -> TrunkSpec:
    """Return the trunk of a network of timm.

    A network whose parts follow one another has a layer per stride: ``stride4`` and so on. A vision transformer has
    one per block: ``block1`` and so on. Any other network is one layer, ``last``.

    Args:
        name: timm's, also with the tag of its weights: ``convnext_tiny.fb_in22k``.

    Raises:
        ConfigError: timm has no such network, or gives no feature maps of it.
    """
    if not timm.is_model(name):
        known = [f"timm/{one}" for one in timm.list_models()]
        hint = did_you_mean(f"timm/{name}", known)
        raise ConfigError(f"trunk timm/{name}: timm {timm.__version__} has no network of this name.{hint}")
    network, _, tag = name.partition(".")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{network}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"trunk timm/{name}: {network} has no weights of tag {tag!r}. Known: {', '.join(tags)}.")
    with torch.device("meta"):
        whole = timm.create_model(name)
        try:
            parts = _split(name, whole)
        except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"trunk timm/{name}: timm gives no feature maps of this network ({error}). Choose another one."
            ) from error
    config = timm.get_pretrained_cfg(name)
    assert config is not None, "every network of timm has a configuration"
    return TrunkSpec(
        make=lambda: _split(name, whole).layers,
        channels=list(parts.ends.values())[-1].channels,
        taps={parts.tap: parts.ends[parts.tap], **parts.ends},
        freezes={key: layer.end for key, layer in parts.ends.items()},
        mean=config.mean,
        std=config.std,
        size=config.input_size[-1],
        interpolation=config.interpolation if config.interpolation in INTERPOLATIONS else "bilinear",
        pretrained=partial(_download, name) if config.has_weights else None,
        published=whole.state_dict,
        source_key=parts.source_key,
        as_map=parts.as_map,
    )


def _download(name: str) -> Mapping[str, Tensor]:
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # else it tells of every try
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # the hub has many
        raise StorageError(
            f"the weights of timm/{name} cannot be downloaded ({error}). Give a local file with --init-weights."
        ) from error


@dataclass(frozen=True)
class _Parts:
    """A network in layers; for the last three see :class:`derm_ray.models.trunks.TrunkSpec`.

    Attributes:
        layers: with fresh weights.
        ends: name -> where this part of the network ends, from the first to the last.
        tap: the default tap.
    """

    layers: nn.Sequential
    ends: Mapping[str, Layer]
    tap: str
    source_key: Callable[[str], str]
    as_map: Callable[[Tensor], Tensor] | None = None


def _split(name: str, whole: nn.Module) -> _Parts:
    if type(whole) in (VisionTransformer, VisionTransformerDistilled):  # subclasses may go another way
        return _split_transformer(name)
    # timm's extractors flatten two levels: layers_0 of the extractor is layers.0 of the network.
    pairs = ((key, part) for key, child in whole.named_children() for part, _ in child.named_children())
    nested = {f"{key}_{part}": f"{key}.{part}" for key, part in pairs}

    def source_key(key: str) -> str:
        layer, _, rest = key.removeprefix("last.network.").removeprefix("model.").partition(".")
        return f"{nested.get(layer, layer)}.{rest}" if rest else layer

    network = _features(name)
    info = network.feature_info
    if not isinstance(network, FeatureListNet):
        last = nn.Sequential(OrderedDict(last=_Last(network)))
        return _Parts(last, {"last": Layer(1, info.channels()[-1])}, "last", source_key)
    layers = OrderedDict(network.items())
    names = list(layers)
    found = zip(info.module_name(), info.reduction(), info.channels(), strict=True)
    ends = {f"stride{stride}": Layer(names.index(at.replace(".", "_")) + 1, width) for at, stride, width in found}
    as_map = _channels_first if network.output_fmt == Format.NHWC else None
    return _Parts(nn.Sequential(layers), ends, list(ends)[-2:][0], source_key, as_map)


def _features(name: str) -> Any:
    """Return timm's feature extractor; of those that take one size by default, one that takes any."""
    try:
        return timm.create_model(name, features_only=True, dynamic_img_size=True)
    except TypeError:
        network = timm.create_model(name, features_only=True)
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        # Asked for like this, timm gives a sequence of these two as well.
        asked = {"flatten_sequential": True, "out_indices": tuple(range(len(network.feature_info.channels())))}
        return timm.create_model(name, features_only=True, feature_cfg=asked)
    return network


class _Last(nn.Module):
    """The last map of a feature extractor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return torch.as_tensor(self.network(images_BCHW)[-1])


def _channels_first(map_BHWC: Tensor) -> Tensor:
    return map_BHWC.permute(0, 3, 1, 2)


class _Embedding(nn.Module):
    """The start of a vision transformer: images (B, 3, H, W) to tokens (B, N, C)."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        tokens = self.network._pos_embed(self.network.patch_embed(images_BCHW))
        return torch.as_tensor(self.network.norm_pre(self.network.patch_drop(tokens)))


def _split_transformer(name: str) -> _Parts:
    network = timm.create_model(name, dynamic_img_size=True)
    blocks, norm, width = list(network.blocks), network.norm, network.embed_dim
    network.blocks, network.norm = nn.Identity(), nn.Identity()
    network.attn_pool, network.fc_norm, network.head = None, nn.Identity(), nn.Identity()
    layers: OrderedDict[str, nn.Module] = OrderedDict(embed=_Embedding(network))
    layers.update((f"block{number}", block) for number, block in enumerate(blocks, 1))
    layers["norm"] = norm
    ends = {f"block{number}": Layer(number + 1, width) for number in range(1, len(blocks))}
    ends[f"block{len(blocks)}"] = Layer(len(blocks) + 2, width)
    tap = f"block{math.ceil(len(blocks) * 3 / 4)}"

    def source_key(key: str) -> str:
        layer, _, rest = key.partition(".")
        if layer.startswith("block"):
            return f"blocks.{int(layer.removeprefix('block')) - 1}.{rest}"
        return key.removeprefix("embed.network.")

    return _Parts(nn.Sequential(layers), ends, tap, source_key, partial(_grid, network.num_prefix_tokens))


def _grid(prefix: int, tokens_BNC: Tensor) -> Tensor:
    """Return a square image's tokens as a map (B, C, H, W), without those before the image's."""
    tokens = tokens_BNC[:, prefix:]
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
