"""Images in Parquet cells: chunks are read once and shared."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.archives import parquets
from derm_ray.data.archives.address import ParquetCell
from derm_ray.data.archives.reader import ImageReader

from .reading import addresses, limit, refused


@pytest.fixture
def cells(tmp_path: Path) -> list[ParquetCell]:
    """Addresses of two row groups of 10 rows, image n is n + 1 times the byte n."""
    images = [bytes([n]) * (n + 1) for n in range(20)]
    pq.write_table(
        pa.table({"lesion_id": map(str, range(20)), "clinical": images}), tmp_path / "x.parquet", row_group_size=10
    )
    return [ParquetCell(f"{tmp_path}/x.parquet", "clinical", n // 10, n % 10) for n in range(20)]


def test_many_threads_share_one_read_of_a_chunk(cells: list[ParquetCell], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = parquets._cells

    def slowly(file: pq.ParquetFile, cell: ParquetCell, leaf: int) -> Iterator[bytes | None]:
        reads.append(cell.group)
        threading.Event().wait(0.05)
        return real(file, cell, leaf)

    monkeypatch.setattr(parquets, "_cells", slowly)
    with ImageReader() as reader, ThreadPoolExecutor(8) as executor:
        assert list(executor.map(reader.read, map(str, cells))) == [bytes([n]) * (n + 1) for n in range(20)]
    assert sorted(reads) == [0, 1]


def test_chunks_are_let_go_beyond_the_cache(cells: list[ParquetCell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquets, "CACHE_BYTES", 160)
    cache = parquets.ChunkCache()
    for cell in (cells[0], cells[10], cells[11]):
        cache.read(cell)
    assert [group for _, _, group in cache._chunks] == [1]


def test_cells_that_are_not_there_are_corrupt(
    cells: list[ParquetCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(replace(cells[0], row=10), "corrupt")
    refused(replace(cells[0], group=2), "corrupt")
    refused(replace(cells[0], row=2**62), "corrupt")
    refused(replace(cells[0], column="dermoscopy"), "corrupt")
    refused(replace(cells[0], column="lesion_id"), "corrupt")
    refused(replace(cells[0], container=f"{tmp_path}/no.parquet"), "missing")
    with pytest.MonkeyPatch.context() as patch:
        limit(patch, 9)
        refused(cells[9], "too_large")
    (tmp_path / "y.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-9])
    refused(replace(cells[0], container=f"{tmp_path}/y.parquet"), "corrupt", "Parquet")
    monkeypatch.setattr(parquets, "MAX_CHUNK_BYTES", 20)
    refused(cells[0], "too_large", "fewer rows per row group")


def test_a_chunk_that_failed_is_read_again(cells: list[ParquetCell], storage_fails: Callable[..., list[int]]) -> None:
    storage_fails(*[OSError("reset")] * 5)
    with ImageReader() as reader:
        refused(cells[1], "storage", reader=reader)
        assert reader.read(str(cells[1])) == b"\1\1"


def test_images_in_a_dictionary_cannot_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"clinical": [bytes(1000)] * 1000})
    pq.write_table(table, tmp_path / "x.parquet")
    monkeypatch.setattr(parquets, "MAX_CHUNK_BYTES", 100_000)
    refused(ParquetCell(f"{tmp_path}/x.parquet", "clinical", 0, 0), "too_large")


def test_a_shared_cache_outlives_its_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"lesion_id": ["a", "b"], "clinical": [b"1", b"2"]}), path)
    reads: list[object] = []
    real = parquets._read_chunk
    monkeypatch.setattr(parquets, "_read_chunk", lambda cell: reads.append(cell) or real(cell))
    kept: dict[str, Any] = {}
    for uri, data in zip(addresses(str(path)), (b"1", b"2"), strict=True):
        with ImageReader(kept=kept) as reader:
            assert reader.read(uri) == data
    assert len(reads) == 1
