"""Intervals by bootstrap over lesions."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.evaluation.metrics import Draws

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 4_000_000
"""Weights held at once."""


@dataclass(frozen=True)
class Interval:
    """A metric on all pairs with its percentile interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return it as JSON types; undefined numbers are null."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON has it: NaN becomes null."""
    return value if math.isfinite(value) else None


def lesion_weights(lesion_ids: Sequence[str], *, resamples: int = RESAMPLES) -> Draws:
    """Return how often each pair counts (1 + resamples, N): once each, then as lesions are drawn with replacement."""
    return np.concatenate(list(_blocks(lesion_ids, resamples)))


def _blocks(lesion_ids: Sequence[str], resamples: int) -> Iterator[Draws]:
    """Yield the rows of :func:`lesion_weights`, in blocks that fit in memory; (D, N) in Fortran order."""
    _, lesion = np.unique(np.asarray(lesion_ids), return_inverse=True)
    count, generator = int(lesion.max()) + 1, np.random.default_rng(0)
    yield np.ones((1, len(lesion)))
    most = max(1, BLOCK // len(lesion))
    for start in range(0, resamples, most):
        drawn = generator.multinomial(count, np.full(count, 1 / count), min(most, resamples - start))
        yield np.asfortranarray(drawn[:, lesion], np.float64)


def bootstrap(
    compute: Callable[[Draws], Mapping[str, Draws]], lesion_ids: Sequence[str], *, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Compute metrics on all pairs with 95% percentile intervals from draws of lesions.

    ``compute`` takes weights of the pairs (D, N) and returns metric name -> values (D,). A draw in which a metric is
    undefined does not count for it.
    """
    parts = [compute(weights) for weights in _blocks(lesion_ids, resamples)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: percentile_interval(values[0], values[1:]) for name, values in whole.items()}


def percentile_interval(value: float, draws: npt.NDArray[np.floating]) -> Interval:
    """Return a metric with the 95% percentile interval of its resamples; draws that are NaN do not count."""
    defined = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(defined):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
