"""From loaded pairs to their rows of a part."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import torch

from derm_ray import __version__, storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import BundleError, ImageError
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, overlay_files
from derm_ray.observability import WORK
from derm_ray.scoring.chunks import Chunk, read_pixels
from derm_ray.scoring.ledger import SALIENCY, RunDescription
from derm_ray.scoring.loader import BATCH_SIZE, Loaded
from derm_ray.scoring.schema import Scored, score_schema, score_table
from derm_ray.scoring.shards import Shard


class ShardPredictor:
    """Predicts the pairs of shards with one model.

    Args:
        model_uri: a bundle.
        engine: its resolved name, or an engine.
        out_uri: folder of the run; overlays are written to it.
        description: the run's identity.
        use_gpu: run on the GPU; otherwise on CPU, also where a GPU is visible.
        batch_size: pairs per forward pass.

    Raises:
        BundleError: the bundle no longer holds the run's model and engine.
    """

    def __init__(
        self,
        model_uri: str,
        engine: str | Engine,
        out_uri: str,
        description: RunDescription,
        *,
        use_gpu: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        device = torch.device("cuda" if use_gpu else "cpu")
        bundle = load_bundle(model_uri)
        if bundle.model_digest != description.model_digest:
            raise BundleError(f"{model_uri} changed during the run. Restore the model and resume.")
        self._predictor = Predictor(bundle, engine, batch_size=batch_size, device=device)
        if self._predictor.engine.name != description.engine:
            raise BundleError(
                f"{model_uri} now contains {self._predictor.engine.name}, but the run started with "
                f"{description.engine}. Restore it and resume."
            )
        self._mapper = SaliencyMapper(bundle, device) if description.saliency else None
        self._out_uri = out_uri
        self._schema = score_schema(
            bundle.label_set, per_input_predictions=description.per_input_predictions, saliency=description.saliency
        )

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self._predictor.bundle

    def table(self, shard: Shard, first: int, pairs: list[LesionPair], loaded: Loaded) -> pa.Table:
        """Return the rows of pairs that follow each other, and write their overlays.

        Args:
            shard: theirs.
            first: row of the first one in the run.
            pairs, loaded: the pairs, and the pixels or the error of each.
        """
        for one in loaded:
            if isinstance(one, ImageError):
                WORK.add("errors", str(one.code))
        predictions = iter(self._predictor.predict([p for p in loaded if isinstance(p, PairPixels)]))
        scored = [
            Scored(p)
            if isinstance(p, ImageError)
            else Scored(next(predictions), p.flags, self._overlays(p, shard, row))
            for row, p in enumerate(loaded, first)
        ]
        return score_table(
            pairs,
            scored,
            self.bundle.label_set,
            self._schema,
            provenance={
                "model_digest": self.bundle.model_digest,
                "engine": self._predictor.engine.name,
                "derm_ray_version": __version__,
            },
            scored_at=datetime.now(UTC),
        )

    def chunk(self, chunk: Chunk) -> Chunk:
        """Return a chunk of pixels as the chunk of its rows, predicted in the batches of :meth:`table`'s other callers.

        Args:
            chunk: pairs with their pixels.
        """
        begun = time.perf_counter()
        pairs, loaded = read_pixels(chunk.table, self.bundle.preprocessing.size)
        tables = [
            self.table(chunk.shard, chunk.first + at, pairs[at : at + BATCH_SIZE], loaded[at : at + BATCH_SIZE])
            for at in range(0, len(pairs), BATCH_SIZE)
        ]
        times = replace(chunk.times, infer_s=time.perf_counter() - begun)
        return replace(chunk, table=pa.concat_tables(tables), times=times)

    def _overlays(self, pixels: PairPixels, shard: Shard, row: int) -> dict[Modality, str]:
        """Write the overlays of one pair, named by its row, and return their paths."""
        if self._mapper is None:
            return {}
        paths = {}
        for modality, png in overlay_files(self._mapper, pixels).items():
            paths[modality] = f"{SALIENCY}/{shard.index:06d}/{row:09d}-{modality}.png"
            storage.write_bytes(storage.join(self._out_uri, paths[modality]), png)
        return paths
