"""What an evaluation has found, and as JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from derm_ray import RESEARCH_NOTICE
from derm_ray.domain import CancerDefinition, LabelSet, Modality, OperatingPoint, PredictionKind
from derm_ray.evaluation.calibration import Reliability
from derm_ray.evaluation.comparison import Interval, finite_or_none
from derm_ray.evaluation.kinds import Flags, having


@dataclass(frozen=True)
class KindEvaluation:
    """The metrics of one prediction kind.

    Attributes:
        metrics: ``<metric>``, ``<task>/<metric>`` and, of each class against the rest, ``<metric>/<class>``.
        confusion: counts (K, K), rows true, columns predicted.
        reliability: of the probabilities.
        operating: the model's operating points, with sensitivity and specificity on this split.
    """

    metrics: dict[str, Interval]
    confusion: npt.NDArray[np.int64]
    reliability: Reliability
    operating: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Group:
    """The metrics of lesions that have the same images.

    Attributes:
        pairs, lesions: how many were evaluated; a lesion may have several rows.
        support: pairs per class.
        task_sizes: task name -> (positives, negatives).
        kinds: prediction kind -> metrics; of a single image, that kind alone.
        majority: metrics of always predicting the most frequent training class.
        without_patient: the metrics without patient data, of models that use it; else empty.
        differences: prediction kind -> metric -> this model's minus the other model's, paired over lesions; empty
            without another model.
    """

    pairs: int
    lesions: int
    support: dict[str, int]
    task_sizes: dict[str, tuple[int, int]]
    kinds: dict[PredictionKind, KindEvaluation]
    majority: dict[str, float]
    without_patient: dict[PredictionKind, KindEvaluation]
    differences: dict[PredictionKind, dict[str, Interval]]

    @property
    def kind(self) -> PredictionKind:
        """The kind that uses all images that these lesions have."""
        return PredictionKind.CROSS if PredictionKind.CROSS in self.kinds else next(iter(self.kinds))

    def group_json(self) -> dict[str, Any]:
        """Return the metrics as JSON types; undefined ones are null."""
        return {
            "pairs": self.pairs,
            "lesions": self.lesions,
            "support": self.support,
            "task_sizes": {name: list(sizes) for name, sizes in self.task_sizes.items()},
            "majority_class": {name: finite_or_none(value) for name, value in self.majority.items()},
            "predictions": _kinds_json(self.kinds),
            **({"predictions_without_patient_data": _kinds_json(self.without_patient)} if self.without_patient else {}),
            **({"differences": _differences_json(self.differences)} if self.differences else {}),
        }


@dataclass(frozen=True)
class Evaluation(Group):
    """A model's metrics on one split: of lesions with both images, and of those with one of them alone.

    Attributes:
        label_set, definition: classes and tasks, and which classes count as cancer.
        split: what was evaluated; ``grouping`` is ``patient`` or ``lesion``.
        warnings: what makes the metrics doubtful, such as classes with few lesions.
        alone: modality -> the lesions that have this image only, where there are any.
        provenance: model digest, its training run, manifest digest, engine, version.
    """

    label_set: LabelSet
    definition: CancerDefinition
    split: str
    grouping: str
    warnings: tuple[str, ...]
    alone: dict[Modality, Group]
    provenance: dict[str, Any]

    @property
    def groups(self) -> dict[str, Group]:
        """The groups that have lesions, pairs first, by what they have: ``both images`` or ``<modality> alone``."""
        pairs: dict[str, Group] = {"both images": self} if self.kinds else {}
        return pairs | {f"{modality} alone": group for modality, group in self.alone.items()}

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; undefined metrics are null."""
        return {
            "notice": RESEARCH_NOTICE,
            "label_set": self.label_set.name,
            "classes": list(self.label_set.class_names),
            "cancer_definition": str(self.definition),
            "split": self.split,
            "grouping": self.grouping,
            "warnings": list(self.warnings),
            **self.group_json(),
            **({"alone": {str(m): group.group_json() for m, group in self.alone.items()}} if self.alone else {}),
            "provenance": self.provenance,
        }


def grouped(
    scores: Mapping[PredictionKind, npt.NDArray[np.floating]],
    measure: Callable[[Flags, tuple[PredictionKind, ...]], Group],
) -> tuple[Group, dict[Modality, Group]]:
    """Return the group of lesions with both images, and those of lesions with one of them alone.

    Args:
        scores: prediction kind -> (N, K); NaN for lesions that lack its images.
        measure: from the rows (N,) of a group, and the kinds that it has.
    """
    both = having(scores[PredictionKind.CROSS])
    pairs = measure(both, tuple(PredictionKind)) if both.any() else Group(0, 0, {}, {}, {}, {}, {}, {})
    rows = {modality: having(scores[PredictionKind(modality)]) & ~both for modality in Modality}
    return pairs, {m: measure(of, (PredictionKind(m),)) for m, of in rows.items() if of.any()}


def _kinds_json(kinds: dict[PredictionKind, KindEvaluation]) -> dict[str, Any]:
    return {
        str(kind): {
            "metrics": {name: interval.to_json() for name, interval in result.metrics.items()},
            "classes_covered": sum(
                math.isfinite(i.value) for name, i in result.metrics.items() if name.startswith("auroc/")
            ),
            "confusion": result.confusion.tolist(),
            "reliability": asdict(result.reliability),
            "operating_points": [_point_json(point) for point in result.operating],
        }
        for kind, result in kinds.items()
    }


def _differences_json(differences: dict[PredictionKind, dict[str, Interval]]) -> dict[str, Any]:
    return {str(kind): {name: i.to_json() for name, i in metrics.items()} for kind, metrics in differences.items()}


def _point_json(point: OperatingPoint) -> dict[str, Any]:
    reached = {name: finite_or_none(value) for name, value in asdict(point).items() if isinstance(value, float)}
    return {"name": point.name, "task": point.task, **reached}
