"""Drift metrics: observed bins of predictions and images, and those expected from the reference.

Prometheus computes from their rates how far the two are apart (``cluster/prometheus/drift.yaml``). Gauges would not do:
Ray drops one about 20 s after it was set.
"""

from collections import Counter
from collections.abc import Mapping

from ray.serve import metrics

from derm_ray.data.reference import Quantity, Reference
from derm_ray.data.statistics import ImageStatistics
from derm_ray.domain import Modality, Prediction
from derm_ray.observability import NEXT_TO_NOTHING
from derm_ray.serving.recorder import Recorder

TAGS = ("quantity", "modality", "bin")


class DriftMetrics:
    """Drift counters of one model replica.

    Args:
        reference: the model's; quantities that it lacks are not counted.
        recorder: counts later: one request is an increment of every bin, and many are no more.
    """

    def __init__(self, reference: Reference, recorder: Recorder) -> None:
        self._recorder = recorder
        self._reference = {(of.quantity, of.modality): of for of in reference}
        self._seen: Counter[tuple[Quantity, str, str]] = Counter()
        self._observed = metrics.Counter(
            "derm_ray_drift_observed", description="Requests by bin of each quantity.", tag_keys=TAGS
        )
        self._expected = metrics.Counter(
            "derm_ray_drift_expected", description="Requests by bin, as expected from the reference.", tag_keys=TAGS
        )
        for of in reference:
            for name in of.bins:
                tags = {"quantity": str(of.quantity), "modality": of.modality, "bin": name}
                self._observed.inc(NEXT_TO_NOTHING, tags)
                self._expected.inc(NEXT_TO_NOTHING, tags)

    def observe(self, prediction: Prediction, images: Mapping[Modality, ImageStatistics]) -> None:
        """Count one answer and the images it rests on."""
        self._recorder.later(self._gather, prediction, images)

    def _gather(self, prediction: Prediction, images: Mapping[Modality, ImageStatistics]) -> None:
        if not self._seen:
            self._recorder.later(self._flush)
        self._see(Quantity.DIAGNOSIS, prediction.modality, prediction.diagnosis)
        self._see(Quantity.CONFIDENCE, prediction.modality, prediction.confidence)
        for modality, statistics in images.items():
            self._see(Quantity.BRIGHTNESS, modality, statistics.brightness)
            self._see(Quantity.SHARPNESS, modality, statistics.sharpness)
            self._see(Quantity.RESOLUTION, modality, statistics.resolution)

    def _see(self, quantity: Quantity, modality: str, value: float | str) -> None:
        if (of := self._reference.get((quantity, modality))) is not None:
            self._seen[quantity, modality, of.bin_of(value)] += 1

    def _flush(self) -> None:
        """Export the collected counts to Ray."""
        seen, self._seen = self._seen, Counter()
        requests: Counter[tuple[Quantity, str]] = Counter()
        for (quantity, modality, name), count in seen.items():
            requests[quantity, modality] += count
            self._observed.inc(count, {"quantity": str(quantity), "modality": modality, "bin": name})
        for (quantity, modality), count in requests.items():
            of = self._reference[quantity, modality]
            for name, share in zip(of.bins, of.shares, strict=True):
                self._expected.inc(count * share, {"quantity": str(quantity), "modality": modality, "bin": name})
