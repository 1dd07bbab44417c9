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
from derm_ray.datasets import Row, packed, unpacked
from derm_ray.domain import LesionPair
from derm_ray.errors import ImageError, ImageErrorCode, ScoringError
from derm_ray.scoring.actor import ScoringActor
from derm_ray.scoring.chunks import Assembler, Chunk, chunk_pairs
from derm_ray.scoring.decoder import DecodingActor
from derm_ray.scoring.ledger import Run
from derm_ray.scoring.parts import PartWriter, StageTimes
from derm_ray.scoring.shards import Shard
from tests.unit.scoring.conftest import Opened, score_all

SPEC = Preprocessing(48)
FOUR_PAIRS = 4 * 2 * 3 * 48**2


def decoder(run: Run) -> DecodingActor:
    return DecodingActor(run.manifest_uri, run.out_uri, SPEC, FOUR_PAIRS)


def decode(run: Run, shard: Shard) -> list[Row]:
    return list(decoder(run)(packed(shard)))


def predict(run: Run, bundle_uri: str, rows: list[Row]) -> list[Any]:
    actor = ScoringActor(
        threads=torch.get_num_threads(),
        model_uri=bundle_uri,
        engine="torch",
        manifest_uri=run.manifest_uri,
        out_uri=run.out_uri,
        description=run.description,
    )
    return [unpacked(actor(row)) for row in rows]


def assembler(run: Run) -> Assembler:
    return Assembler(PartWriter(run.out_uri, run.description))


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
    back = unpacked(packed(Chunk(Shard(3, 8, 20, "d"), 1, 3, 12, (pairs, loaded), times)))
    assert (back.shard, back.number, back.of, back.first, back.times) == (Shard(3, 8, 20, "d"), 1, 3, 12, times)
    assert back.content[0] == pairs
    for found, given in zip(back.content[1][:3], loaded[:3], strict=True):
        assert isinstance(found, PairPixels)
        assert isinstance(given, PairPixels)
        assert found.flags == given.flags
        np.testing.assert_array_equal(found.clinical, given.clinical)
        np.testing.assert_array_equal(found.dermoscopy, given.dermoscopy)
    last = back.content[1][3]
    assert isinstance(last, ImageError)
    assert (last.code, last.message) == (error.code, error.message)


def test_a_chunk_is_whole_batches_or_what_fits_or_one_pair() -> None:
    assert [chunk_pairs(Preprocessing(size)) for size in (224, 448, 2000, 4000)] == [96, 26, 1, 1]


def test_chunks_in_any_order_become_the_part_of_the_scorer(
    opened: Opened, few: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    uris = few.column("dermoscopy_uri")
    few = few.with_column("dermoscopy_uri", [*uris[:5], None, *uris[6:]])
    fused, split = (opened(few, out=str(tmp_path / name)) for name in ("fused", "split"))
    score_all(fused, bundle_uri)
    together = assembler(split)
    chunks = [c for shard in split.shards for c in predict(split, bundle_uri, decode(split, shard))]
    assert [(c.shard.index, c.number, c.of, c.first) for c in chunks][:4] == [
        (0, 0, 3, 0), (0, 1, 3, 4), (0, 2, 3, 8), (1, 0, 3, 10)
    ]  # fmt: skip
    order = np.random.default_rng(1).permutation(len(chunks))
    outcomes = [outcome for at in order if (outcome := together.add(chunks[at]))]
    together.end(split.shards)
    assert {o.shard.index: (o.scored, o.errors) for o in outcomes} == {0: (9, 1), 1: (10, 0), 2: (4, 1)}
    assert all(min(o.times) > 0 for o in outcomes)
    for one, other in zip(fused.shards, split.shards, strict=True):
        tables = [pq.read_table(run.part_uri(shard)) for run, shard in ((fused, one), (split, other))]
        assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
        assert tables[0].drop_columns("scored_at").equals(tables[1].drop_columns("scored_at"))
    assert not storage.list_folder(f"{split.out_uri}/_run/attempts")


def test_a_chunk_that_comes_twice_or_never_is_an_error(run: Run, bundle_uri: str) -> None:
    first, second, third = predict(run, bundle_uri, decode(run, run.shards[0]))
    together = assembler(run)
    together.add(first)
    with pytest.raises(ScoringError, match="chunk 0 came twice"):
        together.add(first)
    with pytest.raises(ScoringError, match=r"shard 0: 1 of its chunks arrived; 3 shards were not written"):
        together.end(run.shards)
    together.add(second)
    assert together.add(third)
    with pytest.raises(ScoringError, match="chunk 2 came twice"):
        together.add(third)
    wrong = assembler(run)
    wrong.add(first)
    with pytest.raises(ScoringError, match="chunk 1 of 2 is not one of this shard"):
        wrong.add(Chunk(second.shard, 1, 2, second.first, second.content, second.times))
    short = assembler(run)
    with pytest.raises(ScoringError, match="its chunks have 4 rows instead of 10"):
        short.add(Chunk(first.shard, 0, 1, 0, first.content, first.times))


def test_after_deaths_the_chunks_are_cut_as_before_and_the_pair_is_a_row(run: Run, bundle_uri: str) -> None:
    record = f"{run.out_uri}/_run/attempts/000001.json"
    storage.write_json(record, {"attempts": 3, "row": 15, "deaths": {"15": 1}})
    chunks = decoder(run)(packed(run.shards[1]))
    rows = [next(iter(chunks))]
    assert storage.read_json(record)["row"] is None, "while a chunk waits, no pair is at work"
    rows += chunks
    loaded = [one for row in rows for one in unpacked(row).content[1]]
    assert [(unpacked(row).number, unpacked(row).first) for row in rows] == [(0, 10), (1, 14), (2, 18)]
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
