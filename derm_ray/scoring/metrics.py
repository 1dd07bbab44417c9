"""Prometheus metrics of bulk scoring, exported by Ray on every node's metrics port.

Labels are the run's name, which is its folder's, and closed lists, never data. Counters only but for ``pairs_left``: a
gauge disappears 20 s after it was set, which shows here that no run is active.
"""

from threading import Event, Thread
from typing import Self

from ray.util.metrics import Counter, Gauge

from derm_ray.observability import NEXT_TO_NOTHING, WORK
from derm_ray.scoring.parts import ShardOutcome

_GAUGE_S = 5.0


class WorkMetrics:
    """Metrics of a process of a run, from :data:`derm_ray.observability.WORK`; repeated work counts again."""

    def __init__(self, out_uri: str) -> None:
        self._counters = {
            "bytes": (_counter(out_uri, "bytes", "Bytes of images read, of parts written.", "direction"), "direction"),
            "errors": (_counter(out_uri, "errors", "Pairs whose images could not be used.", "code"), "code"),
            "retries": (_counter(out_uri, "retries", "Retried storage requests."), ""),
        }

    def export(self) -> None:
        """Export the counts since the last call."""
        for (what, kind), count in WORK.take().items():
            counter, label = self._counters[what]
            counter.inc(count, {label: kind} if label else None)


class RunMetrics:
    """Metrics of the driver for ``pairs`` to be scored; a context manager for the duration of the run."""

    def __init__(self, out_uri: str, pairs: int) -> None:
        self._left = pairs
        self._work = WorkMetrics(out_uri)
        self._pairs = _counter(out_uri, "pairs", "Pairs by status.", "status")
        for status in ("ok", "error"):
            self._pairs.inc(NEXT_TO_NOTHING, {"status": status})
        self._shards = _counter(out_uri, "shards", "Shards written.")
        self._seconds = _counter(out_uri, "seconds", "Seconds by stage, summed over replicas and threads.", "stage")
        self._pairs_left = Gauge(
            "derm_ray_bulk_pairs_left", "Pairs still to be scored; exported while a run is active.", ("run",)
        ).set_default_tags(_tags(out_uri))
        self._ended = Event()
        self._thread = Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def shard(self, outcome: ShardOutcome) -> None:
        """Record a shard."""
        self._left -= outcome.scored + outcome.errors
        self._shards.inc()
        for status, count in (("ok", outcome.scored), ("error", outcome.errors)):
            if count:
                self._pairs.inc(count, {"status": status})
        for stage, seconds in outcome.times._asdict().items():
            if seconds:
                self._seconds.inc(seconds, {"stage": stage.removesuffix("_s")})
        self._work.export()

    def _keep(self) -> None:
        while True:
            self._pairs_left.set(self._left)
            if self._ended.wait(_GAUGE_S):
                return


def _counter(out_uri: str, name: str, description: str, *labels: str) -> Counter:
    return Counter(f"derm_ray_bulk_{name}", description, ("run", *labels)).set_default_tags(_tags(out_uri))


def _tags(out_uri: str) -> dict[str, str]:
    # Ray takes ASCII only, a folder's name may be anything.
    return {"run": out_uri.rpartition("/")[2].encode("ascii", "backslashreplace").decode()}
