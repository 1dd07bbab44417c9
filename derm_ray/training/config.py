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
from derm_ray.evaluation.decisions import DECISIONS
from derm_ray.evaluation.metrics import class_metrics
from derm_ray.inference.precision import PRECISIONS
from derm_ray.models.cam import CAM_MODES
from derm_ray.models.factory import NETWORKS, CamConfig, NetworkConfig
from derm_ray.models.heads import HEADS
from derm_ray.models.trunks import MIN_SIZE, TRUNKS, check_trunk
from derm_ray.models.views import TTA
from derm_ray.registry import Registry
from derm_ray.training import PRESETS
from derm_ray.training.augmentation import POLICIES, Policy
from derm_ray.training.losses import LOSSES
from derm_ray.training.setting_errors import expected


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
                names.check(name)
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
        network: ``sole`` (a trunk for each image), ``share`` (one for both) or ``triple`` (also a cross sub-network).
        trunk: network under the heads, and the source of initial weights.
        head: from a trunk's last map to the diagnoses; ``cam`` makes a CAM network.
        tap: layer of the trunk whose output the cross sub-network reads; none is the trunk's default.
        rank: of bilinear heads: channels left before the Gram matrix; none keeps all.
        cam_mode: how a CAM-BP head's map comes from the CAM network; see :func:`derm_ray.models.cam.saliency`.
        size: side of the input in pixels; ``None`` is the trunk's own.
        freeze: trunk layers that are not trained: ``none``, or a freeze point of the trunk (``pool4`` of VGG-16).
        loss: ``squared`` (Eq. 1-4) or ``cross_entropy`` (footnote 1).
        label_smoothing: share of a label's weight that goes to all classes alike, of loss ``cross_entropy``.
        alpha: weight of the cross sub-network's loss (Eq. 5).
        distillation_weight: share of the teacher in the loss, with ``--teacher``.
        distillation_temperature: of teacher and student in their distance (Hinton et al. 2015).
        class_weight_power: a pair's loss weighs by the frequency of its class to this power, negative: 0 weighs all
            pairs alike, 1 all classes.
        logit_adjustment: what is added to the logits in the loss, in logarithms of the classes' frequencies (Menon
            et al. 2021, Eq. 10); predictions are made without.
        epochs: passes over the training split.
        global_batch_size: pairs per optimizer step over all workers.
        accumulation: parts of a step that run one after another, in less memory.
        optimizer: ``sgd`` or ``adamw``; the latter does not decay biases and the parameters of norms.
        learning_rate: of the trunk, at the start.
        head_learning_rate: of all layers after the trunks.
        layer_decay: factor on the trunk's rate per stage, counted from the last one back.
        schedule: of both rates: ``exponential`` or ``cosine``, which ends at 0.
        lr_decay: factor on both after every epoch, of schedule ``exponential``.
        warmup_epochs: both rise from 0 over so many epochs, a fraction too.
        momentum: of SGD.
        weight_decay: of the optimizer.
        clip_norm: bound on the gradient's L2 norm; 0 turns it off.
        dropout: probability in the heads.
        augmentation: of training images: ``none``, ``mirror`` (left-right), ``standard`` (crops, mirrors, quarter turns
            and colors) or ``strong`` (more of these, blur and erased rectangles).
        modality_dropout: probability with which one image of a training pair is left out in an epoch, either one as
            often, so that single images are answered better.
        patient_data: manifest columns that the network uses beside the images, such as ``age,sex``; empty for none.
        patient_dropout: probability with which a training pair goes without each of these columns, and once more
            without all of them.
        freeze_batch_norm: keep every batch norm's statistics and run it in evaluation mode.
        precision: ``auto`` (bf16 where the hardware has it), ``fp32`` or ``bf16``.
        tta: test-time augmentation that is sealed in the bundle: predictions are averaged over the images ``none``:
            alone; ``flips``: mirrored left-right, up-down and both as well; ``turns``: all these turned as well.
        decide: what the named diagnosis is chosen for: ``argmax`` (the most probable), ``balanced_accuracy`` or
            ``macro_f1``, for which rare classes are named at lower probabilities.
        ema_decay: of the weights' exponential moving average, which is what is validated and sealed; 0 turns it off.
        monitor: validation metric that picks the best epoch, of the cross prediction (or, if no lesion of val has both
            images, of the modality that most have); higher is better.
        keep: the epoch that becomes the bundle: ``best`` by ``monitor``, or ``last``.
        patience: epochs without a better ``monitor`` after which training ends; 0 runs all.
        seed: of initial weights, order, augmentation and dropout, that of images and patient data too.
    """

    label_set: str = "paper15"
    network: Annotated[str, OneOf("network", NETWORKS)] = "triple"
    trunk: Annotated[str, OneOf("trunk", TRUNKS)] = "vgg16"
    head: Annotated[str, OneOf("head", HEADS)] = "fc"
    tap: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    cam_mode: Annotated[str, OneOf("cam_mode", CAM_MODES)] = "relu_sum"
    size: Annotated[int, Field(ge=MIN_SIZE)] | None = None
    freeze: str = "none"
    loss: Annotated[str, OneOf("loss", LOSSES)] = "squared"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    alpha: NonNegative = 1.5
    distillation_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    distillation_temperature: Positive = 2.0
    class_weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    logit_adjustment: NonNegative = 0.0
    epochs: Count = 30
    global_batch_size: Annotated[int, Field(ge=2)] = 32
    accumulation: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 1e-3
    head_learning_rate: Positive = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    schedule: Literal["exponential", "cosine"] = "exponential"
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    warmup_epochs: NonNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-5
    clip_norm: NonNegative = 5.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    augmentation: Annotated[str, OneOf("augmentation", POLICIES)] = "mirror"
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    patient_data: str = ""
    patient_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    freeze_batch_norm: bool = False
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = "auto"
    tta: Annotated[str, OneOf("tta", TTA)] = "none"
    decide: Annotated[str, OneOf("decide", DECISIONS)] = "argmax"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    monitor: Annotated[str, OneOf("monitor", class_metrics)] = "macro_auroc"
    keep: Literal["best", "last"] = "best"
    patience: Annotated[int, Field(ge=0)] = 0
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
        spec = TRUNKS[self.trunk]
        return Preprocessing(self.size or spec.size, spec.interpolation)

    @property
    def policy(self) -> Policy:
        """Augmentation of its training images."""
        return POLICIES[self.augmentation]

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        return asdict(self)


def paper() -> TrainConfig:
    """The paper's recipe, at VGG-16's 224 px; batch size, epochs and clipping are ours, the paper gives none."""
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


def light() -> TrainConfig:
    """Triple-Net on EfficientNet-Lite0 at 160 px, trained from stride 4 on: a useful model in minutes on two cores."""
    return TrainConfig(
        trunk="timm/tf_efficientnet_lite0",
        head="gap",
        size=160,
        freeze="stride4",
        loss="cross_entropy",
        label_smoothing=0.1,
        logit_adjustment=0.5,
        epochs=16,
        global_batch_size=16,
        optimizer="adamw",
        learning_rate=5e-4,
        head_learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.02,
        dropout=0.2,
        augmentation="standard",
        freeze_batch_norm=True,
        precision="fp32",
        tta="flips",
        ema_decay=0.99,
        keep="last",
    )


def strong() -> TrainConfig:
    """ConvNeXt-Tiny with weights of ImageNet-22k, trained through on 384 px: for GPUs, and for ``--folds``."""
    return replace(
        light(),
        trunk="timm/convnext_tiny.fb_in22k",
        size=384,
        freeze="none",
        epochs=30,
        global_batch_size=32,
        learning_rate=2e-4,
        head_learning_rate=1e-3,
        layer_decay=0.7,
        warmup_epochs=2.0,
        weight_decay=0.05,
        augmentation="strong",
        freeze_batch_norm=False,
        precision="auto",
        tta="none",
        ema_decay=0.999,
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
        ConfigError: the preset or a field is unknown, or values are out of range (all are listed) or do not go
            together.
    """
    start = PRESETS[preset]()
    known = [field.name for field in fields(TrainConfig)]
    for name in settings or {}:
        if name not in known:
            raise ConfigError(unknown_name("setting", name, known))
    return config_from_json({**asdict(start), **(settings or {})})


def typed(values: Mapping[str, Any]) -> TrainConfig:
    """Return a recipe of values that are right each by itself; a ``ConfigError`` lists all that are out of range."""
    try:
        return _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {expected(e)}" for e in error.errors()]
        raise ConfigError("invalid setting " + "; ".join(lines)) from error


def config_from_json(values: Mapping[str, Any]) -> TrainConfig:
    """Return the recipe that JSON values describe; a ``ConfigError`` lists all that are out of range."""
    config = typed(values)
    label_set(config.label_set)
    if config.warmup_epochs >= config.epochs:
        raise ConfigError(f"warmup_epochs {config.warmup_epochs:g} must be less than epochs, {config.epochs}.")
    if config.label_smoothing and config.loss != "cross_entropy":
        raise ConfigError(f"label_smoothing applies to loss cross_entropy only. Remove it for loss {config.loss}.")
    if config.keep == "last" and config.patience:
        raise ConfigError("patience ends training after its best epoch, which keep=last does not keep. Remove one.")
    if repeated := {name for name in config.patient_fields if config.patient_fields.count(name) > 1}:
        raise ConfigError(f"patient_data repeats {', '.join(sorted(repeated))}. Name each column once.")
    check_trunk(config.trunk, config.tap, config.freeze, config.preprocessing.size)
    # A head that needs a map gets its real CAM network at the start of the run.
    config.architecture(CamConfig(config.trunk, config.classes) if HEADS[config.head].needs_map else None)
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
