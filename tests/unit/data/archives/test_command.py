import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.archives.address import Address
from derm_ray.data.archives.containers import CONTAINERS, Container, Member, Read
from derm_ray.data.archives.ranges import read_range
from derm_ray.data.manifest import Manifest, read_manifest
from derm_ray.domain import Modality

from .conftest import tar_bytes


@dataclass(frozen=True, slots=True)
class BoxMember(Address):
    """A file in a box: its bytes begin at ``offset``."""

    member: str
    offset: int
    size: int


def box_members(uri: str) -> Iterator[Member]:
    """A box is lines of a name and a size, an empty line, and all contents."""
    head, _, _ = Path(uri).read_bytes().partition(b"\n\n")
    offset = len(head) + 2
    for line in head.decode().splitlines():
        name, size = line.split()
        yield Member(name, BoxMember(uri, name, offset, int(size)))
        offset += int(size)


def open_box(_wanted: object, _kept: object) -> Read:
    return lambda address: read_range(address.container, address.offset, address.offset + address.size)


BOX = Container("a box", (".box",), BoxMember, lambda head: b" " in head, open_box, box_members)

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
    Path(out).unlink()
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
        done = RUNNER.invoke(app, ["data", "index", source, "--out", out])
        assert "exists and would be overwritten. Choose another --out" in str(done.exception)
    assert archive.read_bytes() == before


def test_a_registered_container_is_indexed_and_its_images_are_read(
    tmp_path: Path, pairs: Manifest, registered: Callable[..., None]
) -> None:
    registered(CONTAINERS, "box", BOX)
    pair = pairs.absolute().pairs()[0]
    files = {f"L1/{m}.jpg": Path(str(pair.uri(m))).read_bytes() for m in Modality}
    head = "\n".join(f"{name} {len(data)}" for name, data in files.items())
    (tmp_path / "a.box").write_bytes(head.encode() + b"\n\n" + b"".join(files.values()))
    out = str(tmp_path / "m.csv")
    assert RUNNER.invoke(app, ["data", "index", f"{tmp_path}/a.box", "--out", out]).exit_code == 0
    assert str(read_manifest(out).pairs()[0].clinical_uri).startswith(f"{tmp_path}/a.box#member=L1%2Fclinical.jpg&off")
    done = RUNNER.invoke(app, ["data", "prepare", out, "--out", f"{tmp_path}/images", "--size", "64"])
    assert "1 pair at 64 px" in done.output
    (tmp_path / "wrong.zip").write_bytes((tmp_path / "a.box").read_bytes())
    done = RUNNER.invoke(app, ["data", "index", f"{tmp_path}/wrong.zip", "--out", f"{tmp_path}/n.csv"])
    assert "it is a box, not a .zip. Rename it to end in .box" in str(done.exception)
