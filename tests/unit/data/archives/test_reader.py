import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray import storage
from derm_ray.data.archives import address, parquets, ranges, reader, retry, streams
from derm_ray.data.archives.address import Address, ParquetCell, StreamMember, TarMember, ZipMember, parse
from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.reader import ImageReader
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

from .conftest import FILES, tar_bytes, zip_bytes


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Set the most bytes of an image."""
    for module in (address, reader, streams):
        monkeypatch.setattr(module, "MAX_BYTES", most)


def refused(uri: object, code: str, message: str = "", *, reader: ImageReader | None = None) -> None:
    """Assert how a read fails: with a code, and a message that names the URI."""
    with pytest.raises(ImageError) as error:
        (reader or ImageReader()).read(str(uri))
    assert error.value.code == ImageErrorCode(code)
    assert str(uri) in str(error.value)
    assert message in str(error.value)


def addresses(archive: str) -> list[str]:
    """Return the addresses of an archive's images, row by row."""
    table = pa.concat_tables(index_archive(archive).tables())
    return [uri for row in table.to_pylist() for uri in (row["clinical_uri"], row["dermoscopy_uri"]) if uri]


def changed(uri: str, **values: object) -> Address:
    """Return an address with other values."""
    address = parse(uri)
    assert address
    return replace(address, **values)  # type: ignore[arg-type]


@pytest.fixture
def storage_fails(monkeypatch: pytest.MonkeyPatch, quick: None) -> Callable[..., list[int]]:
    """Let range reads raise, one cause after the other; returns the starts that were asked for."""

    def install(*causes: Exception | None) -> list[int]:
        asked: list[int] = []
        real, left = storage.read_range, iter(causes)

        def read_range(uri: str, start: int, stop: int) -> bytes:
            asked.append(start)
            if (cause := next(left, None)) is not None:
                raise StorageError(f"{uri}: {cause}") from cause
            return real(uri, start, stop)

        monkeypatch.setattr(storage, "read_range", read_range)
        return asked

    return install


def test_an_ordinary_file_is_read_also_with_a_hash_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "x#member=1.jpg").write_bytes(b"abc")
    assert ImageReader().read(str(tmp_path / "x#member=1.jpg")) == b"abc"


def test_files_that_cannot_be_had_have_their_codes(tmp_path: Path, storage_fails: Callable[..., list[int]]) -> None:
    refused(tmp_path / "no.jpg", "missing")
    refused(tmp_path, "missing")
    refused(f"{tmp_path}/no.tar#member=a&offset=0&size=1", "missing")
    refused("carrier://pigeon/a.jpg", "unsupported")
    refused(f"{tmp_path}/a.tar#member=a&offset=-1&size=1", "unsupported")
    with pytest.raises(ImageError, match="null byte"):
        ImageReader().read(f"{tmp_path}/a\0.jpg")
    asked = storage_fails(PermissionError("no"))
    refused(tmp_path / "no.jpg", "forbidden")
    assert len(asked) == 1


def test_no_more_than_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(11))
    wanted: list[int] = []
    real = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda uri, a, b: wanted.append(b - a) or real(uri, a, b))
    limit(monkeypatch, 10)
    refused(tmp_path / "a.jpg", "too_large", "more than 10 bytes")
    assert wanted == [11]
    limit(monkeypatch, 11)
    assert len(ImageReader().read(str(tmp_path / "a.jpg"))) == 11


def test_a_transient_failure_is_not_seen(tmp_path: Path, storage_fails: Callable[..., list[int]]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    asked = storage_fails(OSError("reset"), TimeoutError("slow"))
    assert ImageReader().read(str(tmp_path / "a.jpg")) == b"abc"
    assert len(asked) == 3


def test_a_lasting_failure_has_the_code_of_its_last_cause(
    tmp_path: Path, storage_fails: Callable[..., list[int]]
) -> None:
    asked = storage_fails(*[OSError("reset")] * 2, TimeoutError("slow"), *[TimeoutError("slow")] * 2, OSError("reset"))
    refused(tmp_path / "a.jpg", "timeout", "slow")
    assert len(asked) == 3
    refused(tmp_path / "a.jpg", "storage", "reset")
    assert len(asked) == 6


def test_waits_double_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)

    def ask() -> None:
        raise StorageError("slow down") from OSError("503")

    with pytest.raises(StorageError):
        retry.persistently(ask)
    for wait, most in zip(waits, (0.2, 0.4), strict=True):
        assert most / 2 <= wait <= most


def test_timeouts_of_s3_are_known_by_their_cause() -> None:
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    for cause in (ConnectTimeoutError(endpoint_url="x"), ReadTimeoutError(endpoint_url="x")):
        error = StorageError("s3://b/a")
        error.__cause__ = cause
        assert retry.image_error("s3://b/a", error).code is ImageErrorCode.TIMEOUT


def test_an_empty_object_on_s3_is_empty_bytes(s3: str) -> None:
    import boto3

    client, bucket = boto3.client("s3"), s3.removeprefix("s3://")
    client.put_object(Bucket=bucket, Key="reader/empty.jpg", Body=b"")
    client.put_object(Bucket=bucket, Key="reader/a#member=b.jpg", Body=b"abc")
    client.put_object(Bucket=bucket, Key="reader/a.tar", Body=b"abc")
    reader = ImageReader()
    assert reader.read(f"{s3}/reader/empty.jpg") == b""
    assert reader.read(f"{s3}/reader/a#member=b.jpg") == b"abc"
    refused(f"{s3}/reader/a.tar#member=a&offset=512&size=9", "corrupt")
    refused(f"{s3}/reader/no.jpg", "missing")
    refused("s3://derm-ray-no-such-bucket/a.jpg", "missing")


def test_a_tar_that_is_shorter_than_its_address_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(FILES)[:600])
    refused(TarMember(f"{tmp_path}/a.tar", "l1/clinical.jpg", 512, 700), "corrupt", "index it again")
    refused(TarMember(f"{tmp_path}/a.tar", "l1/clinical.jpg", 2**62, 700), "corrupt", "index it again")
    refused(TarMember(f"{tmp_path}/a.tar", "l1/clinical.jpg", 512, 2**62), "too_large")


def test_a_zip_is_held_to_what_its_address_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes(FILES))
    uri, *_ = addresses(str(path))
    name, data = next(iter(FILES.items()))
    assert ImageReader().read(uri) == data
    refused(changed(uri, member="l1/other.jpg"), "corrupt", "index it again")
    refused(changed(uri, offset=7), "corrupt", "index it again")
    refused(changed(uri, offset=2**62), "corrupt", "index it again")
    refused(changed(uri, size=2**62), "too_large")
    refused(changed(uri, length=2**62), "too_large")
    refused(changed(uri, length=len(data) - 1), "bomb", f"more than the {len(data) - 1} bytes")
    refused(changed(uri, length=len(data) + 1), "corrupt")
    refused(changed(uri, size=5), "corrupt")
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", zlib.crc32(data)), b"1234"))
    refused(uri, "corrupt", "checksum")
    broken = bytearray(path.read_bytes())
    broken[30 + len(name)] = 0xFF
    path.write_bytes(broken)
    refused(uri, "corrupt", "invalid block type")


def test_a_zip_bomb_is_stopped_at_its_declared_length(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes({"a/clinical.jpg": bytes(50_000_000)}))
    address = ZipMember(f"{tmp_path}/a.zip", "a/clinical.jpg", 0, 48_000, 8, 1000)
    refused(address, "bomb")


def test_a_zip_member_behind_long_extra_fields_is_read(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a/clinical.jpg")
        info.extra = struct.pack("<HH", 0xCAFE, 5000) + bytes(5000)
        archive.writestr(info, b"abc" * 100)
    (uri,) = addresses(f"{tmp_path}/a.zip")
    assert ImageReader().read(uri) == b"abc" * 100


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


@pytest.fixture
def stream(tmp_path: Path) -> list[str]:
    """Addresses of the images of a ``.tar.gz``."""
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes({"readme.txt": bytes(9)} | FILES, "w:gz"))
    return addresses(f"{tmp_path}/a.tar.gz")


def test_a_stream_gives_its_members_in_any_order(stream: list[str]) -> None:
    contents = dict(zip(stream, FILES.values(), strict=True))
    with ImageReader(stream) as reader:
        for uri in (*stream[3:], *stream[:3]):
            assert reader.read(uri) == contents[uri]
    with ImageReader(stream) as reader, ThreadPoolExecutor(4) as executor:
        assert list(executor.map(reader.read, reversed(stream))) == list(reversed(FILES.values()))


def test_a_stream_gives_what_was_announced_as_often_as_it_was(stream: list[str]) -> None:
    refused(stream[0], "unsupported", "repack it as .tar")
    reader = ImageReader([stream[0], stream[0], stream[2]])
    assert reader.read(stream[2])
    assert reader.read(stream[0]) == reader.read(stream[0])
    refused(stream[0], "unsupported", "has no random access", reader=reader)
    refused(stream[1], "unsupported", reader=reader)


def test_a_stream_keeps_only_what_is_wanted_and_no_more_than_the_bound(
    stream: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_HELD_BYTES", 1800)
    reader = ImageReader([stream[0], stream[5]])
    assert reader.read(stream[5])
    assert reader.read(stream[0])
    reader = ImageReader(stream)
    refused(stream[5], "too_large", "repack it as .tar", reader=reader)
    assert [reader.read(uri) for uri in stream] == list(FILES.values())


def test_a_stream_that_changed_is_told_member_by_member(stream: list[str]) -> None:
    other, larger, beyond = (
        changed(stream[0], member="x"),
        changed(stream[1], size=1),
        changed(stream[2], position=99),
    )
    reader = ImageReader(map(str, [other, larger, beyond, *stream[3:]]))
    refused(other, "corrupt", "index it again", reader=reader)
    refused(larger, "corrupt", "index it again", reader=reader)
    assert reader.read(stream[3])
    refused(beyond, "corrupt", "no such member", reader=reader)
    assert reader.read(stream[4])


def test_a_member_that_is_too_large_does_not_stop_a_stream(stream: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [len(data) for data in FILES.values()]
    limit(monkeypatch, sizes[0])
    reader = ImageReader(stream)
    assert reader.read(stream[2])
    refused(stream[1], "too_large", reader=reader)
    assert reader.read(stream[0])


def test_a_cut_stream_gives_what_lies_before_the_cut(tmp_path: Path) -> None:
    import os

    files = {f"{n}.clinical.jpg": os.urandom(20_000) for n in range(4)}
    path = tmp_path / "a.tgz"
    path.write_bytes(tar_bytes(files, "w:gz"))
    uris = addresses(str(path))
    path.write_bytes(path.read_bytes()[:50_000])
    reader = ImageReader(uris)
    assert reader.read(uris[1]) == files["1.clinical.jpg"]
    for uri in (uris[2], uris[3]):
        refused(uri, "corrupt", "truncated", reader=reader)
    assert reader.read(uris[0]) == files["0.clinical.jpg"]


def test_a_gzip_bomb_stops_a_stream(tmp_path: Path) -> None:
    import gzip

    from .conftest import header

    data = (
        header("junk", 90_000_000) + bytes(90_000_000 - 90_000_000 % -512) + header("l/clinical.jpg", 1) + bytes(2048)
    )
    (tmp_path / "a.tgz").write_bytes(gzip.compress(data, 6))
    address = StreamMember(f"{tmp_path}/a.tgz", "l/clinical.jpg", 1, 1)
    refused(address, "bomb", reader=ImageReader([str(address)]))


def test_a_failure_in_mid_stream_goes_on_where_it_was(
    tmp_path: Path, storage_fails: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    files = {f"{n}.clinical.jpg": os.urandom(9000) for n in range(4)}
    (tmp_path / "a.tgz").write_bytes(tar_bytes(files, "w:gz"))
    uris = addresses(f"{tmp_path}/a.tgz")
    monkeypatch.setattr("derm_ray.data.archives.tars.STREAM_BLOCK", 8192)
    asked = storage_fails(None, None, OSError("reset"), TimeoutError("slow"))
    with ImageReader(uris) as reader:
        assert [reader.read(uri) for uri in uris] == list(files.values())
    assert asked[:5] == [0, 8192, 16384, 16384, 16384]
    storage_fails(*[OSError("reset")] * 5)
    refused(uris[0], "storage", "reset", reader=ImageReader(uris))


def test_seeking_follows_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with ranges.open_ranges(str(tmp_path / "x"), 16) as file:
        assert file.seek(-10, 2) == 90
        assert file.read() == bytes(range(90, 100))
        assert file.seek(-20, 1) == 80
        assert file.read(2) == b"\x50\x51"
        assert file.seek(500) == 500
        assert file.read(1) == b""


def test_a_tar_that_was_packed_anew_does_not_give_another_lesion_s_image(tmp_path: Path) -> None:
    files = {f"{lesion}/clinical.jpg": lesion.encode() * 100 for lesion in ("l1", "l2")}
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(files))
    first, second = addresses(str(path))
    assert ImageReader().read(first) == files["l1/clinical.jpg"]
    path.write_bytes(tar_bytes(dict(reversed(files.items()))))
    for uri in (first, second):
        refused(uri, "corrupt")


@pytest.mark.parametrize(
    "name", ["e" * 120 + "/clinical.jpg", "é/clinical.jpg", "./l1/clinical.jpg", "l 1/clinical.jpg"]
)
def test_long_and_foreign_names_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes({name: b"image"}))
    assert [ImageReader().read(uri) for uri in addresses(str(path))] == [b"image"]


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "unsupported", "a pipe or a device")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("/nowhere/" + "x" * 300 + ".jpg", "missing"),
        ("s3://Bad_Bucket!!/x.jpg", "unsupported"),
        ("hdfs://host/x.jpg", "unsupported"),
        ("nope://host/x.jpg", "unsupported"),
    ],
)
def test_places_that_cannot_be_are_told_at_once(s3: str, uri: str, code: str) -> None:
    started = time.monotonic()
    refused(uri, code)
    assert time.monotonic() - started < 2


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
