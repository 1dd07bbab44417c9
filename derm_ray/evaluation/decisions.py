"""Decision offsets: which diagnosis is named, chosen for a metric that counts rare classes as much as frequent ones.

The most probable class is the best guess for accuracy. For a metric that averages over classes, a rare class has to be
named at a lower probability. A prediction names the class with the largest log p + offset.

Shapes: N pairs, K classes, G offsets that are tried.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]
Offsets = Sequence[float] | npt.NDArray[np.floating] | None
"""Of all pairs (K,), or of each (N, K); ``None`` for none."""

OFFSETS = np.arange(-30, 31) / 10
"""Offsets that are tried for a class, relative to the others: factors of 1/20 to 20."""
ROUNDS = 20
GAIN = 1e-9


def _recall(right: Counts, _: Counts, truth: Counts) -> Counts:
    return right / truth


def _f1(right: Counts, named: Counts, truth: Counts) -> Counts:
    return 2 * right / (named + truth)


DECISIONS: dict[str, Callable[[Counts, Counts, Counts], Counts] | None] = {
    "argmax": None,
    "balanced_accuracy": _recall,
    "macro_f1": _f1,
}
"""What a diagnosis is named for -> the value of a class that is so often rightly named, named, and true.

The metric is the mean of these over the classes that are there."""


def decided(probabilities: Scores, offsets: Offsets) -> Scores:
    """Return scores (N, K) whose largest in a row is the class that a prediction names: p * exp(offset)."""
    return probabilities if offsets is None else np.asarray(probabilities * np.exp(offsets))


def fit_offsets(labels: Labels, probabilities: Scores, decide: str) -> tuple[float, ...] | None:
    """Return the offset of each class that makes a metric largest on these pairs; ``None`` for ``argmax``.

    Coordinate ascent: one class after the other gets the best of :data:`OFFSETS`, of equally good ones the nearest to
    what it has, until a round over all classes brings nothing. Classes without pairs keep 0.

    Args:
        labels: class indices (N,).
        probabilities: (N, K), calibrated.
        decide: a key of :data:`DECISIONS`.
    """
    value = DECISIONS[decide]
    if value is None:
        return None
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)
    classes = logs.shape[1]
    truth = np.bincount(labels, minlength=classes).astype(np.float64)
    present = np.flatnonzero(truth).tolist()
    onehot = np.eye(classes)
    offsets = np.zeros(classes)

    def scores_of(tried: int) -> Counts:
        """Return the metric (G,) for each offset of one class, the others as they are."""
        others = logs + offsets
        others[:, tried] = -np.inf
        best = others.argmax(1)
        taken = logs[:, tried] + OFFSETS[:, None] > others.max(1)
        named = ~taken @ onehot[best]
        right = ~taken @ (onehot[best] * (best == labels)[:, None])
        named[:, tried], right[:, tried] = taken.sum(1), (taken & (labels == tried)).sum(1)
        return np.asarray(value(right[:, present], named[:, present], truth[present]).mean(1))

    best_score = -1.0
    for _ in range(ROUNDS):
        before = best_score
        for tried in present:
            scores = scores_of(tried)
            ties = np.flatnonzero(scores >= scores.max() - GAIN)
            nearest = ties[np.abs(OFFSETS[ties] - offsets[tried]).argmin()]
            offsets[tried], best_score = OFFSETS[nearest], float(scores[nearest])
        if best_score <= before + GAIN:
            break
    return tuple(offsets.tolist())
