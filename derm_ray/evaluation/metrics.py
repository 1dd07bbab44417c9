"""Multi-class metrics from probabilities, in numpy.

Shapes: N pairs, K classes. ``labels`` are class indices (N,), ``probabilities`` (N, K).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of a multi-class prediction, each 0..1.

    Attributes:
        accuracy: share of pairs whose most probable class is correct.
        balanced_accuracy: mean recall over the classes present.
        macro_f1: mean F1 over the classes present or predicted.
        macro_auroc: mean one-vs-rest AUROC over the classes for which it is defined; NaN where there are none.
        auroc: one-vs-rest AUROC per class; NaN where a class is absent, or is the only one.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    macro_auroc: float
    auroc: tuple[float, ...]

    @property
    def classes_covered(self) -> int:
        """Number of classes in ``macro_auroc``."""
        return int(np.isfinite(self.auroc).sum())


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return counts (K, K): rows are the true class, columns the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def auroc(positive: npt.NDArray[np.bool_], scores: Scores) -> Scores:
    """Return the area under the ROC curve by the rank-sum formula, ties counted half.

    Args:
        positive: (N,) or (N, K) truth.
        scores: same shape; higher means more positive.

    Returns:
        A scalar array or (K,); NaN if only one class is present.
    """
    ranks = rankdata(scores, axis=0)
    positives = positive.sum(0)
    negatives = len(positive) - positives
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = ((ranks * positive).sum(0) - positives * (positives + 1) / 2) / (positives * negatives)
    return np.asarray(areas)


def class_metrics(labels: Labels, probabilities: Scores) -> ClassMetrics:
    """Compute :class:`ClassMetrics`."""
    classes = probabilities.shape[1]
    counts = confusion_matrix(labels, probabilities.argmax(1), classes)
    right, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    areas = auroc(labels[:, None] == np.arange(classes), probabilities)
    seen = (truth + predicted) > 0
    return ClassMetrics(
        accuracy=float(right.sum() / counts.sum()),
        balanced_accuracy=float((right[truth > 0] / truth[truth > 0]).mean()),
        macro_f1=float((2 * right[seen] / (truth + predicted)[seen]).mean()),
        macro_auroc=float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan"),
        auroc=tuple(areas.tolist()),
    )
