"""Tars and gzips as other software writes them: read as it reads them, or refused by one message."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from derm_ray.data.archives import tars

from .conftest import END, header, tar_bytes, zip_bytes
from .containers import FIRST, LONG, images, refusal, write

SECOND = {"L2/clinical.jpg": b"c2" * 400, "L2/dermoscopy.jpg": b"d2" * 400}


A, B = tar_bytes(FIRST), tar_bytes(SECOND)


ONE = {"L1": list(FIRST.values())}


BOTH = ONE | {"L2": list(SECOND.values())}


def _formatted(form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        info = tarfile.TarInfo(f"{LONG}/clinical.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return sink.getvalue()


TARS: dict[str, tuple[str, bytes, dict[str, list[bytes]]]] = {
    "two": ("a.tar", A + B, BOTH),
    "behind much padding": ("a.tar", A + bytes(512 * 300) + B, BOTH),
    "behind an empty one": ("a.tar", bytes(10240) + A, ONE),
    "one end mark of one block": ("a.tar", A.rstrip(b"\0") + bytes(-len(A.rstrip(b"\0")) % 512 + 512) + B, BOTH),
    "odd padding": ("a.tar", A + bytes(700), ONE),
    "pax and GNU": ("a.tar", A + _formatted(tarfile.PAX_FORMAT), ONE | {LONG: [b"abc"]}),
    "GNU and pax": ("a.tar", _formatted(tarfile.GNU_FORMAT) + A, {LONG: [b"abc"]} | ONE),
    "two gzips": ("a.tar.gz", gzip.compress(A) + gzip.compress(B), BOTH),
    "two in a gzip": ("a.tgz", gzip.compress(A + B), BOTH),
    "a tar in two gzips": ("a.tgz", gzip.compress(A[:900]) + gzip.compress(A[900:]), ONE),
    "a padded gzip": ("a.tgz", gzip.compress(A) + bytes(999), ONE),
}


@pytest.mark.parametrize("case", TARS)
def test_tars_that_follow_one_another_are_one(tmp_path: Path, case: str) -> None:
    name, data, expected = TARS[case]
    assert images(write(tmp_path / name, data)) == expected


TAILS: dict[str, tuple[str, bytes, str]] = {
    "a line break": (
        "a.tar",
        A + b"\n",
        "after its end marker, from byte 10,240 on, there is data that is neither padding nor",
    ),
    "a block": ("a.tar", A + b"x" * 512, "head -c 10240 OLD.tar"),
    "a tar off the grid": ("a.tar", A + bytes(100) + B, "after its end marker"),
    "another, cut in its header": ("a.tar", A + B[:100], "after its end marker"),
    "another, cut in a member": ("a.tar", A + B[:700], "unexpected end of data"),
    "another, cut between members": ("a.tar", A + B[:1536], "before its end marker"),
    "in a gzip": ("a.tgz", gzip.compress(A + b"junk"), "after its end marker"),
    "behind a gzip": ("a.tgz", gzip.compress(A) + b"junk", "after 10,240 unpacked bytes"),
    "a gzip's checksum": ("a.tgz", gzip.compress(A)[:-8] + b"1234" + gzip.compress(A)[-4:], "CRC check failed"),
    "behind a zip": ("a.zip", zip_bytes(FIRST) + B, "after its end, from byte"),
    "a zip before a zip": ("a.zip", zip_bytes(FIRST) + zip_bytes(SECOND), "another zip"),
    "a tar before a zip": ("a.zip", A + zip_bytes(SECOND), "is a plain tar, not a .zip. Rename it to end in .tar."),
}


@pytest.mark.parametrize("case", TAILS)
def test_what_else_lies_in_the_file_is_named(tmp_path: Path, case: str) -> None:
    name, data, problem = TAILS[case]
    assert problem in refusal(write(tmp_path / name, data))


def test_padding_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_PADDING", 20_000)
    assert "more than 20,000 zero bytes" in refusal(write(tmp_path / "a.tar", A + bytes(20_000)))


MISNAMED: dict[str, tuple[str, bytes, str]] = {
    "gzip": ("a.tar", gzip.compress(A), "it is a gzip file, not a .tar. Rename it to end in .tar.gz."),
    "plain tar": ("a.tar.gz", A, "it is a plain tar, not a .tar.gz. Rename it to end in .tar."),
    "zip as tar": ("a.tar", zip_bytes(FIRST), "it is a zip, not a .tar. Rename it to end in .zip."),
    "zip as tgz": ("a.tgz", zip_bytes(FIRST), "it is a zip, not a .tar.gz"),
    "tar as zip": ("a.zip", A, "it is a plain tar, not a .zip"),
    "zstd": ("a.tar", b"\x28\xb5\x2f\xfd" + bytes(600), "it is a Zstandard file, not a .tar. Unpack it with `zstd -d`"),
    "bzip2": ("a.tar.gz", bz2.compress(A), "it is a bzip2 file, not a .tar.gz. Unpack it with `bunzip2`"),
    "xz": ("a.tar", lzma.compress(A), "it is an xz file"),
    "7z": ("a.zip", b"7z\xbc\xaf\x27\x1c" + bytes(99), "it is a 7-Zip archive, not a .zip. Repack it"),
    "Parquet as tar": ("a.tar", b"PAR1" + bytes(600), "it is a Parquet file"),
    "zip as Parquet": ("a.parquet", zip_bytes(FIRST), "it is a zip, not a .parquet"),
    "error page": ("a.tar", b"<html>404</html>", "the error page of a failed download"),
    "nothing": ("a.zip", b"", "it is empty (0 bytes)"),
    "a gzip of no tar": ("a.tar.gz", gzip.compress(b"image" * 200), "it does not start with a tar header"),
}


@pytest.mark.parametrize("case", MISNAMED)
def test_a_container_with_another_s_name_is_called_what_it_is(tmp_path: Path, case: str) -> None:
    name, data, problem = MISNAMED[case]
    assert problem in refusal(write(tmp_path / name, data))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_empty_archive_is_said_to_be_empty(tmp_path: Path, name: str) -> None:
    data = {"a.tar": tar_bytes({}), "a.tar.gz": tar_bytes({}, "w:gz"), "a.zip": zip_bytes({})}[name]
    message = refusal(write(tmp_path / name, data))
    assert "no pair found: it is empty" in message
    assert "--clinical" not in message


def test_patterns_are_not_advised_where_there_is_no_image(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.tar", tar_bytes({"read.me": b"x", "inner.zip": b"x"})))
    assert "None of these files is an image" in message
    assert "--clinical" not in message


def test_names_are_escaped_once(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tar", header("x\\y\n.jpg") + END)
    assert r"x\\y\n.jpg: its name contains a control character" in refusal(uri)
    uri = write(tmp_path / "b.tar", header("x\\y.jpg") + END)
    assert r"First names: 'x\\y.jpg'." in refusal(uri)
