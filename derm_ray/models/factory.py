"""Networks by configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.models.cam import CAM_MODES, CamStream
from derm_ray.models.heads import HEADS, CamHead, Head
from derm_ray.models.networks import CrossSubnetwork, PairCam, PairNetwork, PatientNetwork, ShareNet, SoleNet, Stream
from derm_ray.models.trunks import TRUNKS, Trunk, find_tap

NETWORKS = ("sole", "share", "triple")


@dataclass(frozen=True)
class CamConfig:
    """The CAM network inside a CAM-BP network.

    Attributes:
        trunk: a key of :data:`derm_ray.models.trunks.TRUNKS`.
        classes: its number of classes.
        networks: 1 for both modalities, 2 for one each.
        mode: see :func:`derm_ray.models.cam.saliency`.
        stem: freeze point of the pair network's trunk up to which both are the same and computed once;
            ``None`` where the CAM network sees the images itself.
    """

    trunk: str
    classes: int
    networks: int = 1
    mode: str = "relu_sum"
    stem: str | None = None

    def __post_init__(self) -> None:
        TRUNKS[self.trunk]
        if self.mode not in CAM_MODES:
            raise ConfigError(unknown_name("cam_mode", self.mode, CAM_MODES))


@dataclass(frozen=True)
class NetworkConfig:
    """An architecture; it determines every tensor's name and shape.

    Attributes:
        network: ``sole``, ``share`` or ``triple``.
        trunk: name of the trunk.
        head: name of the head; ``cam`` makes a CAM network.
        classes: number of diagnoses.
        tap: layer of the trunk whose output the cross sub-network reads; ``None`` is the trunk's default (relu5_2 of
            VGG-16).
        rank: of bilinear heads: channels left before the Gram matrix; ``None`` keeps all.
        cam: of heads that need a map, and only of these.
        patient: length of the encoded patient data; ``None``: it uses none.
    """

    network: str = "triple"
    trunk: str = "vgg16"
    head: str = "gap"
    classes: int = 15
    tap: str | None = None
    rank: int | None = None
    cam: CamConfig | None = None
    patient: int | None = None

    def __post_init__(self) -> None:
        TRUNKS[self.trunk]
        if self.network not in NETWORKS:
            raise ConfigError(unknown_name("network", self.network, NETWORKS))
        head = HEADS[self.head]
        if head.needs_map != (self.cam is not None):
            raise ConfigError(f"head {self.head} {'requires a' if head.needs_map else 'takes no'} CAM network.")
        if self.rank is not None and not head.takes_rank:
            raise ConfigError(f"rank {self.rank} applies to bilinear heads only. Remove it for head {self.head}.")
        if self.head == "cam" and self.network == "triple":
            raise ConfigError("a CAM network takes one image. Use network share (one for both modalities) or sole.")
        if self.head == "cam" and self.patient is not None:
            raise ConfigError("a CAM network takes no patient data. Remove patient_data for head cam.")

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Read an architecture back; a ``ConfigError`` names what this version does not know."""
        cam = values.get("cam")
        return cls(**{**values, "cam": CamConfig(**cam) if cam is not None else None})


def build_network(config: NetworkConfig, *, freeze: str = "none", dropout: float = 0.0) -> PairNetwork:
    """Return a network with fresh weights.

    Args:
        config: the architecture.
        freeze: see :class:`derm_ray.models.trunks.Trunk`; a CAM network that shares the stem decides it.
        dropout: probability in the heads.

    Raises:
        ConfigError: the tap or freeze point is unknown to the trunk.
    """
    cam = _build_cam(config.cam) if config.cam is not None else None
    if config.cam is not None and config.cam.stem is not None:
        freeze = config.cam.stem

    def head(channels: int, *, from_scratch: bool) -> Head:
        make = HEADS[config.head]
        return make(channels, config.classes, dropout=dropout, from_scratch=from_scratch, rank=config.rank)

    def stream() -> Stream:
        trunk = Trunk(config.trunk, config.tap, freeze)
        return Stream(trunk, head(trunk.channels, from_scratch=False))

    def patient() -> PatientNetwork | None:
        # Built last, so that the other layers start from the same weights with and without patient data.
        return PatientNetwork(config.patient, config.classes) if config.patient is not None else None

    if config.network == "sole":
        return SoleNet(stream(), stream(), cam, patient())
    if config.network == "share":
        return ShareNet(stream(), None, cam, patient())
    channels = find_tap(config.trunk, config.tap).channels
    cross = CrossSubnetwork(channels, head(channels, from_scratch=True))
    return ShareNet(stream(), cross, cam, patient())


def _build_cam(config: CamConfig) -> PairCam:
    def stream() -> CamStream:
        trunk = Trunk(config.trunk, freeze=config.stem or "none", body_only=config.stem is not None)
        return CamStream(trunk, CamHead(trunk.channels, config.classes), config.mode)

    return PairCam(*(stream() for _ in range(config.networks)), from_stem=config.stem is not None)
