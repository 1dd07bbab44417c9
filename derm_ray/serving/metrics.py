"""Prometheus metrics of the endpoint, exported by Ray on every node's metrics port.

Every label's values come from closed lists, never from a caller: a metric has at most 200 series per replica.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from ray.serve.metrics import Counter, Histogram

from derm_ray.domain import Prediction
from derm_ray.serving.middleware import HUNG_UP
from derm_ray.serving.recorder import Recorder

LATENCIES_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
BATCH_SIZES = [1, 2, 4, 8, 16, 32, 64]
CONFIDENCES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
STAGES = ("decode", "queue", "infer", "encode")


class ModelMetrics:
    """What one model replica measures."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stages = Histogram(
            "derm_ray_stage_seconds",
            description="Time of a request's decode, queue and encode stages, and of a batch's infer stage.",
            boundaries=LATENCIES_S,
            tag_keys=("stage",),
        )
        self._batches = Histogram(
            "derm_ray_batch_size", description="Pairs answered in one forward pass.", boundaries=BATCH_SIZES
        )
        self._predictions = Counter(
            "derm_ray_predictions", description="Answers by leading diagnosis.", tag_keys=("modality", "diagnosis")
        )
        self._confidence = Histogram(
            "derm_ray_confidence", description="Probability of the leading diagnosis.", boundaries=CONFIDENCES
        )
        self._image_errors = Counter(
            "derm_ray_image_errors", description="Images that could not be used.", tag_keys=("code",)
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as one of :data:`STAGES`."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.waited(name, perf_counter() - begun)

    def waited(self, name: str, seconds: float) -> None:
        """Record the time of one of :data:`STAGES`."""
        self._recorder.later(self._stages.observe, seconds, {"stage": name})

    def batch(self, pairs: int) -> None:
        """Record a forward pass."""
        self._recorder.later(self._batches.observe, pairs)

    def prediction(self, prediction: Prediction) -> None:
        """Record an answer."""
        tags = {"modality": prediction.modality, "diagnosis": prediction.diagnosis}
        self._recorder.count(self._predictions, tags)
        self._recorder.later(self._confidence.observe, prediction.confidence)

    def image_error(self, code: str) -> None:
        """Record an image that could not be used."""
        self._recorder.count(self._image_errors, {"code": code})


class RequestMetrics:
    """What a replica, or a proxy that refuses for it, measures of all requests."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._requests = Counter(
            "derm_ray_requests", description="Requests by route and status.", tag_keys=("route", "status")
        )
        self._latency = Histogram(
            "derm_ray_request_seconds",
            description="From a request's head to its answer's end, by route.",
            boundaries=LATENCIES_S,
            tag_keys=("route",),
        )
        self._rejected = Counter(
            "derm_ray_rejected",
            description="Requests refused by what they were, or for lack of room.",
            tag_keys=("status",),
        )

    def request(self, route: str | None, status: int, seconds: float) -> None:
        """Record one request.

        Args:
            route: the application's pattern; ``None`` where the request fits none.
            status: of HTTP, or :data:`~derm_ray.serving.middleware.HUNG_UP`.
            seconds: it took.
        """
        self._recorder.later(self._latency.observe, seconds, {"route": route or "none"})
        self.counted(route, status)

    def counted(self, route: str | None, status: int) -> None:
        """Record one request without its time; see :meth:`request`."""
        self._recorder.count(self._requests, {"route": route or "none", "status": str(status)})
        if status >= 400 and status != HUNG_UP:
            self._recorder.count(self._rejected, {"status": str(status)})
