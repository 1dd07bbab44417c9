"""The recipe of a training run, and its presets."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import label_set
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.evaluation.metrics import class_metrics
from derm_ray.inference.precision import PRECISIONS
from derm_ray.models.cam import CAM_MODES
from derm_ray.models.factory import NETWORKS, CamConfig, NetworkConfig
from derm_ray.models.heads import HEADS
from derm_ray.models.trunks import TRUNKS
from derm_ray.registry import Registry
from derm_ray.training import PRESETS
from derm_ray.training.losses import LOSSES


class OneOf(NamedTuple):
    """Marks a setting of a ``kind`` whose values are the names of a registry, or of another closed list or its
    function.
    """

    kind: str
    known: Collection[str] | Callable[[], Collection[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the check, for pydantic."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the type and all names, for pydantic."""
        return {**handler(schema), "enum": list(self._names())}

    def _names(self) -> Collection[str]:
        return self.known() if callable(self.known) else self.known

    def _check(self, name: str) -> str:
        names = self._names()
        try:
            if isinstance(names, Registry):
                names[name]
            elif name not in names:
                raise ConfigError(unknown_name(self.kind, name, tuple(names)))
        except ConfigError as error:
            raise PydanticCustomError("unknown_name", "{message}", {"message": str(error)}) from error
        return name


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class TrainConfig:
    """A run's recipe; the defaults are the paper's (Ge et al. 2017, section 3), where it gives them.

    Attributes:
        label_set: diagnoses and their order.
        network, trunk, head, tap, rank: see :class:`derm_ray.models.factory.NetworkConfig`.
        cam_mode: how a CAM-BP head's map comes from the CAM network; see :func:`derm_ray.models.cam.saliency`.
        size: side of the input in pixels.
        freeze: trunk layers that are not trained: ``none``, or a freeze point of the trunk (``pool4`` of VGG-16).
        loss: ``squared`` (Eq. 1-4) or ``cross_entropy`` (footnote 1).
        label_smoothing: share of a label's weight that goes to all classes alike, of loss ``cross_entropy``.
        alpha: weight of the cross sub-network's loss (Eq. 5).
        class_weight: of a pair's loss by its class, mean 1 over train: ``none``, ``inverse`` frequency, or
            ``effective`` number (Cui et al. 2019, Eq. 2, beta 0.999).
        epochs: passes over the training split.
        global_batch_size: pairs per optimizer step over all workers.
        optimizer: ``sgd`` or ``adamw``; the latter does not decay biases and the parameters of norms.
        learning_rate: of the trunk, at the start.
        head_learning_rate: of all layers after the trunks.
        schedule: of both rates: ``exponential`` or ``cosine``, which ends at 0.
        lr_decay: factor on both after every epoch, of schedule ``exponential``.
        warmup_epochs: both rise from 0 over so many epochs, a fraction too.
        momentum: of SGD.
        weight_decay: of the optimizer.
        clip_norm: bound on the gradient's L2 norm; 0 turns it off.
        dropout: probability in the heads.
        mirror: mirror each training image left-right with probability 1/2.
        patient_data: manifest columns that the network uses beside the images, such as ``age,sex``; empty for none.
        patient_dropout: probability with which a training pair goes without each of these columns, and once more
            without all of them.
        freeze_batch_norm: keep every batch norm's statistics and run it in evaluation mode.
        precision: ``auto`` (bf16 where the hardware has it), ``fp32`` or ``bf16``.
        monitor: validation metric that picks the best epoch, of the cross prediction; higher is better.
        seed: of initial weights, order, mirroring and dropout, that of patient data too.
    """

    label_set: str = "paper15"
    network: Annotated[str, OneOf("network", NETWORKS)] = "triple"
    trunk: Annotated[str, OneOf("trunk", TRUNKS)] = "vgg16"
    head: Annotated[str, OneOf("head", HEADS)] = "fc"
    tap: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    cam_mode: Annotated[str, OneOf("cam_mode", CAM_MODES)] = "relu_sum"
    size: Annotated[int, Field(ge=32)] = 224
    freeze: str = "none"
    loss: Annotated[str, OneOf("loss", LOSSES)] = "squared"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    alpha: NonNegative = 1.5
    class_weight: Literal["none", "inverse", "effective"] = "none"
    epochs: Count = 30
    global_batch_size: Annotated[int, Field(ge=2)] = 32
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 1e-3
    head_learning_rate: Positive = 1e-3
    schedule: Literal["exponential", "cosine"] = "exponential"
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    warmup_epochs: NonNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-5
    clip_norm: NonNegative = 5.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror: bool = True
    patient_data: str = ""
    patient_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    freeze_batch_norm: bool = False
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = "auto"
    monitor: Annotated[str, OneOf("monitor", class_metrics)] = "macro_auroc"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(label_set(self.label_set).diagnoses)

    @property
    def patient_fields(self) -> tuple[str, ...]:
        """The columns of ``patient_data``."""
        return tuple(name for part in self.patient_data.split(",") if (name := part.strip()))

    def architecture(self, cam: CamConfig | None = None, patient: int | None = None) -> NetworkConfig:
        """Return the network this recipe trains, with the CAM network of a ``cam_bp`` head.

        ``patient`` is the length of encoded patient data, if it uses any.

        Raises:
            ConfigError: the parts do not go together.
        """
        return NetworkConfig(self.network, self.trunk, self.head, self.classes, self.tap, self.rank, cam, patient)

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


def make_config(preset: str, settings: Mapping[str, str] | Mapping[str, Any] | None = None) -> TrainConfig:
    """Return a preset with some settings changed.

    Args:
        preset: a name in :data:`derm_ray.training.PRESETS`.
        settings: field name -> value, as text or as its type.

    Raises:
        ConfigError: the preset or a field is unknown, or a value is out of range; all are listed.
    """
    start = PRESETS[preset]()
    known = [field.name for field in fields(TrainConfig)]
    for name in settings or {}:
        if name not in known:
            raise ConfigError(unknown_name("setting", name, known))
    return config_from_json({**asdict(start), **(settings or {})})


def config_from_json(values: Mapping[str, Any]) -> TrainConfig:
    """Return the recipe that JSON values describe; a ``ConfigError`` lists all that are out of range."""
    try:
        config = _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigError("invalid setting " + "; ".join(lines)) from error
    label_set(config.label_set)
    if config.warmup_epochs >= config.epochs:
        raise ConfigError(f"warmup_epochs {config.warmup_epochs:g} must be less than epochs, {config.epochs}.")
    if config.label_smoothing and config.loss != "cross_entropy":
        raise ConfigError(f"label_smoothing applies to loss cross_entropy only. Remove it for loss {config.loss}.")
    if repeated := {name for name in config.patient_fields if config.patient_fields.count(name) > 1}:
        raise ConfigError(f"patient_data repeats {', '.join(sorted(repeated))}. Name each column once.")
    return config


_ADAPTER = TypeAdapter(TrainConfig)


def parse_settings(assignments: Sequence[str]) -> dict[str, str]:
    """Parse ``key=value`` arguments; a ``ConfigError`` names one without ``=``."""
    settings: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: expected key=value.")
        settings[key.strip()] = value.strip()
    return settings
