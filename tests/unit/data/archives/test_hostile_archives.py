"""Archives that are hostile, broken or ambiguous are refused by one message."""

import gzip
import io
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from derm_ray.data.archives import tars
from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.pairing import PairingRule
from derm_ray.errors import ManifestError, StorageError

from .conftest import END, FILES, header, tar_bytes, zip_bytes
from .indexing import write


def test_no_pair_says_what_was_seen_and_how_to_give_patterns(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tar", tar_bytes({f"img{n}.jpg": b"" for n in range(9)}))
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    assert "First names: 'img0.jpg', 'img1.jpg', 'img2.jpg', 'img3.jpg', 'img4.jpg'." in str(error.value)
    assert "Skipped: matches no pattern (9 files)." in str(error.value)
    assert "--clinical 'clinical/{lesion}.jpg' --dermoscopy 'dermoscopy/{lesion}.jpg'" in str(error.value)


def test_wrong_sources_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not found, or an empty folder"):
        index_archive(str(tmp_path / "nothing"))
    with pytest.raises(StorageError, match=r"no\.tar: not found"):
        index_archive(str(tmp_path / "no.tar"))
    with pytest.raises(ManifestError, match=r"no archive file extension \(\.tar\.gz(.|\n)*Repack it as \.tar or \.zip"):
        index_archive(write(tmp_path / "a.rar", b"x"))
    with pytest.raises(ManifestError, match=r"one part of a split archive(.|\n)*join the parts first"):
        index_archive(write(tmp_path / "a.tar.001", b"x"))


def _zip_with(name: str = "a/clinical.jpg", **fields: int) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        info = zipfile.ZipInfo(name)
        archive.writestr(info, b"x")
        for key, value in fields.items():
            setattr(info, key, value)
    return sink.getvalue()


def _zip_of_another_volume() -> bytes:
    data = bytearray(_zip_with())
    data[data.index(b"PK\1\2") + 34] = 3
    return bytes(data)


BIG = 4 * 1024**3


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "parent segment": ("a.tar", lambda: header("x/../../clinical.jpg") + END, r"points outside the archive \('\.\.'\)"),
    "parent segment, Windows": ("a.zip", lambda: _zip_with("..\\x\\clinical.jpg"), "points outside the archive"),
    "absolute": ("a.tar", lambda: header("/etc/clinical.jpg") + END, "is absolute"),
    "drive letter": ("a.zip", lambda: _zip_with("C:x/clinical.jpg"), "is absolute"),
    "escape": ("a.tar", lambda: header("\x1b[31m/clinical.jpg") + END, r"\\x1b\[31m/clinical.jpg: .*control"),
    "bidi": ("a.zip", lambda: _zip_with("a\u202egpj/clinical.jpg"), r"\\u202e.*invisible"),
    "nul": ("a.zip", lambda: _zip_with("a/clinical.jpgX").replace(b"jpgX", b"jpg\0"), "control character"),
    "not utf-8": ("a.tar", lambda: header("a\udce4/clinical.jpg") + END, "not UTF-8"),
    "symlink": ("a.tar", lambda: header("a/clinical.jpg", 0, tarfile.SYMTYPE, "/etc/passwd") + END, "a link"),
    "hard link": ("a.tar", lambda: header("a/clinical.jpg", 0, tarfile.LNKTYPE, "b") + END, "a link"),
    "device": ("a.tar", lambda: header("a/clinical.jpg", 0, tarfile.CHRTYPE) + END, "a device"),
    "pipe": ("a.tar", lambda: header("a/clinical.jpg", 0, tarfile.FIFOTYPE) + END, "a device or a pipe"),
    "sparse": ("a.tar", lambda: header("a/clinical.jpg", 0, tarfile.GNUTYPE_SPARSE) + END, "a sparse file"),
    "broken sparse": ("a.tar", lambda: header("a/clinical.jpg", 0, b"S")[:482] + b"\1", "cannot be read"),
    "pax of 4 GB, packed": ("a.tgz", lambda: gzip.compress(header("p", BIG, b"x") + bytes(9**7)), "extended header"),
    "volume": ("a.tar", lambda: header("a/clinical.jpg", 0, b"M") + END, "another volume"),
    "link in zip": ("a.zip", lambda: _zip_with(external_attr=0o120777 << 16), "a link"),
    "zip bomb": ("a.zip", lambda: _zip_with(file_size=BIG - 2), "expands 4294967294 times"),
    "zip beyond itself": ("a.zip", lambda: _zip_with(compress_size=10_000), "outside the archive"),
    "zip volume": ("a.zip", _zip_of_another_volume, "another volume"),
    "twice": ("a.tar", lambda: header("a/clinical.jpg") + header("./a//clinical.jpg") + END, "a second clinical image"),
    "pax of 4 GB": ("a.tar", lambda: header("p", BIG, tarfile.XHDTYPE) + bytes(4096), "extended header of 4,294,967,296"),
    "long name of 4 GB": ("a.tar", lambda: header("p", BIG, tarfile.GNUTYPE_LONGNAME) + bytes(4096), "extended header"),
    "pax of digits": ("a.tar", lambda: header("p", 65536, tarfile.XHDTYPE) + b"1" * 65536 + END, "full of digits"),
    "chain of headers": ("a.tar", lambda: (header("p", 5, tarfile.XHDTYPE) + bytes(512)) * 9000 + END, "RecursionError"),
    "negative size": ("a.tar", lambda: header("a/clinical.jpg", -512) + header("b") + END, "negative size"),
    "size beyond": ("a.tar", lambda: header("a/clinical.jpg", BIG) + END, "unexpected end of data"),
    "empty": ("a.tar", lambda: b"", r"empty \(0 bytes\)"),
    "no tar": ("a.tar", lambda: b"GIF89a" * 1000, "cannot be read"),
    "no zip": ("a.zip", lambda: b"GIF89a" * 1000, "not a zip file"),
    "no gzip": ("a.tar.gz", lambda: b"GIF89a" * 1000, "Not a gzipped file"),
    "cut at a member": ("a.tar", lambda: tar_bytes(FILES)[:1536], "before its end marker"),
    "cut in a member": ("a.tar", lambda: tar_bytes(FILES)[:1300], "unexpected end of data"),
    "cut in a header": ("a.tar", lambda: tar_bytes(FILES)[:1636], "before its end marker"),
    "cut gzip": ("a.tar.gz", lambda: tar_bytes(FILES, "w:gz")[:-200], "truncated"),
    "cut zip": ("a.zip", lambda: zip_bytes(FILES)[:-30], "not a zip file"),
    "damaged header": ("a.tar", lambda: header("a/clinical.jpg") + b"x" * 512 + END, "broken header"),
    "gzip bomb": ("a.tgz", lambda: gzip.compress(header("a/clinical.jpg", BIG) + bytes(90_000_000)), "it expands"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_broken_archives_are_refused_at_once(tmp_path: Path, case: str) -> None:
    name, make, problem = HOSTILE[case]
    uri = write(tmp_path / name, make())
    begin = time.process_time()
    with pytest.raises(ManifestError, match=problem) as error:
        index_archive(uri)
    assert time.process_time() - begin < 1
    assert str(error.value).replace("\n", "").isprintable()


def test_all_hostile_members_are_counted_and_twenty_are_shown(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tar", tar_bytes({f"../{n}/clinical.jpg": b"" for n in range(50)} | FILES))
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    assert len(error.value.problems) == 50
    assert str(error.value).count("points outside the archive") == 20
    assert "and 30 more" in str(error.value)


def test_ids_that_cannot_be_seen_are_refused(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tar", tar_bytes({" /clinical.jpg": b"", "a\u00a0b/clinical.jpg": b""}))
    with pytest.raises(ManifestError, match=r"its lesion_id is empty(.|\n)*its lesion_id contains invisible"):
        index_archive(uri)


def test_images_that_disagree_on_a_field_are_refused(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tar", tar_bytes({"arm/1.c.jpg": b"", "leg/1.d.jpg": b""}))
    with pytest.raises(
        ManifestError, match=r"leg/1\.d\.jpg: its fields differ from those of the other image of pair '1'"
    ):
        index_archive(uri, PairingRule("{site}/{lesion}.c.jpg", "{site}/{lesion}.d.jpg"))
    with pytest.raises(ManifestError, match="matches both a clinical and a dermoscopy pattern"):
        index_archive(uri, PairingRule("{site}/{lesion}.*.jpg", "{site}/{lesion}.d.jpg"))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_MEMBERS", 5)
    with pytest.raises(ManifestError, match="more than 5 members"):
        index_archive(write(tmp_path / "a.tar", tar_bytes(FILES)))
