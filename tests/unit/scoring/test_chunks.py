import itertools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from derm_ray import storage
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels, Preprocessing
from derm_ray.domain import LesionPair, image_cell
from derm_ray.errors import ImageError, ImageErrorCode, ScoringError
from derm_ray.ray_rows import Row, packed, unpacked
from derm_ray.scoring.actor import ScoringActor
from derm_ray.scoring.decoder import DecodingActor, chunk_pairs
from derm_ray.scoring.ledger import Run
from derm_ray.scoring.parts import Chunk, PartWriter, ShardOutcome, StageTimes, assemble
from derm_ray.scoring.pipeline import CHUNK_BYTES
from derm_ray.scoring.shards import Shard
from tests.unit.scoring.conftest import Opened, score_all

SPEC = Preprocessing(48)
FOUR_PAIRS = 4 * 2 * 3 * 48**2


def decoder(run: Run) -> DecodingActor:
    return DecodingActor(run.out_uri, SPEC, FOUR_PAIRS)


def decode(run: Run, shard: Shard) -> list[Row]:
    return list(decoder(run)(packed(shard)))


def predict(run: Run, bundle_uri: str, rows: list[Row]) -> list[Any]:
    actor = ScoringActor(
        threads=torch.get_num_threads(),
        model_uri=bundle_uri,
        engine="torch",
        out_uri=run.out_uri,
        description=run.description,
    )
    return [unpacked(actor(row)) for row in rows]


def iter_of(*chunks: Chunk) -> Generator[Chunk]:
    yield from chunks


def assembled(run: Run, chunks: list[Chunk]) -> list[ShardOutcome]:
    return list(assemble(iter_of(*chunks), run.shards, PartWriter(run.out_uri, run.description)))


def test_pairs_of_every_kind_survive_the_way() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    error = ImageError(ImageErrorCode.CORRUPT, "x.jpg: cut off")
    pairs = [LesionPair(f"p{i}", f"l{i}", "file:///c", None) for i in range(4)]
    loaded = [
        PairPixels(images[0], images[1], ("clinical:animated", "dermoscopy:animated")),
        PairPixels(None, images[1]),
        PairPixels(images[0], None),
        error,
    ]
    times = StageTimes(1.0, 2.0)
    back = unpacked(packed(Chunk(Shard(3, 8, 20, "d"), 12, list(zip(pairs, loaded, strict=True)), times)))
    assert (back.shard, back.first, back.times) == (Shard(3, 8, 20, "d"), 12, times)
    assert [pair for pair, _ in back.content] == pairs
    for (_, found), given in zip(back.content[:3], loaded[:3], strict=True):
        assert isinstance(found, PairPixels)
        assert isinstance(given, PairPixels)
        assert found.flags == given.flags
        np.testing.assert_array_equal(found.clinical, given.clinical)
        np.testing.assert_array_equal(found.dermoscopy, given.dermoscopy)
    last = back.content[3][1]
    assert isinstance(last, ImageError)
    assert (last.code, last.message) == (error.code, error.message)


def test_a_chunk_is_whole_batches_or_what_fits_or_one_pair() -> None:
    assert [chunk_pairs(Preprocessing(size), CHUNK_BYTES) for size in (224, 448, 2000, 4000)] == [96, 26, 1, 1]


def test_chunks_in_any_order_become_the_part_of_the_scorer(
    opened: Opened, few: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    uris = few.column("dermoscopy_uri")
    several = image_cell([str(uris[7]), str(uris[8])])
    few = few.with_column("dermoscopy_uri", [*uris[:5], None, uris[6], several, *uris[8:]])
    fused, split = (opened(few, out=str(tmp_path / name)) for name in ("fused", "split"))
    score_all(fused, bundle_uri)
    chunks = [c for shard in split.shards for c in predict(split, bundle_uri, decode(split, shard))]
    assert [(c.shard.index, c.first) for c in chunks][:4] == [(0, 0), (0, 4), (0, 8), (1, 10)]
    order = np.random.default_rng(1).permutation(len(chunks))
    outcomes = assembled(split, [chunks[at] for at in order])
    assert {o.shard.index: (o.scored, o.errors) for o in outcomes} == {0: (9, 1), 1: (10, 0), 2: (4, 1)}
    assert all(min(o.times) > 0 for o in outcomes)
    for one, other in zip(fused.shards, split.shards, strict=True):
        tables = [pq.read_table(run.part_uri(shard)) for run, shard in ((fused, one), (split, other))]
        assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
        assert tables[0].drop_columns("scored_at").equals(tables[1].drop_columns("scored_at"))
    assert not storage.list_folder(f"{split.out_uri}/_run/attempts")


def test_a_chunk_that_comes_twice_or_never_is_an_error(run: Run, bundle_uri: str) -> None:
    first, second, third = predict(run, bundle_uri, decode(run, run.shards[0]))
    writer = PartWriter(run.out_uri, run.description)
    with pytest.raises(ScoringError, match="not written: 3 shards"):
        assembled(run, [first, third])
    assert not storage.exists(run.part_uri(run.shards[0]))
    (twice,) = itertools.islice(assemble(iter_of(first, second, second), run.shards, writer), 1)
    assert "the chunk of row 4 came twice" in twice.failure
    assert not storage.exists(run.part_uri(run.shards[0]))
    good, again = itertools.islice(assemble(iter_of(third, first, second, first), run.shards, writer), 2)
    assert (good.scored, good.errors) == (9, 1)
    assert "the chunk of row 0 came twice" in again.failure


def test_after_deaths_the_chunks_are_cut_as_before_and_the_pair_is_a_row(run: Run, bundle_uri: str) -> None:
    record = f"{run.out_uri}/_run/attempts/000001.json"
    storage.write_json(record, {"attempts": 3, "row": 15, "deaths": {"15": 1}})
    chunks = decoder(run)(packed(run.shards[1]))
    rows = [next(iter(chunks))]
    assert storage.read_json(record)["row"] is None, "while a chunk waits, no pair is at work"
    rows += chunks
    loaded = [one for row in rows for _, one in unpacked(row).content]
    assert [unpacked(row).first for row in rows] == [10, 14, 18]
    assert [at for at, one in enumerate(loaded, 10) if isinstance(one, ImageError)] == [15]
    codes = [row["error_code"] for c in predict(run, bundle_uri, rows) for row in c.content.to_pylist()]
    assert codes == [None] * 5 + ["crash"] + [None] * 4
    assert not storage.exists(record)


def test_an_outage_is_a_failure_not_rows(run: Run, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(reader: ImageReader, uri: str) -> bytes:
        raise ImageError(ImageErrorCode.STORAGE, f"{uri}: no answer")

    monkeypatch.setattr(ImageReader, "read", silent)
    (outcome,) = predict(run, bundle_uri, decode(run, run.shards[0])[-1:])
    assert outcome.failure.startswith("no image of 10 pairs in a row could be read")
    assert not storage.exists(f"{run.out_uri}/_run/attempts/000000.json")
