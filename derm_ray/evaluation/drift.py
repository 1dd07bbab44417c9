"""The drift reference of a model; its number of bins depends on the number of samples.

With shares o of n requests and e of the reference's m samples, the population stability index is
PSI = sum((o - e) ln(o / e)). Without drift, PSI n m / (n + m) is about chi-squared with bins - 1 degrees of freedom
(Yurdakul & Naranjo 2020). So the fewer the samples, the fewer bins are made of them, and noise stays below the one
threshold of ``cluster/prometheus/drift.yaml``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from derm_ray.data.reference import OTHER, Distribution, Quantity, Reference
from derm_ray.data.statistics import ImageStatistics
from derm_ray.domain import Modality, PredictionKind
from derm_ray.evaluation.decisions import decided
from derm_ray.evaluation.metrics import Scores

ALERT_PSI = 0.25
MIN_REQUESTS = 300
"""Minimum requests of the alert rule of ``cluster/prometheus/drift.yaml``."""
FALSE_ALARM = 1e-5
"""Chance that :data:`MIN_REQUESTS` requests without drift reach :data:`ALERT_PSI`."""
MAX_BINS = 10
MIN_SHARE = 0.05
"""Minimum share of a diagnosis with its own bin."""

_Counts = npt.NDArray[np.int64]


def max_bins(samples: int) -> int:
    """Return the number of bins for a number of samples; 0 if fewer than two."""
    for bins in range(MAX_BINS, 1, -1):
        if samples and chi2.isf(FALSE_ALARM, bins - 1) * (1 / MIN_REQUESTS + 1 / samples) <= ALERT_PSI:
            return bins
    return 0


def min_samples() -> int:
    """Return the minimum number of samples for a reference."""
    return int(np.ceil(1 / (ALERT_PSI / chi2.isf(FALSE_ALARM, 1) - 1 / MIN_REQUESTS)))


def fit_reference(
    class_names: Sequence[str],
    probabilities: Mapping[PredictionKind, Scores],
    images: Mapping[Modality, Sequence[ImageStatistics]],
    *,
    offsets: Mapping[PredictionKind, Sequence[float]] = MappingProxyType({}),
    prepared: bool = False,
) -> Reference:
    """Return the distributions of all quantities with enough samples.

    Args:
        class_names: in class order.
        probabilities: prediction kind -> (N, K) of pairs that were not trained on, as the model will give them.
        images: of any pairs of the training set.
        offsets: the model's decision offsets.
        prepared: the images were resized before, so that their resolution is not meaningful.
    """
    found = []
    for kind, scores in probabilities.items():
        modality = "both" if kind is PredictionKind.CROSS else str(kind)
        named = decided(scores, offsets.get(kind)).argmax(1)
        found.append(_of_diagnoses(modality, [class_names[index] for index in named]))
        found.append(_of_numbers(Quantity.CONFIDENCE, modality, scores[np.arange(len(named)), named]))
    of_images = [Quantity.BRIGHTNESS, Quantity.SHARPNESS, *([] if prepared else [Quantity.RESOLUTION])]
    for modality, statistics in images.items():
        for quantity in of_images:
            values = [getattr(one, quantity) for one in statistics]
            found.append(_of_numbers(quantity, str(modality), values))
    return tuple(distribution for distribution in found if distribution is not None)


def _of_diagnoses(modality: str, names: Sequence[str]) -> Distribution | None:
    """Give the most frequent diagnoses a bin each, and one to all others together."""
    samples, limit = len(names), max_bins(len(names))
    if not limit:
        return None
    counted = sorted(((names.count(name), name) for name in set(names)), reverse=True)
    own = [(count, name) for count, name in counted if count >= MIN_SHARE * samples][: limit - 1]
    counts = [count for count, _ in own]
    shares = _smoothed(np.array([*counts, samples - sum(counts)]))
    return Distribution(Quantity.DIAGNOSIS, modality, samples, (*(name for _, name in own), OTHER), (), shares)


def _of_numbers(quantity: Quantity, modality: str, values: Sequence[float] | Scores) -> Distribution | None:
    """Cut at quantiles, so that each bin has as many samples, up to ties.

    A value that fills a bin alone, such as the resolution of the one camera, gets an edge on either side, so that
    smaller and larger values fall into other bins.
    """
    samples, limit = len(values), max_bins(len(values))
    if not limit:
        return None
    numbers = np.sort(np.asarray(values, np.float64))
    cuts = np.unique(np.quantile(numbers, np.arange(1, limit) / limit, method="inverted_cdf"))
    lower, upper = np.searchsorted(numbers, cuts), np.searchsorted(numbers, cuts, side="right")
    ties = cuts[upper - lower > samples / limit]
    edges = np.union1d(cuts, np.nextafter(ties, np.inf))
    counts = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=len(edges) + 1)
    bins = tuple(str(index + 1) for index in range(len(edges) + 1))
    return Distribution(quantity, modality, samples, bins, tuple(edges.tolist()), _smoothed(counts))


def _smoothed(counts: _Counts) -> tuple[float, ...]:
    """Return shares with half a sample more in each bin (Jeffreys' prior)."""
    return tuple(((counts + 0.5) / (counts.sum() + 0.5 * len(counts))).tolist())
