"""Initial weights: ImageNet weights of the trunks, and the trained CAM network of CAM-BP."""

from collections.abc import Mapping
from http.client import HTTPException

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from derm_ray import storage
from derm_ray.errors import ConfigError, StorageError
from derm_ray.models.factory import CamConfig, NetworkConfig
from derm_ray.models.networks import PairNetwork, Stream
from derm_ray.models.trunks import TRUNKS, Trunk

State = Mapping[str, Tensor]


def read_init_weights(trunk: str, uri: str | None) -> State:
    """Return published weights by their own key names, from a safetensors file or the download that the trunk names.

    Raises:
        StorageError: the file or the download is not available.
        ConfigError: it is not such a file, or the trunk is trained from scratch.
    """
    spec = TRUNKS[trunk]
    if spec.from_scratch:
        raise ConfigError(f"trunk {trunk} is trained from scratch. Remove --init-weights, or use another trunk.")
    if uri is None:
        if spec.pretrained is None:
            raise ConfigError(f"trunk {trunk} has no weights to download. Give a safetensors file with --init-weights.")
        try:
            return spec.pretrained()
        except (OSError, HTTPException, RuntimeError) as error:  # the last is a wrong hash
            raise StorageError(
                f"the {trunk} trunk's weights cannot be downloaded ({error}). Give a local file with --init-weights."
            ) from error
    try:
        return load_safetensors(storage.read_bytes(uri))
    except StorageError:
        raise
    except Exception as error:
        raise ConfigError(f"{uri}: not a safetensors file ({error}).") from error


def load_init_weights(network: PairNetwork, state: State, source: str) -> None:
    """Load ImageNet weights into every stream's trunk, and the part that fits its head; ``source`` is for messages.

    Raises:
        ConfigError: they do not fit the trunk.
    """
    for stream in (module for module in network.modules() if isinstance(module, Stream)):
        load_trunk_weights(stream.trunk, state, source)
        stream.head.load_pretrained(state, source)


def load_trunk_weights(trunk: Trunk, state: State, source: str) -> None:
    """Load published weights into one trunk; see :func:`load_init_weights`."""
    spec = TRUNKS[trunk.name]
    published = state if spec.published is None else spec.published()
    layers = trunk.features.state_dict()
    keys = {key: spec.source_key(key) for key in layers}
    given = {key: state[name].to(layers[key].dtype) for key, name in keys.items() if name in state}
    problems = {
        "missing": [name for name in keys.values() if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in published],
        "of another shape": [
            f"{keys[key]} {tuple(value.shape)}, not {tuple(layers[key].shape)}"
            for key, value in given.items()
            if value.shape != layers[key].shape
        ],
        "of another type": [
            f"{keys[key]} {state[keys[key]].dtype}"
            for key in given
            if state[keys[key]].is_floating_point() != layers[key].is_floating_point()
        ],
        "with values that are not finite numbers": [
            keys[key] for key, value in given.items() if not torch.isfinite(value).all()
        ],
    }
    if any(problems.values()):
        lists = [f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names]
        raise ConfigError(
            f"{source}: these weights do not fit trunk {trunk.name}. Give this network's. Tensors {'; '.join(lists)}."
        )
    trunk.features.load_state_dict({**layers, **given})


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def describe_cam(trained: NetworkConfig, weights: State, mode: str, trunk: Trunk, freeze: str) -> CamConfig:
    """Return how a trained CAM network goes into a network that is to be trained with this trunk and freeze point.

    The stem is shared where both trunks are the same and the frozen layers hold the same numbers.

    Raises:
        ConfigError: the trained network is not a CAM network.
    """
    if trained.head != "cam":
        raise ConfigError(f"--cam needs a network trained with head=cam; this bundle has head={trained.head}.")
    same = trained.trunk == trunk.name and freeze != "none" and _same_stem(weights, trunk)
    networks = 2 if trained.network == "sole" else 1
    return CamConfig(trained.trunk, trained.classes, networks, mode, freeze if same else None)


def _same_stem(weights: State, trunk: Trunk) -> bool:
    """Return whether every stream of a CAM network has a trunk's normalization and frozen layers."""
    streams = {key.split(".")[0] for key in weights}
    return all(
        torch.equal(value, weights[f"{stream}.trunk.{key}"])
        for key, value in trunk.stem_state().items()
        for stream in streams
    )


def load_cam(network: PairNetwork, weights: State) -> None:
    """Load the streams of a CAM network's state dict into a network built with what :func:`describe_cam` returned."""
    assert network.cam is not None, "a CAM-BP network"
    names = ("stream",) if len(network.cam.streams) == 1 else ("clinical", "dermoscopy")
    for stream, name in zip(network.cam.streams, names, strict=True):
        needed = stream.state_dict()
        stream.load_state_dict({key: weights[f"{name}.{key}"] for key in needed})
