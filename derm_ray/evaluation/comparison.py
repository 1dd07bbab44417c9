"""Intervals by bootstrap over lesions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A metric with its bootstrap interval.

    Attributes:
        value: the metric on all pairs; NaN where undefined.
        low, high: percentile interval; NaN where the metric is undefined.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return it as JSON types; undefined numbers are null."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON has it: NaN becomes null."""
    return value if math.isfinite(value) else None


def lesion_resamples(lesion_ids: Sequence[str], *, resamples: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Draw lesions with replacement; all pairs of a drawn lesion come along.

    Args:
        lesion_ids: one per pair.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        Row indices of each resample.
    """
    _, lesion = np.unique(np.asarray(lesion_ids), return_inverse=True)
    rows = [np.flatnonzero(lesion == i) for i in range(lesion.max() + 1)]
    generator = np.random.default_rng(seed)
    return [np.concatenate([rows[i] for i in generator.integers(len(rows), size=len(rows))]) for _ in range(resamples)]


def bootstrap(
    compute: Callable[[npt.NDArray[np.int64]], Mapping[str, float]],
    lesion_ids: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute metrics on all pairs with 95% percentile intervals clustered by lesion.

    Args:
        compute: row indices -> metric name -> value.
        lesion_ids: one per pair.
        resamples: number of draws; a draw in which a metric is undefined does not count for it.
        seed: of the draws.
    """
    whole = compute(np.arange(len(lesion_ids)))
    draws = [compute(rows) for rows in lesion_resamples(lesion_ids, resamples=resamples, seed=seed)]
    intervals: dict[str, Interval] = {}
    for name, value in whole.items():
        intervals[name] = percentile_interval(value, np.array([draw[name] for draw in draws]))
    return intervals


def percentile_interval(value: float, draws: npt.NDArray[np.floating]) -> Interval:
    """Return a metric with the 95% percentile interval of its resamples; draws that are NaN do not count."""
    defined = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(defined):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
