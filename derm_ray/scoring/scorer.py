"""Scoring one shard: read, decode, predict, write. It does not know where it runs."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch

from derm_ray import __version__, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.archives.parquets import ChunkCache
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.errors import BundleError, ImageError, ImageErrorCode, StorageError
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, overlay_files
from derm_ray.lease import LeaseLostError, is_taken
from derm_ray.scoring.attempts import Attempts
from derm_ray.scoring.ledger import ATTEMPTS, SALIENCY, RunDescription, part_name
from derm_ray.scoring.schema import Scored, score_schema, score_table
from derm_ray.scoring.shards import PairReader, Shard
from derm_ray.vocabulary import LesionPair, Modality

logger = logging.getLogger(__name__)

LOADING_THREADS = 8
OUTAGE_PAIRS = 32
LEAST_OUTAGE_PAIRS = 8
"""Of a shard that is shorter; one that is shorter still gives rows."""
Loaded = list[PairPixels | ImageError]


@dataclass(frozen=True)
class ShardOutcome:
    """One row of a run's ledger.

    Attributes:
        index: the shard's.
        scored, errors: its rows by status.
        seconds: from reading to the written part.
        read_s, decode_s: summed over the loading threads, which run beside the rest.
        infer_s, write_s: of the engine (and saliency), and of the part.
    """

    index: int
    scored: int = 0
    errors: int = 0
    seconds: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON types."""
        return asdict(self)


class ShardScorer:
    """Scores shards with one model, one after the other.

    Args:
        model_uri: a bundle.
        engine: its resolved name, or an engine.
        manifest_uri: the run's copy of its input.
        out_uri: folder of the parts.
        description: the run's identity.
        use_gpu: run on the GPU; otherwise on CPU, also where a GPU is visible.
        batch_size: pairs per forward pass.
        lease_uri: the run's record in the folder's lease; nothing is written once another one holds it.

    Raises:
        BundleError: the bundle is no longer the run's model.
    """

    def __init__(
        self,
        model_uri: str,
        engine: str | Engine,
        manifest_uri: str,
        out_uri: str,
        description: RunDescription,
        *,
        use_gpu: bool = False,
        batch_size: int = 32,
        lease_uri: str | None = None,
    ) -> None:
        device = torch.device("cuda" if use_gpu else "cpu")
        bundle = load_bundle(model_uri)
        if bundle.model_digest != description.model_digest:
            raise BundleError(f"{model_uri} changed while the run was under way. Put the model back and resume.")
        self._predictor = Predictor(bundle, engine, batch_size=batch_size, device=device)
        self._mapper = SaliencyMapper(bundle, device) if description.saliency else None
        self._pairs = PairReader(manifest_uri)
        self._out_uri = out_uri
        self._lease_uri = lease_uri
        self._chunks = ChunkCache()
        self._format = description.part_format
        self._schema = score_schema(bundle.label_set, branches=description.branches, saliency=description.saliency)

    def score(self, shard: Shard) -> ShardOutcome:
        """Score a shard and write its part, atomically; a repetition overwrites its own part.

        Raises:
            StorageError: storage does not answer, for the images, the input's copy or the output. Nothing is
                written then, so that the shard is scored when storage is back.
        """
        with Attempts(storage.join(self._out_uri, ATTEMPTS), shard) as attempts:
            return self._score(shard, attempts)

    def _score(self, shard: Shard, attempts: Attempts) -> ShardOutcome:
        started = time.perf_counter()
        pairs = self._pairs.read(shard)
        seconds = dict.fromkeys(("read_s", "decode_s", "infer_s"), 0.0)
        tables: list[pa.Table] = []
        silent = done = 0
        for loaded in self._one_by_one(pairs, shard, attempts) if attempts.one_by_one else self._load(pairs):
            silent = self._silent(loaded, silent, len(pairs))
            begun = time.perf_counter()
            scored = self._predict(loaded, shard, done)
            seconds["infer_s"] += time.perf_counter() - begun
            for pixels in loaded:
                if isinstance(pixels, PairPixels):
                    seconds["read_s"] += pixels.read_s
                    seconds["decode_s"] += pixels.decode_s
            tables.append(self._table(pairs[done : done + len(loaded)], scored))
            done += len(loaded)
        attempts.end()
        begun = time.perf_counter()
        table = pa.concat_tables(tables)
        if self._lease_uri is not None and is_taken(self._lease_uri):
            raise LeaseLostError(f"{self._out_uri} is written by another run now; this one left it.")
        uri = storage.join(self._out_uri, part_name(shard, self._format.name))
        storage.write_bytes(uri, self._format.encode(table))
        ended = time.perf_counter()
        errors = table["error_code"].drop_null().length()
        return ShardOutcome(shard.index, done - errors, errors, ended - started, **seconds, write_s=ended - begun)

    def _load(self, pairs: list[LesionPair]) -> Iterator[Loaded]:
        """Yield micro-batches; the next one is read and decoded while the caller predicts this one."""
        size, spec = self._predictor.batch_size, self._predictor.bundle.preprocessing
        with (
            ImageReader(_uris(pairs), chunks=self._chunks) as reader,
            ThreadPoolExecutor(LOADING_THREADS) as images,
            ThreadPoolExecutor(1) as ahead,
        ):

            def begin(start: int) -> "Future[Loaded]":
                return ahead.submit(load_pairs, pairs[start : start + size], spec, images, reader=reader)

            following = begin(0)
            for start in range(size, len(pairs) + size, size):
                loaded = following.result()
                following = begin(start)
                yield loaded

    def _one_by_one(self, pairs: list[LesionPair], shard: Shard, attempts: Attempts) -> Iterator[Loaded]:
        """Yield single pairs, each noted before it is touched; those that killed their process are errors."""
        logger.warning("shard %d: the process that scored it died; its pairs are scored one by one", shard.index)
        spec = self._predictor.bundle.preprocessing
        with ImageReader(_uris(pairs), chunks=self._chunks) as reader, ThreadPoolExecutor(1) as images:
            for row, pair in enumerate(pairs, shard.start):
                if attempts.begin(row):
                    yield load_pairs([pair], spec, images, reader=reader)
                else:
                    yield [ImageError(ImageErrorCode.CRASH, "the process died each time it worked on this pair")]

    def _silent(self, loaded: Loaded, before: int, of: int) -> int:
        """Count pairs in a row that storage did not answer for: enough of them are an outage, not rows."""
        for result in loaded:
            if isinstance(result, ImageError) and result.code in (ImageErrorCode.STORAGE, ImageErrorCode.TIMEOUT):
                before += 1
                if before >= min(OUTAGE_PAIRS, max(of, LEAST_OUTAGE_PAIRS)):
                    raise StorageError(f"no image of {before} pairs in a row could be read: {result}")
            else:
                before = 0
        return before

    def _predict(self, loaded: Loaded, shard: Shard, done: int) -> list[Scored]:
        predictions = iter(self._predictor.predict([p for p in loaded if isinstance(p, PairPixels)]))
        return [
            Scored(p)
            if isinstance(p, ImageError)
            else Scored(next(predictions), p.flags, self._overlays(p, shard, shard.start + done + row))
            for row, p in enumerate(loaded)
        ]

    def _overlays(self, pixels: PairPixels, shard: Shard, row: int) -> dict[Modality, str]:
        """Write the overlays of one pair, named by its row, and return their paths."""
        if self._mapper is None:
            return {}
        paths = {}
        for modality, png in overlay_files(self._mapper, pixels).items():
            paths[modality] = f"{SALIENCY}/{shard.index:06d}/{row:09d}-{modality}.png"
            storage.write_bytes(storage.join(self._out_uri, paths[modality]), png)
        return paths

    def _table(self, pairs: list[LesionPair], scored: list[Scored]) -> pa.Table:
        bundle = self._predictor.bundle
        return score_table(
            pairs,
            scored,
            bundle.label_set,
            self._schema,
            provenance={
                "model_digest": bundle.model_digest,
                "engine": self._predictor.engine.name,
                "derm_ray_version": __version__,
            },
            scored_at=datetime.now(UTC),
        )


def _uris(pairs: list[LesionPair]) -> Iterator[str]:
    return (uri for pair in pairs for modality in Modality if (uri := pair.uri(modality)) is not None)
