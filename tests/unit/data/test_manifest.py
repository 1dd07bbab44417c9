from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.manifest import (
    SCHEMA,
    Manifest,
    normalize_schema,
    read_manifest,
    scan_manifest,
    write_manifest,
)
from derm_ray.errors import ConfigError, ManifestError, StorageError

ROWS = [
    {"lesion_id": "001", "clinical_uri": "a.jpg", "dermoscopy_uri": "b.jpg", "diagnosis": "melanoma", "skin_tone": 3,
     "skin_tone_scale": "milk", "camera": "X100"},
    {"lesion_id": "002", "clinical_uri": None, "dermoscopy_uri": "s3://x/c.jpg", "diagnosis": None, "skin_tone": None,
     "skin_tone_scale": None, "camera": None},
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_keeps_every_value(tmp_path: Path, suffix: str) -> None:
    manifest = normalize_schema(pa.Table.from_pylist(ROWS), str(tmp_path / "m.parquet"))
    uri = str(tmp_path / f"m.{suffix}")
    write_manifest(manifest, uri)
    read = read_manifest(uri)
    assert read.table.select(SCHEMA.names).to_pylist() == manifest.table.select(SCHEMA.names).to_pylist()
    assert read.column("camera") == ["X100", None]
    assert read.digest == manifest.digest


def test_ids_stand_for_each_other_and_uris_resolve(tmp_path: Path) -> None:
    first, second = normalize_schema(pa.Table.from_pylist(ROWS), str(tmp_path / "m.csv")).pairs()
    assert first.pair_id == first.lesion_id == "001"
    assert first.clinical_uri == str(tmp_path / "a.jpg")
    assert second.clinical_uri is None
    assert second.dermoscopy_uri == "s3://x/c.jpg"


def test_a_csv_keeps_leading_zeros_and_blanks_are_null(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("lesion_id,clinical_uri,sex\n007,a.jpg,\n008,b.jpg,  \n")
    manifest = read_manifest(str(tmp_path / "m.csv"))
    assert manifest.column("lesion_id") == ["007", "008"]
    assert manifest.column("sex") == [None, None]


def test_bad_files_are_one_message_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must end in one of"):
        read_manifest(str(tmp_path / "m.xlsx"))
    with pytest.raises(StorageError, match="not found"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    with pytest.raises(ManifestError, match="cannot be parsed as parquet"):
        read_manifest(str(tmp_path / "m.parquet"))
    (tmp_path / "m.csv").write_text("name\nx\n")
    with pytest.raises(ManifestError, match=r"no column 'lesion_id' or 'pair_id'.*Columns found: 'name'"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.csv").write_text("lesion_id,clinical_uri\n1,a.jpg,b.jpg\n")
    with pytest.raises(ManifestError, match=r"row 1 \(line 2\) has 3 cells, the header has 2"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.jsonl").write_text('{"lesion_id": "a"}\n{"lesion_id": 5}\n')
    with pytest.raises(ManifestError, match="cannot be parsed as jsonl"):
        read_manifest(str(tmp_path / "m.jsonl"))
    (tmp_path / "n.csv").write_text("lesion_id,age\nx,old\n")
    with pytest.raises(ManifestError, match="row 1: age 'old' is not a number"):
        read_manifest(str(tmp_path / "n.csv"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"lesion_id": "a", "n": 99999999999999999999}', "cannot be parsed as jsonl"),
        ("b.jsonl", b'{"lesion_id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "cannot be parsed as jsonl"),
        ("c.csv", "lesion_id\né".encode("latin-1"), "line 2 cannot be read as utf-8"),
        (
            "e.jsonl",
            b'{"lesion_id": "a", "patient_id": "p", "patient_id": "q"}',
            "row 1: .*'patient_id' occurs more than",
        ),
        ("f.jsonl", b'{"lesion_id": "a"}\n\n{"lesion_id": ', "row 2: cannot be parsed as jsonl"),
        ("d.parquet", b"PAR1 garbage PAR1", "cannot be parsed as parquet"),
    ],
)
def test_odd_files_are_one_message(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read_manifest(str(tmp_path / name))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["lesion_id", "x", "x"]), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="column 'x' occurs more than once"):
        read_manifest(str(tmp_path / "m.parquet"))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_ids_and_words_for_missing_have_one_form_in_every_format(tmp_path: Path, suffix: str) -> None:
    raw = {
        "lesion_id": [" 1", "2\u00a0", "3"],
        "Patient ID": ["e\u0301", "\u00e9 ", "NA"],
        "age": ["45", "NaN", "n/a"],
        "clinical_uri": ["1.jpg", "2.jpg", "3.jpg"],
    }
    table = pa.table(raw | {"sex": ["unknown", "Female ", None], "camera": ["NA", " x", None]})
    uri = str(tmp_path / f"m.{suffix}")
    if suffix == "parquet":
        pq.write_table(table, uri)
    else:
        write_manifest(Manifest(table, uri), uri)
    read = read_manifest(uri)
    assert read.column("pair_id") == read.column("lesion_id") == ["1", "2", "3"]
    assert read.column("patient_id") == ["\u00e9", "\u00e9", None]
    assert read.column("age") == [45, None, None]
    assert read.column("sex") == [None, "female", None]
    assert read.column("camera") == ["NA", " x", None]
    assert read.missing_words == {
        "patient_id": {"NA": 1}, "age": {"NaN": 1, "n/a": 1}, "sex": {"unknown": 1}
    }  # fmt: skip


def test_words_are_counted_over_all_pieces_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    uri = str(tmp_path / "m.csv")
    rows = [f"L{i},{'NA' if i % 2 else i},a.jpg" for i in range(10)]
    (tmp_path / "m.csv").write_text("\n".join(["lesion_id,age,clinical_uri", *rows]) + "\n")
    assert [dict(piece.missing_words["age"]) for piece in scan_manifest(uri, 5)] == [{"NA": 2}, {"NA": 3}]
    assert read_manifest(uri).missing_words == {"age": {"NA": 5}}
    (tmp_path / "m.csv").write_text("\n".join(["lesion_id,age,clinical_uri", *rows, "L10,old,a.jpg"]) + "\n")
    with pytest.raises(ManifestError, match="row 11: age 'old'"):
        list(scan_manifest(uri, 5))


def test_columns_that_are_one_by_their_name_are_refused() -> None:
    table = pa.table({"lesion_id": ["a"], "Diagnosis": ["x"], "diagnosis": ["y"]})
    with pytest.raises(ManifestError, match="columns 'Diagnosis' and 'diagnosis' both map to 'diagnosis'; keep one"):
        normalize_schema(table, "m.csv")
    with pytest.raises(ManifestError, match="its name contains invisible characters"):
        normalize_schema(pa.table({"lesion_id": ["a"], "patient_id\u200b": ["x"]}), "m.csv")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.5]), "'patient_id' of type double: it contains ids as floating point numbers such as 1.5"),
        (pa.array([["a"]]), "'patient_id' of type list"),
        (pa.array([b"\xff"]).cast(pa.string(), safe=False), "'patient_id' of type string: .*UTF"),
    ],
)
def test_ids_that_are_no_ids_are_refused(column: pa.Array, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        normalize_schema(pa.table({"lesion_id": ["a"], "patient_id": column}), "m.parquet")
