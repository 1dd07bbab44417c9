"""What an evaluation has found, and as JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from derm_ray import RESEARCH_NOTICE
from derm_ray.domain import CancerDefinition, LabelSet, OperatingPoint, PredictionKind
from derm_ray.evaluation.calibration import Reliability
from derm_ray.evaluation.comparison import Interval, finite_or_none


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
class Evaluation:
    """A model's metrics on one split.

    Attributes:
        label_set, definition: classes and tasks, and which classes count as cancer.
        split, pairs, lesions: what was evaluated; ``grouping`` is ``patient`` or ``lesion``.
        support: pairs per class.
        task_sizes: task name -> (positives, negatives).
        kinds: prediction kind -> metrics.
        warnings: what makes the metrics doubtful, such as classes with few lesions.
        majority: metrics of always predicting the most frequent training class.
        without_patient: the metrics without patient data, of models that use it; else empty.
        differences: prediction kind -> metric -> this model's minus the other model's, paired over lesions; empty
            without another model.
        provenance: model digest, its training run, manifest digest, engine, version.
    """

    label_set: LabelSet
    definition: CancerDefinition
    split: str
    pairs: int
    lesions: int
    grouping: str
    support: dict[str, int]
    task_sizes: dict[str, tuple[int, int]]
    warnings: tuple[str, ...]
    kinds: dict[PredictionKind, KindEvaluation]
    majority: dict[str, float]
    without_patient: dict[PredictionKind, KindEvaluation]
    differences: dict[PredictionKind, dict[str, Interval]]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; undefined metrics are null."""
        return {
            "notice": RESEARCH_NOTICE,
            "label_set": self.label_set.name,
            "classes": list(self.label_set.class_names),
            "cancer_definition": str(self.definition),
            "split": self.split,
            "pairs": self.pairs,
            "lesions": self.lesions,
            "grouping": self.grouping,
            "support": self.support,
            "task_sizes": {name: list(sizes) for name, sizes in self.task_sizes.items()},
            "warnings": list(self.warnings),
            "majority_class": {name: finite_or_none(value) for name, value in self.majority.items()},
            "predictions": _kinds_json(self.kinds),
            **({"predictions_without_patient_data": _kinds_json(self.without_patient)} if self.without_patient else {}),
            **({"differences": _differences_json(self.differences)} if self.differences else {}),
            "provenance": self.provenance,
        }


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
