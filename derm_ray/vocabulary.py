"""The field's words: modalities, diagnoses, label sets, tasks, pairs and predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from derm_ray.errors import ConfigError, unknown_name


class Modality(StrEnum):
    """The two ways a lesion is photographed."""

    CLINICAL = "clinical"
    DERMOSCOPY = "dermoscopy"


class PredictionKind(StrEnum):
    """Which images a prediction rests on: one modality alone, or both (cross)."""

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

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in class order."""
        return tuple(d.name for d in self.diagnoses)

    @property
    def titles(self) -> tuple[str, ...]:
        """Names for people, in class order."""
        return tuple(d.title for d in self.diagnoses)

    def tasks(self, definition: CancerDefinition = CancerDefinition.PAPER) -> tuple[Task, ...]:
        """Return the binary tasks: cancer vs not, melanoma vs benign (Ge et al. 2017, section 3.3)."""
        cancer = tuple(d.name for d in self.diagnoses if definition in d.cancer)
        benign = tuple(d.name for d in self.diagnoses if definition not in d.cancer)
        melanoma = tuple(d.name for d in self.diagnoses if d.melanoma)
        return (
            Task("cancer", "Cancer vs not", cancer, benign),
            Task("melanoma", "Melanoma vs benign", melanoma, benign),
        )


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

LABEL_SETS: Mapping[str, LabelSet] = {s.name: s for s in (PAPER15, MILK10K)}


def label_set(name: str) -> LabelSet:
    """Return a label set by name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name not in LABEL_SETS:
        raise ConfigError(unknown_name("label set", name, tuple(LABEL_SETS)))
    return LABEL_SETS[name]


@dataclass(frozen=True)
class LesionPair:
    """One row of a manifest: a lesion's clinical photo and dermoscopy image, either of which may be absent.

    URIs are absolute.
    """

    pair_id: str
    lesion_id: str
    clinical_uri: str | None = None
    dermoscopy_uri: str | None = None
    diagnosis: str | None = None

    def uri(self, modality: Modality) -> str | None:
        """Return the URI of one modality's image."""
        return self.clinical_uri if modality is Modality.CLINICAL else self.dermoscopy_uri


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one pair.

    Attributes:
        modality: ``both``, ``clinical`` or ``dermoscopy``: the images it rests on.
        diagnosis: the most probable class.
        confidence: its probability, 0..1.
        probabilities: one per class in class order, summing to 1.
        p_cancer: probability of the label set's cancers (the paper's definition).
        p_melanoma: probability of melanoma.
        branches: the probabilities of each prediction kind the images allow.
    """

    modality: str
    diagnosis: str
    confidence: float
    probabilities: tuple[float, ...]
    p_cancer: float
    p_melanoma: float
    branches: Mapping[PredictionKind, tuple[float, ...]] = field(default_factory=dict)
