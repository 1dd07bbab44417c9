"""What the endpoint answers, as OpenAPI sees it."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field

from derm_ray import RESEARCH_NOTICE
from derm_ray.bundle import Bundle
from derm_ray.vocabulary import LabelSet, Prediction, PredictionKind


class Answer(BaseModel):
    """Base of all answers: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class OperatingPoint(Answer):
    """A threshold on a task's risk, chosen on validation lesions for a target sensitivity."""

    kind: PredictionKind
    task: str
    target: float
    threshold: float = Field(description="An alarm is a risk at or above it.")
    sensitivity: float = Field(description="Reached on validation lesions.")
    specificity: float = Field(description="Reached on validation lesions.")


class Model(Answer):
    """The model behind the endpoint."""

    model_digest: str
    label_set: str
    classes: list[str]
    network: str
    input_size: int = Field(description="Side of the square input in pixels.")
    engine: str
    operating_points: list[OperatingPoint]
    notice: str = RESEARCH_NOTICE


class Score(Answer):
    """A prediction for one pair; probabilities are 0..1 and keyed by class name."""

    pair_id: str | None
    modality: str = Field(description="both, clinical or dermoscopy: the images it rests on.")
    diagnosis: str
    confidence: float
    probabilities: dict[str, float]
    risks: dict[str, float] = Field(description="Task (cancer, melanoma) to summed probability of its positives.")
    alarms: dict[str, bool] = Field(description="Operating point to whether the risk reaches its threshold.")
    branches: dict[PredictionKind, dict[str, float]]
    model_digest: str
    notice: str = RESEARCH_NOTICE


class Problem(Answer):
    """An RFC 9457 problem document."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


def describe_model(bundle: Bundle, engine: str) -> Model:
    """Return what clients may know of a model."""
    return Model(
        model_digest=bundle.model_digest,
        label_set=bundle.label_set.name,
        classes=list(bundle.label_set.class_names),
        network=bundle.network.network,
        input_size=bundle.preprocessing.size,
        engine=engine,
        operating_points=[OperatingPoint(**asdict(point)) for point in bundle.calibration.operating_points],
    )


def to_score(prediction: Prediction, pair_id: str | None, labels: LabelSet, model_digest: str) -> Score:
    """Return a prediction as clients see it."""

    def named(probabilities: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(labels.class_names, probabilities, strict=True))

    return Score(
        pair_id=pair_id,
        modality=prediction.modality,
        diagnosis=prediction.diagnosis,
        confidence=prediction.confidence,
        probabilities=named(prediction.probabilities),
        risks=dict(prediction.risks),
        alarms=dict(prediction.alarms),
        branches={kind: named(probabilities) for kind, probabilities in prediction.branches.items()},
        model_digest=model_digest,
    )
