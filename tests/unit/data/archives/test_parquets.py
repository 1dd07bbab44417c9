"""Parquet files as other software writes them: read, or refused by one message; nothing is dropped without a word."""

import io
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.archives.index import ArchiveIndex, index_archive
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.inputs import ManifestInput, open_input
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ConfigError, DermRayError, ManifestError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ALL: list[pa.DataType] = [
    pa.null(),
    pa.bool_(),
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64()),
    *(pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(20, 2), pa.decimal256(50, 2)),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "No/Where")),
    *(pa.duration("s"), pa.month_day_nano_interval()),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(16)),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.binary(), "x", "y"), pa.fixed_shape_tensor(pa.int8(), [2])),
    *(pa.list_(pa.uint8()), pa.list_(pa.int8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), 2)),
    *(pa.list_view(pa.uint8()), pa.large_list_view(pa.uint8()), pa.list_(pa.binary())),
    *(IMAGE, pa.struct([("bytes", pa.string())]), pa.struct([("x", pa.binary())]), pa.struct([])),
    pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]),
    pa.map_(pa.string(), pa.binary()),
    *(pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.binary(), pa.int64(), pa.binary(4))),
    pa.dictionary(pa.int32(), pa.string_view()),
    pa.run_end_encoded(pa.int32(), pa.string()),
    *(pa.dense_union([pa.field("a", pa.int8())]), pa.sparse_union([pa.field("a", pa.int8())])),
]


def values(kind: pa.DataType) -> pa.Array:
    """Return a value of a type, and a null."""
    samples: list[Any] = [
        b"0123456789abcdef",
        b"0123",
        uuid.UUID(int=7),
        "text",
        1,
        1.0,
        True,
        {"bytes": b"x"},
        [1, 2],
        [],
    ]
    for sample in samples:
        try:
            return pa.array([sample, None], kind)
        except (pa.ArrowException, TypeError, ValueError, AttributeError):
            continue
    try:
        return pa.array(["text", None], kind.value_type).dictionary_encode().cast(kind)
    except (pa.ArrowException, TypeError, ValueError, AttributeError):
        return pa.nulls(2, kind)


def _has_parquet(kind: pa.DataType) -> bool:
    try:
        pq.write_table(pa.table({"x": values(kind)}), io.BytesIO())
    except pa.ArrowNotImplementedError:
        return False
    return True


TYPES = list(filter(_has_parquet, _ALL))


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def rows(index: ArchiveIndex) -> list[dict[str, Any]]:
    return pa.concat_tables(index.tables()).to_pylist()


def read(uri: str) -> bytes:
    with ImageReader() as reader:
        return reader.read(uri)


def refused(uri: str) -> str:
    """Return the message with which a file is refused, the same by ``data index`` and ``score``."""
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    with pytest.raises(ManifestError) as scored:
        list(open_input(uri).pieces())
    told = error.value.problems[0].removeprefix(f"{uri}: ")
    assert told == scored.value.problems[0].removeprefix(f"{uri}: ")
    assert told.isprintable()
    return told


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_no_type_beside_the_images_is_a_traceback(tmp_path: Path, kind: pa.DataType) -> None:
    uri = write(tmp_path / "a.parquet", {"lesion_id": ["a", "b"], "extra": values(kind), "clinical": [b"1", b"2"]})
    if "No/Where" in str(kind):
        assert "column 'extra' is timestamp[us, tz=No/Where] and cannot be read" in refused(uri)
        return
    index = index_archive(uri)
    found = rows(index)
    assert [read(row["clinical_uri"]) for row in found] == [b"1", b"2"]
    assert ("extra" in found[0]) != ("extra" in index.skipped_columns)
    assert index.skipped_columns == {} or index.skipped_columns["extra"][:8] in str(
        pq.read_schema(uri).field("extra").type
    )


@pytest.mark.parametrize("name", ["lesion_id", "diagnosis", "age_years", "skin_tone"])
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_no_type_of_a_manifest_s_column_is_a_traceback(tmp_path: Path, kind: pa.DataType, name: str) -> None:
    columns = {"pair_id": ["a", "b"], name: values(kind), "clinical": [b"1", b"2"]}
    uri = write(tmp_path / "a.parquet", columns)
    try:
        index = index_archive(uri)
    except ManifestError:
        with pytest.raises(ManifestError, match=name):
            index_archive(uri)
    else:
        assert len(rows(index)) == 2
        assert name not in index.skipped_columns


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_an_image_column_of_any_type_is_read_or_named_with_its_type(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"lesion_id": ["a", "b"], "clinical": values(kind), "dermoscopy": [b"1", b"2"]}
    uri = write(tmp_path / "a.parquet", columns)
    stored = pq.read_schema(uri).field("clinical").type
    try:
        index = index_archive(uri)
    except ManifestError:
        told = refused(uri)
        assert told.startswith("column 'clinical' is ")
        assert str(stored)[:60] in told
        return
    first, second = rows(index)
    assert second["clinical_uri"] is None
    if pa.types.is_null(kind):
        assert first["clinical_uri"] is None
    else:
        data = pq.read_table(uri)["clinical"][0].as_py()
        assert read(first["clinical_uri"]) == (data["bytes"] if isinstance(data, dict) else data)


READ_TYPES = (
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(16),
    pa.dictionary(pa.int32(), pa.binary()),
    IMAGE,
    pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]),
)


@pytest.mark.parametrize("kind", READ_TYPES, ids=str)
def test_bytes_are_read_in_every_spelling(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"lesion_id": ["a", "b"], "clinical": values(kind), "dermoscopy": values(kind)}
    index = index_archive(write(tmp_path / "a.parquet", columns, row_group_size=1))
    assert index.pairs == 1
    assert index.skipped == {"a row without an image": 1}


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (pa.array([[1]], pa.list_(pa.uint8())), "is list<element: uint8>; images are read from binary columns"),
        (
            pa.array(["img/c.jpg"]),
            "is text (string); .*rename it to 'clinical_uri': the file is then a manifest",
        ),
        (pa.array(["c.jpg"]).dictionary_encode(), "is text .*'clinical_uri'"),
        (pa.array([7]), "is int64; .*or rename the column"),
        (pa.array([{"path": "c.jpg"}]), "is struct<path: string>"),
        (pa.array([{"bytes": "c.jpg"}]), "is struct<bytes: string>"),
    ],
)
@pytest.mark.parametrize("other", [True, False])
def test_a_column_that_is_asked_for_is_never_dropped(tmp_path: Path, array: pa.Array, told: str, other: bool) -> None:
    uri = write(
        tmp_path / "x" / "a.parquet",
        {"lesion_id": ["a"], "clinical": array} | ({"dermoscopy": [b"1"]} if other else {}),
    )
    assert re.search(
        f"column 'clinical' {re.escape(told) if '.*' not in told else told.replace('(', '.').replace(')', '.')}",
        refused(uri),
    )
    with pytest.raises(ManifestError, match="column 'clinical' is"):
        index_archive(str(tmp_path / "x"))


def test_both_columns_of_a_wrong_type_are_named(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"lesion_id": ["a"], "clinical": [1], "dermoscopy": ["x"]})
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    assert [problem.partition(": ")[2][:25] for problem in error.value.problems] == [
        "column 'clinical' is int6",
        "column 'dermoscopy' is te",
    ]


def test_hugging_face_s_paths_without_bytes_are_said(tmp_path: Path) -> None:
    cells = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None, {"bytes": None, "path": None}]
    columns = {"lesion_id": list("abcd"), "clinical": pa.array(cells, IMAGE), "dermoscopy": [b"1"] * 4}
    told = refused(write(tmp_path / "a.parquet", columns))
    assert told.startswith("column 'clinical', row group 0: 1 of 4 rows have a path but no bytes. Embed the images")
    columns["clinical"] = pa.array([{"bytes": None, "path": "b.jpg"}] * 4, IMAGE)
    assert "4 of 4 rows have a path but no bytes" in refused(write(tmp_path / "b.parquet", columns))
    columns["clinical"] = pa.array([cells[0], None, None, cells[3]], IMAGE)
    assert index_archive(write(tmp_path / "c.parquet", columns)).single == 3


def test_ids_of_other_types_are_read(tmp_path: Path) -> None:
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")
    for kind, value, expected in (
        (pa.uuid(), key.bytes, str(key)),
        (pa.binary(16), key.bytes, key.bytes.hex()),
        (pa.binary(), b"L1", "L1"),
        (pa.large_string(), "L1", "L1"),
        (pa.string_view(), "L1", "L1"),
        (pa.int64(), 17, "17"),
        (pa.dictionary(pa.int32(), pa.string()), "L1", "L1"),
    ):
        uri = write(tmp_path / "a.parquet", {"lesion_id": pa.array([value], kind), "clinical": [b"1"]})
        assert rows(index_archive(uri))[0]["lesion_id"] == expected
    uri = write(tmp_path / "b.parquet", {"lesion_id": pa.array([b"\xff\xfe"]), "clinical": [b"1"]})
    assert "column 'lesion_id' is binary and cannot be read: Invalid UTF8" in refused(uri)
    uri = write(tmp_path / "c.parquet", {"lesion_id": [["L1"]], "clinical": [b"1"]})
    assert refused(uri) == "column 'lesion_id' is list<element: string>; expected string"


def test_duckdb_s_types_are_read(tmp_path: Path) -> None:
    duckdb.sql(
        f"""copy (select uuid() lesion_id, uuid() study, interval 3 day pause, 5::hugeint big, '0101'::bit bits,
        '2020-01-01'::timestamptz seen, 'a'::enum('a', 'b') kind, [1] l, 'c'::blob clinical, 'd'::blob dermoscopy)
        to '{tmp_path}/a.parquet'"""
    )
    index = index_archive(f"{tmp_path}/a.parquet")
    (row,) = rows(index)
    assert uuid.UUID(row["lesion_id"]) != uuid.UUID(row["study"])
    assert (row["kind"], row["bits"]) == ("a", "0101")
    assert list(index.skipped_columns) == ["l"]
    assert read(row["dermoscopy_uri"]) == b"d"


def test_text_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    for name in ("lesion_id", "camera"):
        uri = write(tmp_path / "a.parquet", {"pair_id": ["a"], "clinical": [b"1"], name: broken})
        assert f"column '{name}' is text (string) and cannot be read: In chunk 0: Invalid: Invalid UTF8" in refused(uri)


def test_columns_that_no_manifest_can_hold_are_named_by_the_command(tmp_path: Path) -> None:
    extra = {
        "embedding": [[0.5]],
        "thumb\x1b": [b"1"],
        "taken": pa.array([3], pa.date32()),
        "sha": pa.array([b"ab"], pa.binary(2)),
    }
    uri = write(tmp_path / "a.parquet", {"lesion_id": ["a"], "clinical": [b"1"]} | extra)
    done = CliRunner().invoke(app, ["data", "index", uri, "--out", str(tmp_path / "m.csv")])
    assert done.output.splitlines()[-1] == r"columns skipped: embedding (list<element: double>), thumb\x1b (binary)"
    (row,) = rows(index_archive(uri))
    assert (row["taken"], row["sha"]) == ("1970-01-04", "6162")


def test_names_with_dots_and_repeated_names_give_no_other_image(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": b"right", "path": None}], IMAGE)
    uri = write(
        tmp_path / "a.parquet", {"clinical.bytes": [b"wrong"], "lesion_id": ["a"], "clinical": cells, "z": [[1]]}
    )
    assert read(rows(index_archive(uri))[0]["clinical_uri"]) == b"right"
    uri = write(
        tmp_path / "b.parquet",
        {"clinical.x": [b"wrong"], "lesion_id.y": ["wrong"], "lesion_id": ["a"], "clinical": [b"right"]},
    )
    (row,) = rows(index_archive(uri))
    assert (row["lesion_id"], row["lesion_id.y"], read(row["clinical_uri"])) == ("a", "wrong", b"right")
    for name in ("clinical", "camera", "lesion_id"):
        table = pa.Table.from_arrays([pa.array([b"1"]), *[pa.array(["a"])] * 3], ["dermoscopy", "pair_id", name, name])
        if name == "clinical":
            table = pa.Table.from_arrays([pa.array([b"1"])] * 2 + [pa.array(["a"])], [name, name, "pair_id"])
        pq.write_table(table, tmp_path / "c.parquet")
        assert refused(str(tmp_path / "c.parquet")) == f"column '{name}' occurs more than once; keep one"


def test_images_and_their_uris_in_one_file_are_refused(tmp_path: Path) -> None:
    both = {"lesion_id": ["a"], "clinical": [b"1"], "clinical_uri": ["a.jpg"]}
    assert (
        refused(write(tmp_path / "a.parquet", both))
        == "both 'clinical' and 'clinical_uri' give images; keep one of the two"
    )
    uri = write(tmp_path / "b.parquet", both | {"clinical": ["melanocytic"]})
    assert isinstance(open_input(uri), ManifestInput)
    with pytest.raises(ManifestError, match=r"it is a manifest and needs no index\. Use it directly"):
        index_archive(uri)


@pytest.mark.parametrize("groups", [0, 1])
def test_a_file_without_rows_is_said_to_be_empty(tmp_path: Path, groups: int) -> None:
    schema = pa.schema([("lesion_id", pa.string()), ("clinical", pa.binary())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for _ in range(groups):
            writer.write_table(schema.empty_table())
    assert "no pair found: it is empty" in refused(str(tmp_path / "a.parquet"))


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
    assert index.skipped["a hidden Parquet file: a part of its path begins with '_' or '.'"] == 2
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


def test_columns_of_a_manifest_are_known_in_any_spelling(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"Lesion ID": pa.array([b"a"]), "clinical": [b"1"]})
    assert rows(index_archive(uri))[0]["lesion_id"] == "a"
    uri = write(tmp_path / "b.parquet", {"Lesion ID": ["a"], "Clinical URI": ["a.jpg"]})
    assert isinstance(open_input(uri), ManifestInput)
    uri = write(tmp_path / "c.parquet", {"Lesion ID": [["a"]], "clinical": [b"1"]})
    assert refused(uri) == "column 'Lesion ID' is list<element: string>; expected string"


def test_an_image_column_in_other_letters_is_named(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.parquet", {"lesion_id": ["a"], "Clinical ": [b"1"], "dermoscopy": [b"2"]})
    assert refused(uri) == "column 'Clinical ' looks like 'clinical', which is missing; rename it"


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
