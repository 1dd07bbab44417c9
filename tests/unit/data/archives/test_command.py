import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.archives.index import index_archive, write_index
from derm_ray.data.manifest import read_manifest
from derm_ray.errors import ConfigError

from .conftest import tar_bytes

RUNNER = CliRunner()


def test_index_writes_a_manifest_and_says_what_it_left_out(tmp_path: Path) -> None:
    files = {"c/1.jpg": b"c", "d/1.jpg": b"d", "c/2.jpg": b"c", "read.me": b""}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    out = str(tmp_path / "m.csv")
    command = ["data", "index", f"{tmp_path}/a.tar", "--out", out]
    patterns = ["--clinical", "c/{lesion}.jpg", "--dermoscopy", "d/{lesion}.jpg"]
    done = RUNNER.invoke(app, [*command, *patterns])
    assert done.output.splitlines() == [
        f"2 pairs indexed to {out}, 1 of them with one image only",
        "1 of 4 files skipped:",
        "      1  no image file extension",
    ]
    assert read_manifest(out).column("lesion_id") == ["1", "2"]
    done = RUNNER.invoke(app, [*command, *patterns, "--json"])
    assert json.loads(done.output) == {
        "manifest": out,
        "pairs": 2,
        "single_image": 1,
        "found": 4,
        "skipped": {"no image file extension": 1},
        "skipped_columns": {},
    }


def test_nothing_is_read_where_the_output_has_no_manifest_name(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["data", "index", str(tmp_path / "no.tar"), "--out", "m.xls"])
    assert "must end in one of .parquet, .csv, .jsonl" in str(done.exception)


def test_help_shows_a_pattern() -> None:
    assert "{lesion}" in RUNNER.invoke(app, ["data", "index", "--help"], terminal_width=200).output


@pytest.mark.parametrize("out", ["tree/a.parquet", "./tree/../tree/a.parquet"])
def test_the_archive_itself_is_never_overwritten(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    archive = tmp_path / "tree" / "a.parquet"
    pq.write_table(pa.table({"lesion_id": ["a"], "clinical": [b"1"]}), archive)
    before = archive.read_bytes()
    for source in ("tree", "tree/a.parquet"):
        with pytest.raises(ConfigError, match="is the indexed archive"):
            write_index(index_archive(source), out)
    assert archive.read_bytes() == before
