"""Networks by configuration, and the weights they start from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from derm_ray import storage
from derm_ray.errors import ConfigError, StorageError, unknown_name
from derm_ray.models.heads import HEADS, FcHead, make_head
from derm_ray.models.networks import CrossSubnetwork, PairNetwork, ShareNet, SoleNet, Stream
from derm_ray.models.trunks import DEFAULT_TAP, Trunk, trunk_spec

logger = logging.getLogger(__name__)

NETWORKS = ("sole", "share", "triple")


@dataclass(frozen=True)
class NetworkConfig:
    """An architecture; with the class count it determines every tensor's name and shape.

    Attributes:
        network: ``sole``, ``share`` or ``triple``.
        trunk: ``vgg16`` or ``tiny``.
        head: ``gap`` or ``fc``.
        classes: number of diagnoses.
        tap: layer that C_T reads; ``None`` is the trunk's default (relu5_2 of VGG-16).
    """

    network: str = "triple"
    trunk: str = "vgg16"
    head: str = "gap"
    classes: int = 15
    tap: str | None = None

    def __post_init__(self) -> None:
        trunk_spec(self.trunk)
        for kind, value, known in (("network", self.network, NETWORKS), ("head", self.head, HEADS)):
            if value not in known:
                raise ConfigError(unknown_name(kind, value, known))


def build_network(config: NetworkConfig, *, freeze: str = "none", dropout: float = 0.0) -> PairNetwork:
    """Return a network with fresh weights.

    Args:
        config: the architecture.
        freeze: see :class:`derm_ray.models.trunks.Trunk`.
        dropout: probability in the heads.

    Raises:
        ConfigError: the tap or freeze point is unknown to the trunk.
    """
    channels = trunk_spec(config.trunk).channels

    def head(from_scratch: bool) -> nn.Module:
        return make_head(config.head, channels, config.classes, dropout=dropout, from_scratch=from_scratch)

    def stream() -> Stream:
        return Stream(Trunk(config.trunk, config.tap or DEFAULT_TAP[config.trunk], freeze), head(from_scratch=False))

    if config.network == "sole":
        return SoleNet(stream(), stream())
    cross = CrossSubnetwork(channels, head(from_scratch=True)) if config.network == "triple" else None
    return ShareNet(stream(), cross)


def load_init_weights(network: PairNetwork, uri: str | None) -> None:
    """Load ImageNet weights into every trunk, and into fc6/fc7 of the streams where the file has them.

    Args:
        network: changed in place.
        uri: a safetensors file with torchvision's VGG-16 key names, or ``None`` for torchvision's download.

    Raises:
        StorageError: the file or the download is not to be had.
        ConfigError: the file does not fit the trunk.
    """
    state = _read_weights(uri)
    source = uri or "torchvision's VGG-16"
    for stream in (module for module in network.modules() if isinstance(module, Stream)):
        _load_features(stream.trunk, state, source)
        if isinstance(stream.head, FcHead):
            _load_fc(stream.head, state, source)


def load_trunk_weights(trunk: Trunk, uri: str | None) -> None:
    """Load ImageNet weights into one trunk; see :func:`load_init_weights`."""
    _load_features(trunk, _read_weights(uri), uri or "torchvision's VGG-16")


def _load_features(trunk: Trunk, state: Mapping[str, Tensor], source: str) -> None:
    features = {key.removeprefix("features."): v.float() for key, v in state.items() if key.startswith("features.")}
    try:
        trunk.features.load_state_dict(features)
    except RuntimeError as error:
        raise ConfigError(f"{source}: these weights do not fit the trunk: {error}") from error


def _load_fc(head: FcHead, state: Mapping[str, Tensor], source: str) -> None:
    layers = {"classifier.0": head.fc6[0], "classifier.3": head.fc7[0]}
    if not all(f"{name}.weight" in state for name in layers):
        logger.warning("%s has no fc6/fc7: these layers start from random weights.", source)
        return
    for name, layer in layers.items():
        layer.load_state_dict({part: state[f"{name}.{part}"].float() for part in ("weight", "bias")})


def _read_weights(uri: str | None) -> dict[str, Tensor]:
    if uri is None:
        try:
            state: dict[str, Any] = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise StorageError(
                f"torchvision's VGG-16 weights cannot be downloaded ({error}). Give a local file with --init-weights."
            ) from error
        return state
    try:
        return load_safetensors(storage.read_bytes(uri))
    except StorageError:
        raise
    except Exception as error:
        raise ConfigError(f"{uri}: not a safetensors file ({error}).") from error


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable and frozen parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
