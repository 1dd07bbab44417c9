"""The initial network of a run."""

from dataclasses import dataclass

import torch

from derm_ray import bundle
from derm_ray.data.patient import PatientEncoder
from derm_ray.errors import ConfigError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.heads import HEADS
from derm_ray.models.networks import PairNetwork
from derm_ray.models.trunks import TRUNKS, Trunk
from derm_ray.models.weights import (
    State,
    describe_cam,
    load_cam,
    load_init_weights,
    load_trunk_weights,
    read_init_weights,
)
from derm_ray.training.config import TrainConfig


@dataclass(frozen=True)
class Start:
    """A network with its initial weights, and the digest of the CAM network in it."""

    architecture: NetworkConfig
    network: PairNetwork
    cam_digest: str | None


def make_start(
    config: TrainConfig, init_weights: str | None, cam: str | None, patient: PatientEncoder | None = None
) -> Start:
    """Return the initial network of a run; the seed determines all weights that are not loaded.

    ``cam`` is the bundle of the CAM network of a head that needs a map, ``patient`` the encoding of patient data.

    Raises:
        ConfigError, BundleError, StorageError: a part is missing, cannot be read, or does not fit.
    """
    if HEADS[config.head].needs_map != (cam is not None):
        raise ConfigError(
            f"head={config.head} needs --cam, the bundle of a network trained with head=cam."
            if cam is None
            else "--cam is for heads that need a map, such as cam_bp; "
            f"this recipe's head is {config.head}. Remove --cam."
        )
    state: State | None = None
    if not TRUNKS[config.trunk].from_scratch or init_weights is not None:
        state = read_init_weights(config.trunk, init_weights)
    source = init_weights or f"the download for {config.trunk}"

    part, trained = None, None
    if cam is not None:
        trained = bundle.load_bundle(cam)
        if trained.members > 1:
            raise ConfigError(f"--cam {cam}: an ensemble. Give the bundle of one of its networks.")
        trunk = Trunk(config.trunk, config.tap, config.freeze)
        if state is not None:
            load_trunk_weights(trunk, state, source)
        part = describe_cam(trained.network, trained.weights, config.cam_mode, trunk, config.freeze)
    architecture = config.architecture(part, patient.width if patient is not None else None)
    torch.manual_seed(config.seed)
    network = build_network(architecture, freeze=config.freeze, dropout=config.dropout)
    if state is not None:
        load_init_weights(network, state, source)
    if trained is not None:
        load_cam(network, trained.weights)
    return Start(architecture, network, trained.model_digest if trained is not None else None)
