"""Column types of Parquet files: read, or refused by one message."""

import io
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.archives.index import index_archive
from derm_ray.errors import ManifestError

from .parquet_files import IMAGE, read, refused, rows, write

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


@pytest.mark.parametrize("name", ["lesion_id", "diagnosis", "age", "skin_tone"])
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
    assert index.skipped == {"row without an image": 1}


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
