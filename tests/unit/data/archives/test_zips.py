"""Zips as other software writes them: read as it reads them, or refused by one message."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from derm_ray.data.archives import zips

from .conftest import zip_bytes
from .containers import FIRST, LONG, images, refusal, write


def zip_of(
    *members: tuple[bytes, bytes, int, int, bytes], host: int = 0, method: int = 0, content: bytes = b"image"
) -> bytes:
    """Return a zip of (central name, local name, central flags, local flags, extra of the central directory)."""
    body, directory = b"", b""
    for central, local, flags, local_flags, extra in members:
        crc, size = zlib.crc32(content), len(content)
        offset = len(body)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, local_flags, method, 0, 33, crc, size, size, len(local), 0)
        body += local + content
        fields = (b"PK\1\2", 20 | host << 8, 20, flags, method, 0, 33, crc, size, size)
        directory += struct.pack("<4s6H3L5H2L", *fields, len(central), len(extra), 0, 0, 0, 0, offset)
        directory += central + extra
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + end


def unicode_path(name: bytes, path: str) -> bytes:
    """Return an Info-ZIP Unicode Path Extra Field."""
    data = b"\1" + struct.pack("<L", zlib.crc32(name)) + path.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


def member(name: bytes, flags: int = 0, extra: bytes = b"") -> tuple[bytes, bytes, int, int, bytes]:
    return name, name, flags, flags, extra


UTF8, UML = 0x800, "Läs/clinical.jpg"


RAW = UML.encode()


NAMES: dict[str, tuple[bytes, str]] = {
    "backslashes of FAT": (zip_of(member(b"a\\L1\\clinical.jpg")), "a/L1"),
    "backslashes of NTFS": (zip_of(member(b"a\\L1\\clinical.jpg"), host=10), "a/L1"),
    "both separators, FAT": (zip_of(member(b"a/b\\L1\\clinical.jpg")), "a/b/L1"),
    "backslashes only, Unix": (zip_of(member(b"a\\L1\\clinical.jpg"), host=3), "a/L1"),
    "a backslash of Unix": (zip_of(member(b"a\\b/clinical.jpg"), host=3), "a\\b"),
    "flagged UTF-8": (zip_of(member(RAW, UTF8)), "Läs"),
    "CP437": (zip_of(member(UML.encode("cp437"))), "Läs"),
    "raw UTF-8 of Unix": (zip_of(member(RAW), host=3), "Läs"),
    "raw UTF-8 of macOS": (zip_of(member(RAW), host=19), "Läs"),
    "raw UTF-8 of FAT": (zip_of(member(RAW)), RAW.decode("cp437").split("/")[0]),
    "CP437 of Unix": (zip_of(member(UML.encode("cp437")), host=3), "Läs"),
    "Unicode Path": (zip_of(member(b"L_s/clinical.jpg", 0, unicode_path(b"L_s/clinical.jpg", UML))), "Läs"),
    "Unicode Path, other CRC": (zip_of(member(b"L_s/clinical.jpg", 0, unicode_path(b"L_t/clinical.jpg", UML))), "L_s"),
    "Unicode Path, cut": (zip_of(member(b"L_s/clinical.jpg", 0, struct.pack("<HHB", 0x7075, 1, 1))), "L_s"),
    "Unicode Path behind others": (
        zip_of(member(b"L_s/clinical.jpg", 0, b"UT\4\0abcd" + unicode_path(b"L_s/clinical.jpg", UML))),
        "Läs",
    ),
    "NFD of macOS": (zip_of(member("La\u0308s/clinical.jpg".encode(), UTF8), host=19), "Läs"),
    "flag in the directory only": (zip_of((RAW, RAW, UTF8, 0, b"")), "Läs"),
    "flag in the local header only": (zip_of((RAW, RAW, 0, UTF8, b""), host=3), "Läs"),
    "another encoding in the local header": (zip_of((RAW, UML.encode("cp437"), UTF8, 0, b"")), "Läs"),
    "another separator in the local header": (
        zip_of((b"a/L1/clinical.jpg", b"a\\L1\\clinical.jpg", 0, 0, b"")),
        "a/L1",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_zip_names_are_those_that_unzip_shows_and_their_members_are_read(tmp_path: Path, case: str) -> None:
    data, lesion = NAMES[case]
    assert images(write(tmp_path / "a.zip", data)) == {lesion: [b"image"]}


MISLEADING: dict[str, tuple[bytes, str]] = {
    "another name": (
        zip_of((b"L1/clinical.jpg", b"L2/clinical.jpg", 0, 0, b"")),
        "L1/clinical.jpg: its local header names it 'L2/clinical.jpg'",
    ),
    "another name beside a Unicode Path": (
        zip_of((b"L_s/clinical.jpg", b"L_t/clinical.jpg", 0, 0, unicode_path(b"L_s/clinical.jpg", UML))),
        "its local header names it 'L_t/clinical.jpg'",
    ),
    "a backslash, escaped once": (zip_of((b"a/L1/clinical.jpg", b"a\\L2", 0, 0, b"")), r"names it 'a\\L2'"),
    "no header": (zip_bytes(FIRST).replace(b"PK\3\4", b"XX\3\4", 1), "there is no local header where"),
    "another method": (
        zip_bytes(FIRST).replace(b"PK\3\4\x14\0\0\0\x08\0", b"PK\3\4\x14\0\0\0\0\0", 1),
        "its local header has another method",
    ),
    "a way out by Unicode Path": (
        zip_of(member(b"x/clinical.jpg", 0, unicode_path(b"x/clinical.jpg", "../clinical.jpg"))),
        "points outside the archive",
    ),
    "a way out by backslashes": (zip_of(member(b"a\\..\\..\\clinical.jpg")), "points outside the archive"),
    "a folder with data": (zip_of(member(b"L1/clinical.jpg/")), "it is named like a folder but contains data"),
    "a share": (zip_of(member(b"\\\\host\\L1\\clinical.jpg")), "is absolute"),
    "two spellings of one": (
        zip_of(member(b"L1\\clinical.jpg"), member(b"L1/clinical.jpg")),
        "a second clinical image of pair 'L1'",
    ),
}


@pytest.mark.parametrize("case", MISLEADING)
def test_zips_whose_directory_and_headers_disagree_are_refused(tmp_path: Path, case: str) -> None:
    data, problem = MISLEADING[case]
    assert problem in refusal(write(tmp_path / "a.zip", data))


def test_elsewhere_a_bounded_number_of_local_headers_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    from derm_ray import storage

    uri = write(tmp_path / "a.zip", zip_bytes({f"{n}/clinical.jpg": b"x" * 50_000 for n in range(40)}, 0))
    asked: list[int] = []
    real = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda uri, a, b: asked.append(b - a) or real(uri, a, b))
    monkeypatch.setattr(zips.storage, "is_local", lambda uri: False)
    monkeypatch.setattr(zips, "_REMOTE_CHECKS", 10)
    entries = list(zips.entries(uri))
    assert [entry.refusal for entry in entries] == [None] * 40
    small = [size for size in asked if size < 2000]
    assert len(small) == 10
    broken = bytearray(Path(uri).read_bytes())
    broken[entries[0].address.offset + 30] = ord("9")
    Path(uri).write_bytes(broken)
    assert "local header names it '9/clinical.jpg'" in str(next(zips.entries(uri)).refusal)


def _flagged(data: bytes, flag: int) -> bytes:
    """Return a zip with a flag set in every header."""
    changed = bytearray(data)
    for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(magic)
        while at >= 0:
            changed[at + place] |= flag
            at = data.find(magic, at + 4)
    return bytes(changed)


UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (
        lambda: _flagged(zip_bytes(FIRST), 1),
        "2 possible image files, such as 'L1/clinical.jpg', are encrypted. Write the zip again without a password",
    ),
    "BZip2": (
        lambda: zip_bytes(FIRST, zipfile.ZIP_BZIP2),
        "2 possible image files, such as 'L1/clinical.jpg', are packed by BZip2",
    ),
    "LZMA": (
        lambda: zip_bytes(FIRST, zipfile.ZIP_LZMA),
        "packed by LZMA (method 14). Write the zip again with deflate or stored",
    ),
    "Zstandard": (lambda: zip_of(member(b"L1/clinical.jpg"), method=93), "is packed by Zstandard (method 93)"),
    "Deflate64": (lambda: zip_of(member(b"L1/clinical.jpg"), method=9), "is packed by Deflate64 (method 9)"),
    "unknown": (lambda: zip_of(member(b"L1/clinical.jpg"), method=77), "packed by an unknown method (method 77)"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_unpacked_is_called_what_it_is_with_the_number(tmp_path: Path, case: str) -> None:
    make, problem = UNREADABLE[case]
    message = refusal(write(tmp_path / "a.zip", make()))
    assert problem in message
    assert "--clinical" not in message


def test_one_image_that_cannot_be_unpacked_does_not_become_a_pair_of_one(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("L1/clinical.jpg", b"x")
        archive.writestr("L1/dermoscopy.jpg", b"x", zipfile.ZIP_BZIP2)
        archive.writestr("notes.txt", b"x", zipfile.ZIP_LZMA)
    message = refusal(write(tmp_path / "a.zip", sink.getvalue()))
    assert "1 possible image file, such as 'L1/dermoscopy.jpg', is packed by BZip2" in message
    assert "LZMA" not in message


def test_the_entry_of_a_folder_is_none_of_the_files(tmp_path: Path) -> None:
    empty = zip_of(member(b"L1\\"), member(b"L1\\.keep"), content=b"")
    assert "Skipped: no image file extension (1 file)." in refusal(write(tmp_path / "a.zip", empty))


@pytest.mark.parametrize("case", ["zip64", "descriptor", "prefix", "comment", "long name"])
def test_zips_of_other_shapes_are_read(tmp_path: Path, case: str) -> None:
    sink = io.BytesIO()
    lesion = LONG * 4 if case == "long name" else "L1"

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            return sink.write(data)

    with zipfile.ZipFile(Pipe() if case == "descriptor" else sink, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{lesion}/clinical.jpg", "w", force_zip64=case == "zip64") as file:
            file.write(b"image")
        archive.comment = b"made by a camera" if case == "comment" else b""
    data = b"#!/bin/sh\nexec unzip $0\n" * (case == "prefix") + sink.getvalue()
    assert images(write(tmp_path / "a.zip", data)) == {lesion: [b"image"]}
