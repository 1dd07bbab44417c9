"""Request and response schemas of the HTTP API."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Base64Encoder, BaseModel, ConfigDict, EncodedBytes, Field
from pydantic_core import PydanticCustomError

from derm_ray import RESEARCH_NOTICE
from derm_ray.data.patient import CategoryField, NumberField
from derm_ray.domain import Modality, Prediction, PredictionKind

if TYPE_CHECKING:
    from derm_ray.bundle import Bundle

MAX_PAIR_ID = 256
MAX_PAIRS = 16


class Response(BaseModel):
    """Base of all responses: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class OperatingPoint(Response):
    """A threshold on a task probability, chosen on validation lesions for a target sensitivity."""

    name: str = Field(description="Key in `above_threshold` of a score.")
    kind: PredictionKind
    task: str
    target: float = Field(description="Target sensitivity.")
    threshold: float = Field(description="A pair is positive if its task probability is at or above it.")
    sensitivity: float = Field(description="Reached on validation lesions.")
    specificity: float = Field(description="Reached on validation lesions.")


class Task(Response):
    """A binary question, such as cancer or not."""

    name: str
    title: str
    positive: list[str] = Field(description="Positive classes.")


class PatientField(Response):
    """A field of patient data that the model uses."""

    name: str
    kind: Literal["number", "category"]
    values: list[str] = Field(description="Known values of a category; empty for a number.")
    low: float | None = Field(description="Least number accepted; null for any.")
    high: float | None = Field(description="Largest number accepted; null for any.")
    scale: str | None = Field(description="Scale of skin tones: milk, fitzpatrick or monk.")


class Model(Response):
    """The model behind the endpoint."""

    model_digest: str
    run_id: str | None = Field(None, description="Training run that created it; null if unknown.")
    label_set: str
    classes: list[str]
    titles: dict[str, str] = Field(description="Display name by class.")
    tasks: list[Task] = Field(description="Tasks of `task_probabilities`.")
    network: str
    input_size: int = Field(description="Side of the square input in pixels.")
    engine: str
    saliency: bool = Field(description="Whether saliency overlays are available.")
    patient_fields: list[PatientField] = Field(description="Fields of `patient`, all optional; empty if it uses none.")
    operating_points: list[OperatingPoint]
    metrics: dict[str, Any] = Field(description="Validation metrics of the training run; empty if unknown.")
    card: str = Field(description="The model card, Markdown.")
    notice: str = RESEARCH_NOTICE


class Score(Response):
    """A prediction for one pair; probabilities are 0..1 and keyed by class name."""

    pair_id: str | None
    modality: str = Field(description="Images used: both, clinical or dermoscopy.")
    diagnosis: str
    confidence: float
    probabilities: dict[str, float]
    task_probabilities: dict[str, float] = Field(
        description="Summed probability of a task's positive classes, by task (cancer, melanoma)."
    )
    above_threshold: dict[str, bool] = Field(
        description="Whether the task probability reaches the threshold, by operating point."
    )
    per_input_predictions: dict[PredictionKind, dict[str, float]] = Field(
        description="Class probabilities from each image alone and from both (cross)."
    )
    per_input_diagnoses: dict[PredictionKind, str] = Field(
        description="Diagnosis that each image alone and both (cross) give, chosen as `diagnosis` is."
    )
    flags: list[str] = Field(description="Image flags, such as clinical:animated.")
    saliency: dict[Modality, str] = Field(description="Saliency overlays by modality: PNG in base64.")
    model_digest: str
    notice: str = RESEARCH_NOTICE


class Problem(Response):
    """An RFC 9457 problem document."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


_DATA_URI = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)
_BLANKS = b" \t\r\n"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class _AnyBase64(Base64Encoder):
    """Reads base64 of either alphabet (RFC 4648), with or without line breaks and padding, also as a data URI.

    It refuses other characters, which pydantic's own skips.
    """

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        if found := _DATA_URI.match(data):
            data = data[found.end() :]
        data = data.translate(_URL_SAFE, _BLANKS)
        if b"=" not in data:
            data += b"=" * (-len(data) % 4)
        try:
            return b64decode(data, validate=True)
        except ValueError as error:
            raise PydanticCustomError("base64", "not valid base64") from error


Encoded = Annotated[bytes, EncodedBytes(encoder=_AnyBase64)]


class Pair(BaseModel):
    """One lesion of a batch: the encoded images as base64 or data URIs, one of them at least."""

    model_config = ConfigDict(extra="forbid")

    pair_id: str | None = Field(None, max_length=MAX_PAIR_ID)
    clinical: Encoded | None = None
    dermoscopy: Encoded | None = None
    patient: dict[str, Any] | None = Field(
        None,
        description="Patient data by field, see `patient_fields` of the model. Leave out what is unknown.",
        examples=[{"age": 45, "sex": "female"}],
    )


class Pairs(BaseModel):
    """A batch."""

    model_config = ConfigDict(extra="forbid")

    pairs: list[Pair] = Field(min_length=1, max_length=MAX_PAIRS)


class PairResult(Response):
    """The result of one pair of a batch: a score, or a problem."""

    pair_id: str | None
    score: Score | None
    problem: Problem | None


class BatchResult(Response):
    """One result per pair, in order."""

    results: list[PairResult]


class State(Response):
    """Health of the endpoint."""

    status: str


def describe_model(bundle: "Bundle", engine: str, card: str) -> Model:
    """Return the public description of a model."""
    labels = bundle.label_set
    return Model(
        model_digest=bundle.model_digest,
        run_id=bundle.run_id,
        label_set=labels.name,
        classes=list(labels.class_names),
        titles=dict(zip(labels.class_names, labels.titles, strict=True)),
        tasks=[Task(name=t.name, title=t.title, positive=list(t.positive)) for t in labels.tasks()],
        network=bundle.network.network,
        input_size=bundle.preprocessing.size,
        engine=engine,
        saliency=bundle.network.cam is not None,
        patient_fields=[_describe_field(field) for field in bundle.patient.fields] if bundle.patient else [],
        operating_points=[
            OperatingPoint(name=point.name, **asdict(point)) for point in bundle.calibration.operating_points
        ],
        metrics=dict(bundle.provenance.get("metrics", {})),
        card=card,
    )


def _describe_field(field: NumberField | CategoryField) -> PatientField:
    if isinstance(field, CategoryField):
        values = list(field.values)
        return PatientField(name=field.name, kind="category", values=values, low=None, high=None, scale=None)
    low, high, scale = field.low, field.high, field.scale
    return PatientField(name=field.name, kind="number", values=[], low=low, high=high, scale=scale)


def to_score(
    prediction: Prediction, bundle: "Bundle", flags: tuple[str, ...], overlays: Mapping[Modality, bytes] | None
) -> Score:
    """Return a model's prediction as a response, with the flags of the images and overlays as PNG files."""

    def named(probabilities: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(bundle.label_set.class_names, probabilities, strict=True))

    return Score(
        pair_id=None,
        modality=prediction.modality,
        diagnosis=prediction.diagnosis,
        confidence=prediction.confidence,
        probabilities=named(prediction.probabilities),
        task_probabilities=dict(prediction.task_probabilities),
        above_threshold=dict(prediction.above_threshold),
        per_input_predictions={
            kind: named(probabilities) for kind, probabilities in prediction.per_input_predictions.items()
        },
        per_input_diagnoses=dict(prediction.per_input_diagnoses),
        flags=list(flags),
        saliency={modality: b64encode(png).decode() for modality, png in (overlays or {}).items()},
        model_digest=bundle.model_digest,
    )
