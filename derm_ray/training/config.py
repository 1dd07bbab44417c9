"""The recipe of a training run, and its presets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import label_set
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.models.factory import CamConfig, NetworkConfig

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class TrainConfig:
    """A run's recipe; the defaults are the paper's (Ge et al. 2017, section 3), where it gives them.

    Attributes:
        label_set: diagnoses and their order.
        network, trunk, head, tap, rank: see :class:`derm_ray.models.factory.NetworkConfig`.
        cam_mode: how a CAM-BP head's map comes from the CAM network; see :func:`derm_ray.models.cam.saliency`.
        size: side of the input in pixels.
        freeze: trunk layers that are not trained: ``none`` or ``pool4`` (``maxpool3`` of GoogLeNet, ``layer3`` of
            ResNet-50, ``pool2`` of the tiny trunk).
        loss: ``squared`` (Eq. 1-4) or ``cross_entropy`` (footnote 1).
        alpha: weight of the cross sub-network's loss (Eq. 5).
        class_weight: of a pair's loss by its class, mean 1 over train: ``none``, ``inverse`` frequency, or
            ``effective`` number (Cui et al. 2019, Eq. 2, beta 0.999).
        epochs: passes over the training split.
        global_batch_size: pairs per optimizer step over all workers.
        learning_rate: SGD's, of the trunk.
        head_learning_rate: of all layers after the trunks.
        lr_decay: factor on both after every epoch.
        momentum, weight_decay: SGD's.
        clip_norm: bound on the gradient's L2 norm; 0 turns it off.
        dropout: probability in the heads.
        mirror: mirror each training image left-right with probability 1/2.
        freeze_batch_norm: keep every batch norm's statistics and run it in evaluation mode.
        precision: ``auto`` (bf16 where the hardware has it), ``fp32`` or ``bf16``.
        monitor: validation metric that picks the best epoch, of the cross prediction; higher is better.
        seed: of initial weights, order, mirroring and dropout.
    """

    label_set: str = "paper15"
    network: Literal["sole", "share", "triple"] = "triple"
    trunk: Literal["vgg16", "googlenet", "resnet50", "tiny"] = "vgg16"
    head: Literal["gap", "fc", "cam", "bp", "cam_bp"] = "fc"
    tap: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    cam_mode: Literal["relu_sum", "probability", "top1", "literal"] = "relu_sum"
    size: Annotated[int, Field(ge=32)] = 224
    freeze: str = "none"
    loss: Literal["squared", "cross_entropy"] = "squared"
    alpha: NonNegative = 1.5
    class_weight: Literal["none", "inverse", "effective"] = "none"
    epochs: Count = 30
    global_batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 1e-3
    head_learning_rate: Positive = 1e-3
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-5
    clip_norm: NonNegative = 5.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror: bool = True
    freeze_batch_norm: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    monitor: Literal["accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"] = "macro_auroc"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(label_set(self.label_set).diagnoses)

    def architecture(self, cam: CamConfig | None = None) -> NetworkConfig:
        """Return the network this recipe trains.

        Args:
            cam: the CAM network of a ``cam_bp`` head.

        Raises:
            ConfigError: the parts do not go together.
        """
        return NetworkConfig(self.network, self.trunk, self.head, self.classes, self.tap, self.rank, cam)

    @property
    def preprocessing(self) -> Preprocessing:
        """How its images become input."""
        return Preprocessing(self.size)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        return asdict(self)


def paper() -> TrainConfig:
    """The paper's recipe on 224 px; batch size, epochs and gradient clipping are ours, the paper gives none."""
    return TrainConfig()


def cpu() -> TrainConfig:
    """128 px, trunk frozen through pool4 and GAP heads: minutes for a thousand pairs on two cores."""
    return replace(
        paper(),
        head="gap",
        size=128,
        freeze="pool4",
        loss="cross_entropy",
        epochs=8,
        global_batch_size=16,
        head_learning_rate=3e-2,
    )


def debug() -> TrainConfig:
    """The tiny trunk on 64 px, from scratch: seconds."""
    return replace(
        cpu(),
        trunk="tiny",
        size=64,
        freeze="none",
        epochs=2,
        learning_rate=5e-2,
        head_learning_rate=5e-2,
        dropout=0.0,
    )


PRESETS: Mapping[str, Callable[[], TrainConfig]] = {"paper": paper, "cpu": cpu, "debug": debug}


def make_config(preset: str, settings: Mapping[str, str] | Mapping[str, Any] | None = None) -> TrainConfig:
    """Return a preset with some settings changed.

    Args:
        preset: a key of :data:`PRESETS`.
        settings: field name -> value, as text or as its type.

    Raises:
        ConfigError: the preset or a field is unknown, or a value is out of range; all are listed.
    """
    if preset not in PRESETS:
        raise ConfigError(unknown_name("preset", preset, tuple(PRESETS)))
    known = [field.name for field in fields(TrainConfig)]
    for name in settings or {}:
        if name not in known:
            raise ConfigError(unknown_name("setting", name, known))
    return config_from_json({**asdict(PRESETS[preset]()), **(settings or {})})


def config_from_json(values: Mapping[str, Any]) -> TrainConfig:
    """Return the recipe that JSON values describe.

    Raises:
        ConfigError: a value is out of range; all are listed.
    """
    try:
        config = _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigError("invalid setting " + "; ".join(lines)) from error
    label_set(config.label_set)
    return config


_ADAPTER = TypeAdapter(TrainConfig)


def parse_settings(assignments: Sequence[str]) -> dict[str, str]:
    """Parse ``key=value`` arguments.

    Raises:
        ConfigError: one has no ``=``.
    """
    settings: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: expected key=value.")
        settings[key.strip()] = value.strip()
    return settings
