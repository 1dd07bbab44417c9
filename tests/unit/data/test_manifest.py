from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.manifest import SCHEMA, Manifest, collapse, conform, read_manifest, write_manifest
from derm_ray.errors import ConfigError, ManifestError, StorageError
from derm_ray.vocabulary import PAPER15, label_set

ROWS = [
    {"lesion_id": "001", "clinical_uri": "a.jpg", "dermoscopy_uri": "b.jpg", "diagnosis": "melanoma", "skin_tone": 3,
     "skin_tone_scale": "milk", "camera": "X100"},
    {"lesion_id": "002", "clinical_uri": None, "dermoscopy_uri": "s3://x/c.jpg", "diagnosis": None, "skin_tone": None,
     "skin_tone_scale": None, "camera": None},
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_keeps_every_value(tmp_path: Path, suffix: str) -> None:
    manifest = conform(pa.Table.from_pylist(ROWS), str(tmp_path / "m.parquet"))
    uri = str(tmp_path / f"m.{suffix}")
    write_manifest(manifest, uri)
    read = read_manifest(uri)
    assert read.table.select(SCHEMA.names).to_pylist() == manifest.table.select(SCHEMA.names).to_pylist()
    assert read.column("camera") == ["X100", None]
    assert read.digest == manifest.digest


def test_ids_stand_for_each_other_and_uris_resolve(tmp_path: Path) -> None:
    first, second = conform(pa.Table.from_pylist(ROWS), str(tmp_path / "m.csv")).pairs()
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
    with pytest.raises(ManifestError, match="no column 'lesion_id'"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.csv").write_text("lesion_id,clinical_uri\n1,a.jpg,b.jpg\n")
    with pytest.raises(ManifestError, match="cannot be parsed as csv"):
        read_manifest(str(tmp_path / "m.csv"))
    (tmp_path / "m.jsonl").write_text('{"lesion_id": "a"}\n{"lesion_id": 5}\n')
    with pytest.raises(ManifestError, match="cannot be parsed as jsonl"):
        read_manifest(str(tmp_path / "m.jsonl"))
    (tmp_path / "n.csv").write_text("lesion_id,age_years\nx,old\n")
    with pytest.raises(ManifestError, match="'age_years' is not double"):
        read_manifest(str(tmp_path / "n.csv"))


def test_a_task_collapses_the_diagnoses_of_a_manifest(pairs: Manifest) -> None:
    cancer = collapse(pairs, label_set("paper15_cancer"))
    assert len(cancer) == len(pairs)
    malignant = {"melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma"}
    for before, after in zip(pairs.column("diagnosis"), cancer.column("diagnosis"), strict=True):
        assert after == ("cancer" if before in malignant else "not_cancer")
    melanoma = collapse(pairs, label_set("paper15_melanoma"))
    left_out = sum(name in malignant - {"melanoma"} for name in pairs.column("diagnosis"))
    assert len(melanoma) == len(pairs) - left_out
    assert set(melanoma.column("diagnosis")) == {"melanoma", "benign"}
    assert collapse(pairs, PAPER15) is pairs


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"lesion_id": "a", "n": 99999999999999999999}', "cannot be parsed as jsonl"),
        ("b.jsonl", b'{"lesion_id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "cannot be parsed as jsonl"),
        ("c.csv", "lesion_id\né".encode("latin-1"), "cannot be parsed as csv"),
        ("d.parquet", b"PAR1 garbage PAR1", "cannot be parsed as parquet"),
    ],
)
def test_odd_files_are_one_message(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read_manifest(str(tmp_path / name))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["lesion_id", "x", "x"]), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="column 'x' stands more than once"):
        read_manifest(str(tmp_path / "m.parquet"))
