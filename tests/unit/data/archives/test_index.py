"""Archives as manifests whose URIs address their members."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.archives import streams
from derm_ray.data.archives.index import ArchiveIndex, index_archive
from derm_ray.data.archives.names import ArchiveError
from derm_ray.data.archives.pairing import PairingRule
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.manifest import SCHEMA, read_manifest, write_tables
from derm_ray.data.validation import validate
from derm_ray.errors import ConfigError, ManifestError, StorageError

from .conftest import FILES, LESIONS, tar_bytes, zip_bytes
from .indexing import write


def rows(index: ArchiveIndex) -> list[dict[str, object]]:
    return pa.concat_tables(index.tables()).to_pylist()


def test_every_kind_of_archive_becomes_the_same_readable_manifest(archive: str, tmp_path: Path) -> None:
    index = index_archive(archive)
    write_tables(index.tables(), str(tmp_path / "m.parquet"))
    manifest = read_manifest(str(tmp_path / "m.parquet"))
    validate(manifest)
    assert manifest.table.column_names == SCHEMA.names
    assert manifest.column("pair_id") == manifest.column("lesion_id") == list(LESIONS)
    assert (index.found, index.pairs, index.single, index.skipped) == (6, 3, 0, {})
    assert index.containers == [archive]
    uris = [uri for pair in manifest.pairs() for uri in (pair.clinical_uri, pair.dermoscopy_uri) if uri]
    with ImageReader(uris) as reader:
        assert [reader.read(uri) for uri in uris] == list(FILES.values())


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_of_the_manifest_says_the_same(tmp_path: Path, suffix: str) -> None:
    index = index_archive(
        write(tmp_path / "a.tar", tar_bytes({"x,y/clinical.jpg": b"1", "Wunde ä/dermoscopy.png": b"2"}))
    )
    write_tables(index.tables(), str(tmp_path / f"m.{suffix}"))
    manifest = read_manifest(str(tmp_path / f"m.{suffix}"))
    assert manifest.column("lesion_id") == ["x,y", "Wunde ä"]
    assert index.single == 2
    assert manifest.column("clinical_uri") == [f"{tmp_path}/a.tar#member=x%2Cy%2Fclinical.jpg&offset=512&size=1", None]
    assert list(tmp_path.glob(".*")) == []


def test_a_manifest_needs_a_known_name(tmp_path: Path) -> None:
    index = index_archive(write(tmp_path / "a.tar", tar_bytes(FILES)))
    with pytest.raises(ConfigError, match=r"must end in one of \.parquet"):
        write_tables(index.tables(), str(tmp_path / "m.xlsx"))


def test_patterns_fill_columns_and_what_matches_none_is_counted(tmp_path: Path) -> None:
    files = {
        "./P1/arm/c_L1.JPG": b"c1",
        "P1/arm/d_L1.jpg": b"d1",
        "P2/leg/c_L2.jpg": b"c2",
        "P1/x.jpg": b"",
        "notes.txt": b"",
        "inner.zip": b"",
        "__MACOSX/P1/arm/._c_L1.jpg": b"",
        "Makefile": b"",
    }
    rule = PairingRule(["{patient}/{site}/c_{lesion}.jpg"], ["{patient}/{site}/d_{lesion}.jpg"])
    index = index_archive(write(tmp_path / "a.zip", zip_bytes(files)), rule)
    first, second = rows(index)
    assert (first["lesion_id"], first["patient_id"], first["site"]) == ("L1", "P1", "arm")
    assert (second["pair_id"], second["dermoscopy_uri"]) == ("L2", None)
    assert index.skipped == {
        "matches no pattern": 1,
        "no image file extension": 2,
        "archive inside an archive": 1,
        "side file of macOS": 1,
    }
    assert index.found == 8
    assert (index.pairs, index.single) == (2, 1)


def test_fields_become_columns_of_their_type_or_of_text(tmp_path: Path) -> None:
    rule = PairingRule(["{lesion}_{camera}_{age}.jpg"], ())
    (row,) = rows(index_archive(write(tmp_path / "a.tar", tar_bytes({"l1_X100_55.jpg": b"1"})), rule))
    assert (row["camera"], row["age"]) == ("X100", 55.0)
    index = index_archive(write(tmp_path / "b.tar", tar_bytes({"l1_X100_old.jpg": b"1"})), rule)
    with pytest.raises(ManifestError, match="row 1: age 'old' is not a number"):
        rows(index)


def test_long_names_pax_and_gnu_are_read_whole(tmp_path: Path) -> None:
    lesion = "/".join(["ordner" * 10] * 6)
    for name, form in (("pax.tar", tarfile.PAX_FORMAT), ("gnu.tar", tarfile.GNU_FORMAT)):
        with tarfile.open(tmp_path / name, "w", format=form) as tar:
            for modality in ("clinical", "dermoscopy"):
                info = tarfile.TarInfo(f"{lesion}/{modality}.jpg")
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        (row,) = rows(index_archive(str(tmp_path / name)))
        assert row["lesion_id"] == lesion
        assert ImageReader().read(str(row["clinical_uri"])) == b"abc"


def test_a_folder_joins_files_and_archives(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, pack in enumerate((tar_bytes, zip_bytes)):
        name = f"part-{number}.{'zip' if number else 'tar'}"
        (source / name).write_bytes(pack({f"{number}.clinical.jpg": b"c", f"{number}.dermoscopy.jpg": b"d"}))
    (source / "9.clinical.png").write_bytes(b"x")
    (source / "list.parquet").write_bytes(b"")
    pq.write_table(pa.table({"lesion_id": ["1"]}), source / "list.parquet")
    (source / "old.7z").write_bytes(b"")
    os.mkfifo(source / "8.clinical.png")
    index = index_archive(str(source))
    assert sorted(str(row["pair_id"]) for row in rows(index)) == ["0", "1", "9"]
    assert index.skipped == {
        "Parquet without images": 1,
        "unsupported archive format": 1,
        "not a regular file": 1,
    }
    assert set(index.containers) == {str(source), str(source / "part-0.tar"), str(source / "part-1.zip")}
    (source / "more.tar").write_bytes(tar_bytes({"0.clinical.jpg": b"other"}))
    with pytest.raises(ManifestError, match="a second clinical image of pair '0'"):
        index_archive(str(source))


def test_parquet_cells_are_addressed_and_nulls_are_seen(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "lesion_id": ["a", "b", "c", "d"],
            "camera": [1, 2, 3, 4],
            "clinical": pa.array([b"c0", None, b"c2", None], pa.large_binary()),
            "dermoscopy": pa.array([{"bytes": b"d0", "path": "x"}, {"bytes": b"d1", "path": None}, None, None], kind),
            "diagnosis": ["melanoma", None, None, None],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    index = index_archive(str(tmp_path / "x.parquet"))
    found = rows(index)
    assert [row["diagnosis"] for row in found] == ["melanoma", None, None]
    assert [row["camera"] for row in found] == ["1", "2", "3"]
    uris = [[row["clinical_uri"], row["dermoscopy_uri"]] for row in found]
    with ImageReader() as reader:
        read = [[reader.read(str(uri)) if uri else None for uri in pair] for pair in uris]
    assert read == [[b"c0", b"d0"], [None, b"d1"], [b"c2", None]]
    assert (index.pairs, index.single, index.skipped) == (3, 2, {"row without an image": 1})


def test_parquet_that_is_no_archive_is_one_message(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lesion_id": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"clinical": [b"a"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"pair_id": ["a", "a"], "clinical": [b"a", b"b"]}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nothing PAR1")
    for name, problem in {
        "a": r"no column 'clinical' or 'dermoscopy'.*Its columns: 'lesion_id'",
        "b": "no column 'lesion_id' or 'pair_id'",
        "c": "occurs more than once",
        "d": "cannot be read as Parquet",
    }.items():
        with pytest.raises(ManifestError, match=problem):
            index_archive(str(tmp_path / f"{name}.parquet"))


def test_rows_of_a_stream_follow_it_and_far_pairs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{n}.clinical.jpg": bytes(1000) for n in range(9)} | {
        f"{n}.dermoscopy.jpg": bytes(1000) for n in (3, 1, 8)
    }
    uri = write(tmp_path / "a.tgz", tar_bytes(files, "w:gz"))
    assert [row["pair_id"] for row in rows(index_archive(uri))] == [str(n) for n in range(9)]
    monkeypatch.setattr(streams, "MAX_HELD_BYTES", 8_500)
    with pytest.raises(ManifestError, match=r"9,000 bytes would have to be buffered(.|\n)*repack it as \.tar"):
        index_archive(uri)


def test_dicom_is_paired_by_headers_unless_a_pattern_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from derm_ray.data.archives import dicom_pairs

    asked: list[str] = []

    def index_dicom(uris: list[str], read: Callable[[str], bytes]) -> tuple[list[dict[str, object]], dict[str, int]]:
        asked.extend(uris)
        assert [read(uri)[128:132] for uri in uris] == [b"DICM"] * len(uris)
        row: dict[str, object] = {"pair_id": "p", "lesion_id": "p", "age": 40.0, "clinical_uri": uris[0]}
        return [row], {"no lesion": len(uris) - 1}

    monkeypatch.setattr(dicom_pairs, "index_dicom", index_dicom)
    data = bytes(128) + b"DICM"
    files = {"l1/clinical.dcm": data, "l1/dermoscopy.dcm": data, "IM0001": data}
    uri = write(tmp_path / "a.tar", tar_bytes(files))
    index = index_archive(uri)
    assert len(asked) == 3
    assert index.skipped == {"no lesion": 2}
    assert rows(index)[0]["age"] == 40.0
    asked.clear()
    index = index_archive(uri, PairingRule("{lesion}/clinical.dcm", "{lesion}/dermoscopy.dcm"))
    assert asked == [f"{uri}#member=IM0001&offset=2560&size=132"]
    assert index.pairs == 2


def test_dicom_headers_of_a_stream_are_read_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path / "a.tgz", tar_bytes({f"{n}.dcm": bytes(1000) for n in (3, 2, 1)}, "w:gz"))
    monkeypatch.setattr(streams, "MAX_HELD_BYTES", 1_000)
    with pytest.raises(ManifestError, match=r"Skipped: not a DICOM file \(3 files\)"):
        index_archive(uri)


def test_an_outage_is_not_recorded_as_dicom_left_out(s3: str, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    from derm_ray import storage

    def outage(uri: str, start: int, stop: int) -> bytes:
        raise StorageError(f"{uri}: storage unreachable") from TimeoutError()

    boto3.client("s3").put_object(Bucket=s3.removeprefix("s3://"), Key="outage/1.dcm", Body=b"x")
    monkeypatch.setattr(storage, "read_range", outage)
    with pytest.raises(StorageError, match=r"outage/1\.dcm: storage unreachable"):
        index_archive(f"{s3}/outage")


def test_a_tar_on_s3_is_indexed_by_its_headers(s3: str) -> None:
    import boto3

    from derm_ray import storage

    big = {f"l{n}/{m}.jpg": os.urandom(1_500_000) for n in range(4) for m in ("clinical", "dermoscopy")}
    boto3.client("s3").put_object(Bucket=s3.removeprefix("s3://"), Key="index/big.tar", Body=tar_bytes(big))
    read: list[int] = []
    real = storage.read_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read_range", lambda uri, a, b: read.append(b - a) or real(uri, a, b))
        index = index_archive(f"{s3}/index/big.tar")
        assert sum(read) < 0.3 * 12_000_000
        read.clear()
        uri = str(rows(index)[2]["dermoscopy_uri"])
        assert ImageReader().read(uri) == big["l2/dermoscopy.jpg"]
    assert read == [1_500_000 + 512]
    write_tables(index.tables(), f"{s3}/index/m.parquet")
    assert len(read_manifest(f"{s3}/index/m.parquet")) == 4
    assert index_archive(f"{s3}/index").pairs == 4


def test_ids_from_names_have_the_form_of_a_manifests(tmp_path: Path) -> None:
    files = {"Mu\u0308ller /clinical.jpg": b"1", "M\u00fcller/dermoscopy.jpg": b"2"}
    (row,) = rows(index_archive(write(tmp_path / "a.tar", tar_bytes(files))))
    assert row["pair_id"] == row["lesion_id"] == "M\u00fcller"
    assert row["dermoscopy_uri"] is not None
    files = {"NA/clinical.jpg": b"1", "\u2800/clinical.jpg": b"2"}
    with pytest.raises(ArchiveError, match=r"its pair_id is empty, or a word for a missing value(.|\n)*invisible"):
        index_archive(write(tmp_path / "b.tar", tar_bytes(files)))
