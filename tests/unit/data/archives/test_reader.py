"""Bytes of ordinary files, tar and zip members: what is read, and the code of what cannot be."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from derm_ray import storage
from derm_ray.data.archives import ranges, retry
from derm_ray.data.archives.address import TarMember, ZipMember
from derm_ray.data.archives.reader import ImageReader
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

from .conftest import FILES, tar_bytes, zip_bytes
from .reading import addresses, changed, limit, refused


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
