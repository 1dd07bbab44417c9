"""Members of a .tar.gz, read in any order."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from derm_ray.data.archives import streams
from derm_ray.data.archives.address import StreamMember
from derm_ray.data.archives.reader import ImageReader

from .conftest import FILES, tar_bytes
from .reading import addresses, changed, limit, refused


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
