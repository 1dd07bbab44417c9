"""Reading and decoding one shard. Independent of models, so that a decoding process stays small."""

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

from derm_ray import storage
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ImageError, ImageErrorCode, StorageError
from derm_ray.scoring.attempts import Attempts
from derm_ray.scoring.ledger import ATTEMPTS, MANIFEST
from derm_ray.scoring.parts import StageTimes
from derm_ray.scoring.shards import PairReader, Shard

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
"""Pairs loaded at once, and per forward pass."""
LOADING_THREADS = 8
"""Images read at once."""
OUTAGE_PAIRS = 32
MIN_OUTAGE_PAIRS = 8
"""Limit for shorter shards; even shorter ones give rows."""
Batch = list[tuple[LesionPair, PairPixels | ImageError]]
"""Consecutive pairs, each with its pixels or its error."""


class ShardLoader:
    """Loads shards of the run in a folder, one after the other, and records attempts there.

    ``batch_size`` pairs are loaded at once, and ``decoding_threads`` images decoded, :data:`LOADING_THREADS` at most.
    """

    def __init__(self, out_uri: str, spec: Preprocessing, batch_size: int, *, decoding_threads: int) -> None:
        self._pairs = PairReader(storage.join(out_uri, MANIFEST))
        self._attempts_uri = storage.join(out_uri, ATTEMPTS)
        self._spec = spec
        self._batch_size = batch_size
        self._kept: dict[str, Any] = {}
        self._decoding = Semaphore(decoding_threads)

    def batches(self, shard: Shard) -> Generator[Batch]:
        """Yield a shard in micro-batches, or as single pairs if a process died on it before.

        The next batch is loaded while the caller works on this one; if the process dies before the
        next batch is requested, that counts as an attempt.

        Raises:
            StorageError: storage does not respond, for the images or the input's copy.
        """
        with Attempts(self._attempts_uri, shard) as attempts:
            yield from self._load(shard, attempts)

    def chunks(self, shard: Shard, size: int) -> Generator[Batch]:
        """Yield a shard in chunks of ``size`` pairs, the last one shorter; see :meth:`batches`.

        Deaths of the caller are not blamed on a pair.
        """
        with Attempts(self._attempts_uri, shard) as attempts:
            ready: Batch = []
            left = len(shard)
            for batch in self._load(shard, attempts):
                ready += batch
                left -= len(batch)
                while len(ready) >= size or (ready and not left):
                    attempts.end()
                    yield ready[:size]
                    ready = ready[size:]

    def _load(self, shard: Shard, attempts: Attempts) -> Iterator[Batch]:
        pairs = self._pairs.read(shard)
        unanswered = 0
        for batch in self._one_by_one(pairs, shard, attempts) if attempts.one_by_one else self._at_once(pairs):
            unanswered = _count_unanswered(batch, unanswered, len(pairs))
            yield batch

    def _at_once(self, pairs: list[LesionPair]) -> Iterator[Batch]:
        """Yield micro-batches; the next one is read and decoded while the caller works on this one."""
        size = self._batch_size
        with (
            ImageReader(_uris(pairs), kept=self._kept) as reader,
            ThreadPoolExecutor(LOADING_THREADS) as images,
            ThreadPoolExecutor(1) as ahead,
        ):

            def load(some: list[LesionPair]) -> Batch:
                loaded = load_pairs(some, self._spec, images, reader=reader, decoding=self._decoding)
                return list(zip(some, loaded, strict=True))

            following = ahead.submit(load, pairs[:size])
            for start in range(size, len(pairs) + size, size):
                batch = following.result()
                following = ahead.submit(load, pairs[start : start + size])
                yield batch

    def _one_by_one(self, pairs: list[LesionPair], shard: Shard, attempts: Attempts) -> Iterator[Batch]:
        """Yield single pairs, each recorded before it starts; those that crashed their process become errors."""
        logger.warning("shard %d: its process died; retrying its pairs one by one", shard.index)
        with ImageReader(_uris(pairs), kept=self._kept) as reader, ThreadPoolExecutor(1) as images:
            for row, pair in enumerate(pairs, shard.start):
                if attempts.begin(row):
                    yield [(pair, load_pairs([pair], self._spec, images, reader=reader)[0])]
                else:
                    crash = ImageError(ImageErrorCode.CRASH, "the process died each time it worked on this pair")
                    yield [(pair, crash)]


def _count_unanswered(batch: Batch, before: int, of: int) -> int:
    """Count consecutive pairs without a response of storage; many of them are an outage and not recorded as rows."""
    for _, result in batch:
        if isinstance(result, ImageError) and result.code in (ImageErrorCode.STORAGE, ImageErrorCode.TIMEOUT):
            before += 1
            if before >= min(OUTAGE_PAIRS, max(of, MIN_OUTAGE_PAIRS)):
                raise StorageError(f"no image of {before} pairs in a row could be read: {result}")
        else:
            before = 0
    return before


def loading_times(batch: Batch) -> StageTimes:
    """Return the seconds that reading and decoding took, summed over threads."""
    pixels = [loaded for _, loaded in batch if isinstance(loaded, PairPixels)]
    return StageTimes(sum(p.read_s for p in pixels), sum(p.decode_s for p in pixels))


def _uris(pairs: list[LesionPair]) -> Iterator[str]:
    return (uri for pair in pairs for modality in Modality for uri in pair.uris(modality))
