"""Folders of Parquet parts as Spark and others write them, of images or of a manifest."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.archives.index import index_archive
from derm_ray.data.inputs import ManifestInput, open_input
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ConfigError, DermRayError, ManifestError

from .parquet_files import read, refused, rows, write


def spark(folder: Path, parts: Sequence[dict[str, Any]]) -> str:
    """Write a folder as Spark does."""
    for number, part in enumerate(parts):
        write(folder / f"part-{number:05d}-c000.snappy.parquet", part)
        (folder / f".part-{number:05d}-c000.snappy.parquet.crc").write_bytes(b"crc")
    folder.mkdir(exist_ok=True)
    for name in ("_SUCCESS", "_metadata", "._SUCCESS.crc"):
        (folder / name).write_bytes(b"")
    write(folder / "_temporary" / "0" / "part-00009.parquet", {"lesion_id": ["uncommitted"], "clinical": [b"x"]})
    write(folder / ".part.parquet", {"lesion_id": ["hidden"], "clinical": [b"x"]})
    return str(folder)


IMAGES = [{"lesion_id": [name], "clinical": [name.encode()], "dermoscopy": [b"d"]} for name in "ab"]


MANIFESTS = [{"lesion_id": [name], "clinical_uri": [f"img/{name}.jpg"]} for name in "ab"]


def pieces(uri: str) -> Manifest:
    found = list(open_input(uri).pieces())
    return Manifest(pa.concat_tables(piece.table for piece in found), found[0].uri)


@pytest.mark.parametrize("name", ["x.parquet", "x", "x.tar", "x.PARQUET"])
def test_a_folder_of_parts_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    uri = spark(tmp_path / name, IMAGES)
    index = index_archive(uri)
    assert [row["lesion_id"] for row in rows(index)] == ["a", "b"]
    assert index.skipped["hidden Parquet file: a part of its path begins with '_' or '.'"] == 2
    scored = pieces(uri)
    assert scored.column("lesion_id") == ["a", "b"]
    assert [read(str(cell)) for cell in scored.column("clinical_uri")] == [b"a", b"b"]


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_a_folder_of_a_manifest_s_parts_is_read_by_score(tmp_path: Path, name: str) -> None:
    uri = spark(tmp_path / name, MANIFESTS)
    assert isinstance(open_input(uri), ManifestInput)
    scored = pieces(uri)
    assert scored.uri == uri
    assert scored.absolute().column("clinical_uri") == [f"{tmp_path}/img/a.jpg", f"{tmp_path}/img/b.jpg"]
    assert open_input(uri).fingerprint() == open_input(uri).fingerprint()
    with pytest.raises(ManifestError, match="Use the folder as it is with `derm-ray score`"):
        index_archive(uri)
    from derm_ray.data.archives.pairing import DEFAULT_RULE

    with pytest.raises(ConfigError, match="is a manifest"):
        open_input(uri, DEFAULT_RULE)


def test_parts_that_differ_are_not_dropped(tmp_path: Path) -> None:
    uri = spark(tmp_path / "x.parquet", [IMAGES[0], IMAGES[1] | {"clinical": [[1, 2]], "camera": [3]}])
    assert "part-00001-c000.snappy.parquet: column 'clinical' is list<element: int64>" in refused(uri)
    uri = spark(tmp_path / "y.parquet", [IMAGES[0], IMAGES[1] | {"camera": [3]}])
    assert [row["camera"] for row in rows(index_archive(uri))] == [None, "3"]
    uri = spark(tmp_path / "z.parquet", [MANIFESTS[0], IMAGES[1]])
    with pytest.raises(ManifestError, match=r"(?s)part-00001.*no column 'clinical_uri' or 'dermoscopy_uri'"):
        list(open_input(uri).pieces())
    with pytest.raises(ManifestError, match=r"part-00000.*is a manifest, but other files of the folder contain"):
        index_archive(uri)
    uri = spark(tmp_path / "twice", [IMAGES[0], IMAGES[0]])
    assert "occurs more than once" in refused(uri)


def test_columns_that_folders_name_are_kept(tmp_path: Path) -> None:
    for kind, parts in (("images", IMAGES), ("manifest", MANIFESTS)):
        root = tmp_path / kind
        write(root / "split=train" / "patient_id=P%201" / "part-0.parquet", parts[0])
        write(root / "split=test" / "patient_id=__HIVE_DEFAULT_PARTITION__" / "part-0.parquet", parts[1])
        scored = pieces(str(root))
        assert dict(zip(scored.column("lesion_id"), scored.column("split"), strict=True)) == {"a": "train", "b": "test"}
        assert set(scored.column("patient_id")) == {"P 1", None}


def test_a_folder_of_nothing_but_marks_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no pair found"):
        index_archive(spark(tmp_path / "x.parquet", []))
    (tmp_path / "y.parquet").mkdir()
    for work in (index_archive, lambda uri: list(open_input(uri).pieces())):
        with pytest.raises(DermRayError, match="not found, or an empty folder"):
            work(str(tmp_path / "y.parquet"))


def test_a_broken_part_is_one_message(tmp_path: Path) -> None:
    for name, parts in (("images", IMAGES), ("manifest", MANIFESTS)):
        uri = spark(tmp_path / name, parts)
        (tmp_path / name / "part-00001-c000.snappy.parquet").write_bytes(b"PAR1xx")
        with pytest.raises(ManifestError, match=r"(?s)part-00001.*cannot be read as Parquet"):
            list(open_input(uri).pieces())


def test_a_manifest_among_other_files_is_named(tmp_path: Path) -> None:
    uri = spark(tmp_path / "x", MANIFESTS[:1])
    (tmp_path / "x" / "other.csv").write_text("lesion_id,clinical_uri\n")
    assert "part-00000-c000.snappy.parquet is a manifest and needs no index. Use that file" in refused(uri)


def test_a_folder_on_s3_is_read(s3: str) -> None:
    import boto3

    client, bucket = boto3.client("s3"), s3.removeprefix("s3://")
    for name, part in (("x.parquet/part-0.parquet", IMAGES[0]), ("x.parquet/part-1.parquet", IMAGES[1])):
        sink = io.BytesIO()
        pq.write_table(pa.table(part), sink)
        client.put_object(Bucket=bucket, Key=f"parts/{name}", Body=sink.getvalue())
    client.put_object(Bucket=bucket, Key="parts/x.parquet/_SUCCESS", Body=b"")
    client.put_object(Bucket=bucket, Key="parts/x.parquet/", Body=b"")
    scored = pieces(f"{s3}/parts/x.parquet/")
    assert scored.column("lesion_id") == ["a", "b"]
    assert read(str(scored.column("clinical_uri")[1])) == b"b"
