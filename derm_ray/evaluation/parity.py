"""Comparison of two engines of the same model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from derm_ray.bundle import Bundle
from derm_ray.data.loading import load_all
from derm_ray.domain import LesionPair, PredictionKind, Task
from derm_ray.evaluation.comparison import Interval, bootstrap, finite_or_none
from derm_ray.inference.predictor import Predictor

MIN_AGREEMENT = 0.99
MAX_DIFFERENCE = 0.01
UNCALIBRATED_THRESHOLD = 0.5

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KindParity:
    """Two predictors over the same pairs: share with the same most probable class, mean and largest change of
    probability.
    """

    agreement: float
    mean_difference: float
    largest_difference: float


@dataclass(frozen=True)
class Parity:
    """A comparison with a reference.

    Attributes:
        pairs: how many were compared.
        kinds: prediction kind -> metrics.
        task: the label set's first, cancer where it has that.
        positives: pairs whose diagnosis is one of the task's positives.
        sensitivity: share of these above the threshold of the model's first operating point for the task (0.5 where it
            has none), from both images: ``reference``, ``candidate`` and, paired, their ``difference``.
    """

    pairs: int
    kinds: dict[PredictionKind, KindParity]
    task: str
    positives: int
    sensitivity: Mapping[str, Interval]

    @property
    def passed(self) -> bool:
        """Whether both are equivalent: every kind agrees on 99% of pairs, with a mean |dp| of at most 0.01."""
        return all(
            kind.agreement >= MIN_AGREEMENT and kind.mean_difference <= MAX_DIFFERENCE for kind in self.kinds.values()
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "pairs": self.pairs,
            "passed": self.passed,
            "kinds": {str(kind): asdict(metrics) for kind, metrics in self.kinds.items()},
            "sensitivity": {
                "task": self.task,
                "positives": self.positives,
                **{name: finite_or_none(self.sensitivity[name].value) for name in ("reference", "candidate")},
                "difference": self.sensitivity["difference"].to_json(),
            },
        }

    def lines(self) -> list[str]:
        """Return it as text."""
        lines = [
            f"{kind:<11} agreement {metrics.agreement:.4f}, mean |dp| {metrics.mean_difference:.5f}, "
            f"largest {metrics.largest_difference:.3f}"
            for kind, metrics in self.kinds.items()
        ]
        if self.positives:
            before, after, difference = (self.sensitivity[name] for name in ("reference", "candidate", "difference"))
            lines.append(
                f"{self.task} sensitivity {before.value:.4f} -> {after.value:.4f}, difference {difference.value:+.4f} "
                f"({difference.low:+.4f}..{difference.high:+.4f}), {self.positives} pairs"
            )
        return lines


def measure_parity(reference: Predictor, other: Predictor, pairs: Sequence[LesionPair], uri: str) -> Parity:
    """Compare two predictors on pairs with both images, each with its own preprocessing; errors name ``uri``.

    Raises:
        ManifestError: images cannot be used; all are listed.
    """
    specs = [predictor.bundle.preprocessing for predictor in (reference, other)]
    streams = [load_all(pairs, spec, uri) for spec in (specs if specs[0] != specs[1] else specs[:1])]
    predicted: list[list[Mapping[PredictionKind, tuple[float, ...]]]] = [[], []]
    for chunks in zip(*streams, strict=True):
        for predictor, chunk, rows in zip((reference, other), (chunks[0], chunks[-1]), predicted, strict=True):
            rows += [prediction.per_input_predictions for prediction in predictor.predict(chunk)]
    before, after = ({kind: np.array([row[kind] for row in rows]) for kind in rows[0]} for rows in predicted)
    task = reference.bundle.label_set.tasks()[0]
    above = [_above_threshold(reference.bundle, task, kinds[PredictionKind.CROSS]) for kinds in (before, after)]
    positive = np.array([pair.diagnosis in task.positive for pair in pairs])
    lesion_ids = [pair.lesion_id for pair, counts in zip(pairs, positive, strict=True) if counts]
    return Parity(
        len(pairs),
        {kind: _compare(before[kind], after[kind]) for kind in before},
        task.name,
        int(positive.sum()),
        _sensitivity(above[0][positive], above[1][positive], lesion_ids),
    )


def _compare(before: Probabilities, after: Probabilities) -> KindParity:
    difference = np.abs(before - after)
    return KindParity(
        float((before.argmax(1) == after.argmax(1)).mean()), float(difference.mean()), float(difference.max())
    )


def _above_threshold(bundle: Bundle, task: Task, probabilities: Probabilities) -> npt.NDArray[np.bool_]:
    """Return for each row whether its task probability reaches the model's first threshold for the task."""
    points = [p for p in bundle.calibration.operating_points if p.kind is PredictionKind.CROSS and p.task == task.name]
    scores = probabilities[:, [bundle.label_set.class_names.index(name) for name in task.positive]].sum(1)
    return np.asarray(scores >= (points[0].threshold if points else UNCALIBRATED_THRESHOLD))


def _sensitivity(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], lesion_ids: list[str]
) -> dict[str, Interval]:
    shares = {"reference": before, "candidate": after, "difference": after.astype(float) - before}
    if not lesion_ids:
        return dict.fromkeys(shares, Interval(*[float("nan")] * 3))
    return bootstrap(lambda weights: {name: weights @ of / weights.sum(1) for name, of in shares.items()}, lesion_ids)
