"""The audit's work on Ray Data: fingerprints of all images, their nearest neighbors, and the check of these."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from derm_ray.audit.fingerprint import Bytes, Fingerprints, fingerprint
from derm_ray.audit.matching import QUERIES, Candidates, Indices, Mask, joined, nearest
from derm_ray.audit.similarity import similarities
from derm_ray.audit.thresholds import SIMILARITY
from derm_ray.errors import DermRayError, ImageErrorCode, WorkError
from derm_ray.observability import ProgressLine
from derm_ray.ray_rows import Row, dataset_of, objects, packed, unpacked

IMAGES = 256
"""Images of one task."""
ATTEMPTS = 4
"""Times that a task is begun before it is given up, as one on which processes die."""
PAIRS = 128
"""Pairs of images that one task compares."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    message: str


@dataclass(frozen=True)
class _Lost:
    """In place of the result of a task that was given up."""


def fingerprint_all(uris: Sequence[str]) -> Fingerprints:
    """Return the fingerprints of images by URI, in order.

    An image at which a process died each time has the error ``crash``; its neighbors are read again without it.
    """
    found = Fingerprints.empty(len(uris))
    progress = ProgressLine(len(uris), noun="images")
    tasks = [(start, uris[start : start + IMAGES]) for start in range(0, len(uris), IMAGES)]
    for single in (False, True):
        lost = dict(tasks)
        for start, some in _results(_fingerprint, tasks):
            found.put(start, some)
            del lost[start]
            progress.show(len(some.digests))
        if not lost:
            break
        if single:
            progress.show(len(lost))
            message = "the process died each time it worked on this image"
            found.errors.update({start: (str(ImageErrorCode.CRASH), message) for start in lost})
        tasks = [(start + n, [uri]) for start, some in lost.items() for n, uri in enumerate(some)]
    progress.end()
    return found


def near_duplicates(uris: Sequence[str], hashes: Bytes, skipped: Callable[[Indices, Indices], Mask]) -> Candidates:
    """Return the pairs of images that show the same photo; ``distances`` are those of their hashes.

    Args:
        uris: of N images.
        hashes: see :class:`derm_ray.audit.fingerprint.Fingerprints` (N, ...).
        skipped: takes the images of pairs, and returns a mask of those that need no comparison.
    """
    shared = ray.put(hashes)
    tasks = [(start, min(start + QUERIES, len(uris))) for start in range(0, len(uris), QUERIES)]
    candidates = joined(list(_complete(partial(_nearest, shared), tasks)))
    wanted = ~skipped(candidates.first, candidates.second)
    first, second, distances = (v[wanted] for v in (candidates.first, candidates.second, candidates.distances))
    logger.info("comparing %s pairs of images with similar hashes", f"{len(first):,}")
    compared = [
        (start, [(uris[a], uris[b]) for a, b in zip(first[start:stop], second[start:stop], strict=True)])
        for start, stop in ((start, start + PAIRS) for start in range(0, len(first), PAIRS))
    ]
    same = np.zeros(len(first), bool)
    for start, values in _complete(_similarities, compared):
        same[start : start + len(values)] = np.array(values) >= SIMILARITY
    return Candidates(first[same], second[same], distances[same])


def _fingerprint(task: tuple[int, Sequence[str]]) -> tuple[int, Fingerprints]:
    return task[0], fingerprint(task[1])


def _nearest(shared: "ray.ObjectRef[Bytes]", task: tuple[int, int]) -> Candidates:
    return nearest(ray.get(shared), *task)


def _similarities(task: tuple[int, list[tuple[str, str]]]) -> tuple[int, list[float]]:
    return task[0], similarities(task[1])


def _complete(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield the results of all tasks.

    Raises:
        WorkError: processes died on one of them.
    """
    count = 0
    for result in _results(function, tasks):
        count += 1
        yield result
    if count < len(tasks):
        raise WorkError(
            f"processes died on {len(tasks) - count} of {len(tasks)} tasks of the audit, which usually means that "
            "memory ran out. Run it again on a machine or cluster with more memory per CPU."
        )


def _results(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield results as they arrive; those of tasks whose processes died each time are missing.

    Raises:
        WorkError: the function failed.
    """
    if not tasks:
        return
    attempts = _Attempts.remote()  # type: ignore[attr-defined]  # Ray adds it
    dataset = dataset_of(list(enumerate(tasks)))
    # Ray Data must have stopped before Ray does: its threads would join any other Ray of the machine.
    with closing(objects(dataset.map(partial(_call, function, attempts), num_cpus=1))) as results:
        for result in results:
            if isinstance(result, _Failure):
                raise WorkError(f"the audit stopped: {result.message}")
            if not isinstance(result, _Lost):
                yield result


@ray.remote(num_cpus=0)
class _Attempts:
    """Counts how often each task was begun: Ray Data repeats one whose process dies forever."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Return how often a task was begun, this time included."""
        self._counts[number] += 1
        return self._counts[number]


def _call(function: Callable[[Any], Any], attempts: Any, row: Row) -> Row:
    number, task = unpacked(row)
    if ray.get(attempts.begin.remote(number)) > ATTEMPTS:
        return packed(_Lost())
    try:
        return packed(function(task))
    except ImportError as error:
        return packed(_Failure(f"{error}. Install derm-ray[audit] on every node of the cluster."))
    except (DermRayError, MemoryError, ValueError, RuntimeError) as error:
        return packed(_Failure(f"{type(error).__name__}: {error}"))
