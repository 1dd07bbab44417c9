"""Parquet files with images: which columns and rows become pairs; nothing is dropped without a word."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.archives.index import index_archive
from derm_ray.data.inputs import ManifestInput, open_input
from derm_ray.errors import ManifestError

from .parquet_files import IMAGE, read, refused, rows, write


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
