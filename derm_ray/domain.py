"""Domain types: modalities, diagnoses, label sets, tasks, pairs and predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from derm_ray.errors import ConfigError, unknown_name


class Modality(StrEnum):
    """The two ways a lesion is photographed."""

    CLINICAL = "clinical"
    DERMOSCOPY = "dermoscopy"


class PredictionKind(StrEnum):
    """Images used for a prediction: one modality alone, or both (cross)."""

    CLINICAL = "clinical"
    DERMOSCOPY = "dermoscopy"
    CROSS = "cross"


class Split(StrEnum):
    """The part of a data set a pair belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class CancerDefinition(StrEnum):
    """Which diagnoses count as cancer: the paper's three, or ISIC's, with carcinoma in situ."""

    PAPER = "paper"
    ISIC = "isic"


@dataclass(frozen=True)
class Diagnosis:
    """One class of a label set.

    ``cancer`` lists the definitions under which it is malignant.
    """

    name: str
    title: str
    cancer: frozenset[CancerDefinition] = frozenset()
    melanoma: bool = False


@dataclass(frozen=True)
class Task:
    """A binary question collapsed from class probabilities.

    The score is the summed probability of ``positive``; pairs of classes in neither list are left out.
    """

    name: str
    title: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class LabelSet:
    """An ordered list of diagnoses; the order is the class order of every model trained on it."""

    name: str
    diagnoses: tuple[Diagnosis, ...]
    collapses: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    """Finer diagnosis -> class of this set, or ``None`` if excluded; empty for detailed sets."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in class order."""
        return tuple(d.name for d in self.diagnoses)

    @property
    def titles(self) -> tuple[str, ...]:
        """Names for people, in class order."""
        return tuple(d.title for d in self.diagnoses)

    def tasks(self, definition: CancerDefinition = CancerDefinition.PAPER) -> tuple[Task, ...]:
        """Return the binary tasks: cancer vs not, melanoma vs benign (Ge et al. 2017, section 3.3).

        A task without a positive or without a negative class is left out.
        """
        cancer = tuple(d.name for d in self.diagnoses if definition in d.cancer)
        benign = tuple(d.name for d in self.diagnoses if definition not in d.cancer)
        melanoma = tuple(d.name for d in self.diagnoses if d.melanoma)
        tasks = (
            Task("cancer", "Cancer vs not", cancer, benign),
            Task("melanoma", "Melanoma vs benign", melanoma, tuple(name for name in benign if name not in melanoma)),
        )
        return tuple(task for task in tasks if task.positive and task.negative)


_BOTH = frozenset(CancerDefinition)
_ISIC = frozenset({CancerDefinition.ISIC})

PAPER15 = LabelSet(
    "paper15",
    (
        Diagnosis("actinic_keratosis", "Actinic Keratosis"),
        Diagnosis("blue_naevus", "Blue Naevus"),
        Diagnosis("bowens_disease", "Bowens Disease", cancer=_ISIC),
        Diagnosis("compound_naevus", "Compound Naevus"),
        Diagnosis("dermal_naevus", "Dermal Naevus"),
        Diagnosis("dermatofibroma", "Dermatofibroma"),
        Diagnosis("hemangioma", "Hemangioma"),
        Diagnosis("junctional_naevus", "Junctional Naevus"),
        Diagnosis("keratotic_lesion", "Keratotic Lesion"),
        Diagnosis("seborrheic_keratosis", "Seborrheic Keratosis"),
        Diagnosis("sebaceous_hyperplasia", "Sebaceous Hyperplasia"),
        Diagnosis("solar_lentigo", "Solar Lentigo"),
        Diagnosis("melanoma", "Melanoma", cancer=_BOTH, melanoma=True),
        Diagnosis("basal_cell_carcinoma", "Basal Cell Carcinoma", cancer=_BOTH),
        Diagnosis("squamous_cell_carcinoma", "Squamous Cell Carcinoma", cancer=_BOTH),
    ),
)
"""The 15 diseases of Ge et al. 2017, section 3 and footnote 3."""

MILK10K = LabelSet(
    "milk10k",
    (
        Diagnosis("akiec", "Actinic keratosis / intraepidermal carcinoma", cancer=_ISIC),
        Diagnosis("bcc", "Basal cell carcinoma", cancer=_BOTH),
        Diagnosis("ben_oth", "Other benign proliferation"),
        Diagnosis("bkl", "Benign keratinocytic lesion"),
        Diagnosis("df", "Dermatofibroma"),
        Diagnosis("inf", "Inflammatory or infectious"),
        Diagnosis("mal_oth", "Other malignant proliferation", cancer=_BOTH),
        Diagnosis("mel", "Melanoma", cancer=_BOTH, melanoma=True),
        Diagnosis("nv", "Melanocytic nevus"),
        Diagnosis("sccka", "Squamous cell carcinoma / keratoacanthoma", cancer=_BOTH),
        Diagnosis("vasc", "Vascular lesion"),
    ),
)
"""The 11 classes of the MILK10k ground truth (doi:10.34970/648456)."""

DERM7PT = LabelSet(
    "derm7pt",
    (
        Diagnosis("basal_cell_carcinoma", "Basal cell carcinoma", cancer=_BOTH),
        Diagnosis("blue_naevus", "Blue naevus"),
        Diagnosis("clark_naevus", "Clark naevus"),
        Diagnosis("combined_naevus", "Combined naevus"),
        Diagnosis("congenital_naevus", "Congenital naevus"),
        Diagnosis("dermal_naevus", "Dermal naevus"),
        Diagnosis("dermatofibroma", "Dermatofibroma"),
        Diagnosis("lentigo", "Lentigo"),
        Diagnosis("melanoma", "Melanoma", cancer=_BOTH, melanoma=True),
        Diagnosis("melanosis", "Melanosis"),
        Diagnosis("miscellaneous", "Miscellaneous"),
        Diagnosis("recurrent_naevus", "Recurrent naevus"),
        Diagnosis("reed_or_spitz_naevus", "Reed or Spitz naevus"),
        Diagnosis("seborrheic_keratosis", "Seborrheic keratosis"),
        Diagnosis("vascular_lesion", "Vascular lesion"),
    ),
)
"""The diagnoses of the 7-point checklist data set (Kawahara et al. 2019), melanomas of all thicknesses as one."""


def _binary(base: LabelSet, name: str, task_name: str, definition: CancerDefinition) -> LabelSet:
    """Return the label set of a task with its own head."""
    task = next(task for task in base.tasks(definition) if task.name == task_name)
    if task_name == "melanoma":
        rest, found = Diagnosis("benign", "Benign"), Diagnosis("melanoma", "Melanoma", melanoma=True)
    else:
        rest, found = Diagnosis("not_cancer", "Not cancer"), Diagnosis("cancer", "Cancer", cancer=_BOTH)
    collapses = dict.fromkeys(base.class_names) | dict.fromkeys(task.positive, found.name)
    return LabelSet(name, (rest, found), collapses | dict.fromkeys(task.negative, rest.name))


_DETAILED = (PAPER15, MILK10K, DERM7PT)
_TASKS = tuple(
    _binary(base, f"{base.name}_{suffix}", task, definition)
    for base in _DETAILED
    for suffix, task, definition in (
        ("cancer", "cancer", CancerDefinition.PAPER),
        ("cancer_isic", "cancer", CancerDefinition.ISIC),
        ("melanoma", "melanoma", CancerDefinition.PAPER),
    )
)
LABEL_SETS: Mapping[str, LabelSet] = {s.name: s for s in (*_DETAILED, *_TASKS)}
"""The detailed sets, and their tasks as sets of two classes: ``<set>_cancer``, ``_cancer_isic`` and ``_melanoma``."""


def label_set(name: str) -> LabelSet:
    """Return a label set by name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name not in LABEL_SETS:
        raise ConfigError(unknown_name("label set", name, tuple(LABEL_SETS)))
    return LABEL_SETS[name]


PatientValues = Mapping[str, float | str]
"""Patient data of a lesion by column, without what is missing; columns that nothing asks for are left out."""


def image_uris(cell: str | None) -> tuple[str, ...]:
    """Return the images that a manifest's cell names: none, one by its URI, or several by a JSON array of URIs."""
    if cell is None or not cell.startswith("["):
        return () if cell is None else (cell,)
    try:
        values = json.loads(cell)
    except (ValueError, RecursionError):
        return (cell,)
    return tuple(values) if all(isinstance(value, str) for value in values) else (cell,)


def image_cell(uris: Sequence[str]) -> str | None:
    """Return the cell that names images; see :func:`image_uris`."""
    return json.dumps(list(uris), ensure_ascii=False) if len(uris) > 1 else uris[0] if uris else None


@dataclass(frozen=True)
class LesionPair:
    """One row of a manifest: a lesion's clinical photo and dermoscopy image, either of which may be absent.

    URIs are absolute; a modality with several images holds them as :func:`image_cell` writes them. ``patient`` is empty
    unless a model asks for patient data.
    """

    pair_id: str
    lesion_id: str
    clinical_uri: str | None = None
    dermoscopy_uri: str | None = None
    diagnosis: str | None = None
    patient: PatientValues = field(default_factory=dict, hash=False)

    def uri(self, modality: Modality) -> str | None:
        """Return the URI of one modality's image, the first where there are several."""
        return next(iter(self.uris(modality)), None)

    def uris(self, modality: Modality) -> tuple[str, ...]:
        """Return the URIs of all images of one modality."""
        return image_uris(self.clinical_uri if modality is Modality.CLINICAL else self.dermoscopy_uri)

    @property
    def has_several(self) -> bool:
        """Whether a modality has several images."""
        return any(len(self.uris(modality)) > 1 for modality in Modality)

    def first(self) -> "LesionPair":
        """Return the pair with the first image of each modality alone."""
        if not self.has_several:
            return self
        return replace(self, clinical_uri=self.uri(Modality.CLINICAL), dermoscopy_uri=self.uri(Modality.DERMOSCOPY))


SENSITIVITIES = (0.90, 0.95)
"""Targets of the operating points."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on a task probability, chosen on val for a target sensitivity.

    Attributes:
        kind: the prediction kind it is for.
        task: ``cancer`` or ``melanoma``.
        target: sensitivity aimed at, 0..1.
        threshold: a pair is positive if its task probability is at or above it.
        sensitivity, specificity: reached on val.
    """

    kind: PredictionKind
    task: str
    target: float
    threshold: float
    sensitivity: float
    specificity: float

    @property
    def name(self) -> str:
        """Name without the prediction kind, such as ``cancer_at_90_sensitivity``."""
        return operating_point_name(self.task, self.target)


def operating_point_name(task: str, target: float) -> str:
    """Return ``<task>_at_<percent>_sensitivity``."""
    return f"{task}_at_{round(100 * target)}_sensitivity"


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model on val; stored in its bundle.

    Attributes:
        temperatures: prediction kind -> T of p^(1/T), renormalized (Guo et al. 2017); absent means 1.
        operating_points: of every prediction kind and task that val defines.
        decide: what the named diagnosis is chosen for; ``argmax`` is the most probable class.
        offsets: prediction kind -> added to the logarithm of each class's probability before the largest is named
            (:mod:`derm_ray.evaluation.decisions`); absent means none. Probabilities do not depend on it.
    """

    temperatures: Mapping[PredictionKind, float] = field(default_factory=dict)
    operating_points: tuple[OperatingPoint, ...] = ()
    decide: str = "argmax"
    offsets: Mapping[PredictionKind, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one pair.

    Attributes:
        modality: ``both``, ``clinical`` or ``dermoscopy``: the images used.
        images: modality -> number of its images that the probabilities are averaged over.
        diagnosis: the most probable class, or the one that the model's decision offsets favor.
        confidence: its probability, 0..1.
        probabilities: one per class in class order, summing to 1.
        task_probabilities: task name -> summed probability of its positives (the paper's cancer definition).
        above_threshold: name of an operating point (``cancer_at_90_sensitivity``) -> whether the task probability
            reaches its threshold.
        per_input_predictions: the probabilities of each prediction kind the images allow.
        per_input_diagnoses: the class that each of them names, as ``diagnosis`` is named.
    """

    modality: str
    diagnosis: str
    confidence: float
    probabilities: tuple[float, ...]
    task_probabilities: Mapping[str, float]
    above_threshold: Mapping[str, bool] = field(default_factory=dict)
    per_input_predictions: Mapping[PredictionKind, tuple[float, ...]] = field(default_factory=dict)
    per_input_diagnoses: Mapping[PredictionKind, str] = field(default_factory=dict)
    images: Mapping[Modality, int] = field(default_factory=dict)


class ImageFlag(StrEnum):
    """Flags of a decoded image; the list is closed.

    ``animated``: it has several frames, of which the first is used. ``burned_in_annotation``: the DICOM header
    declares text in the pixels.
    """

    ANIMATED = "animated"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
