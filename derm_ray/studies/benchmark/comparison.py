"""Comparing implementations of the same work, timed alternately on the same cores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE = 0.95

Figure = TypeVar("Figure")
Side = Callable[[], float]
"""Does a stretch of work and returns its figure: a rate, or seconds."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: repetitions and seconds of each side, for work of adjustable length and for whole runs.

    ``steps`` are those of a training run that count, ``max_pairs`` the pairs of the large run that is compared with a
    small one.
    """

    repetitions: int
    seconds: float
    run_repetitions: int
    run_seconds: float
    steps: int
    max_pairs: int


FULL, QUICK = Effort(9, 3.0, 5, 60.0, 4, 100_000), Effort(5, 1.0, 5, 10.0, 2, 10_000)


@dataclass(frozen=True)
class Row:
    """Result of one comparison of two sides: medians of their figures, and of ours / baseline over the repetitions.

    ``low`` to ``high`` is the 95% bootstrap interval of that ratio, ``threshold`` the required bound, an upper one with
    ``at_most``.
    """

    name: str
    description: str
    ours: float
    baseline: float
    unit: str
    ratio: float
    low: float
    high: float
    threshold: float
    at_most: bool

    @property
    def passed(self) -> bool:
        """Return whether the whole interval meets the threshold."""
        return self.high <= self.threshold if self.at_most else self.low >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON types."""
        figures = {"ratio": self.ratio, "low": self.low, "high": self.high}
        sides = {"description": self.description, "derm_ray": self.ours, "baseline": self.baseline, "unit": self.unit}
        return {"name": self.name, **figures, "threshold": self.threshold, "passed": self.passed, **sides}


def turns(sides: Sequence[Callable[[], Figure]], repetitions: int) -> list[tuple[Figure, ...]]:
    """Run all sides in turn, A B B A, each without its own warm-up; return their figures, one tuple per repetition."""
    figures = []
    for repetition in range(repetitions):
        step = 1 if repetition % 2 == 0 else -1
        figures.append(tuple([side() for side in sides[::step]][::step]))
    return figures


def to_row(
    name: str,
    description: str,
    figures: Sequence[tuple[float, float]],
    *,
    unit: str,
    threshold: float,
    at_most: bool = False,
) -> Row:
    """Return the row of a comparison from both sides' figures of each repetition; see :class:`Row`.

    The ratio is taken within each repetition, so that a machine that becomes slower or faster does not affect it.
    """
    ratios = [mine / yours for mine, yours in figures]
    low, high = _interval(ratios)
    mine, yours = (median(side) for side in zip(*figures, strict=True))
    return Row(name, description, mine, yours, unit, median(ratios), low, high, threshold, at_most)


def compare(
    name: str,
    description: str,
    ours: Side,
    baseline: Side,
    effort: Effort,
    *,
    unit: str,
    threshold: float,
    at_most: bool = False,
) -> Row:
    """Time two sides in turn after one run of each that does not count; see :func:`turns` and :func:`to_row`."""
    ours(), baseline()
    figures = [(mine, yours) for mine, yours in turns((ours, baseline), effort.repetitions)]
    return to_row(name, description, figures, unit=unit, threshold=threshold, at_most=at_most)


def _interval(ratios: list[float]) -> tuple[float, float]:
    if len(set(ratios)) == 1:
        return ratios[0], ratios[0]
    interval = bootstrap(
        (np.array(ratios),), np.median, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
