"""Possible duplicates: the nearest hashes of each image, by exact search in blocks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.audit.fingerprint import CROPS, HASH_BYTES, Bytes
from derm_ray.audit.thresholds import HASH_DISTANCE, NEIGHBORS

BLOCK = 65_536
"""Images that are compared with at once."""
QUERIES = 1024
"""Images of one task."""
_AT_ONCE = 256

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of images (M,) whose hashes are near each other."""

    first: Indices
    second: Indices
    distances: Indices


def nearest(hashes: Bytes, start: int, stop: int) -> Candidates:
    """Return the nearest images of some, :data:`NEIGHBORS` each at most, within :data:`HASH_DISTANCE`.

    The hash of each whole image is compared with all hashes of the others: two crops of one photo differ most where
    neither is compared with a crop of the other.

    Args:
        hashes: of all images (N, len(CROPS), 32).
        start, stop: those whose neighbors are searched.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # Ray counts one CPU for this task
    wanted = (NEIGHBORS + 1) * len(CROPS)
    found = []
    for begin in range(0, len(hashes), BLOCK):
        block = hashes[begin : begin + BLOCK]
        index = faiss.IndexBinaryFlat(8 * HASH_BYTES)
        index.add(np.ascontiguousarray(block.reshape(-1, HASH_BYTES)))
        for first in range(start, stop, _AT_ONCE):
            queries = np.ascontiguousarray(hashes[first : min(first + _AT_ONCE, stop), 0])
            distances, entries = index.search(queries, min(wanted, index.ntotal))
            near = distances <= HASH_DISTANCE
            query, column = np.nonzero(near)
            found.append(
                np.stack([query + first, entries[query, column] // len(CROPS) + begin, distances[query, column]])
            )
    query, other, distance = np.concatenate(found, 1).astype(np.int64)
    order = np.lexsort((other, distance, query))
    order = order[query[order] != other[order]]
    kept = order[_first_of_each(query[order], other[order])]
    rank = np.arange(len(kept)) - np.searchsorted(query[kept], query[kept])
    kept = kept[rank < NEIGHBORS]
    return Candidates(query[kept], other[kept], distance[kept])


def _first_of_each(query: Indices, other: Indices) -> Indices:
    """Return, in order, the places at which each pair occurs for the first time."""
    _, places = np.unique(query * (other.max(initial=0) + 1) + other, return_index=True)
    return np.sort(places)


def joined(parts: list[Candidates]) -> Candidates:
    """Return each unordered pair of several parts once, by its images."""
    if not parts:
        return Candidates(*np.zeros((3, 0), np.int64))
    first, second, distances = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "second", "distances")
    )
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((distances, high, low))
    kept = order[_first_of_each(low[order], high[order])]
    return Candidates(low[kept], high[kept], distances[kept])
