"""Archives of every kind are scored where they lie, with the scores of their pairs as files."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

from derm_ray import storage
from derm_ray.data.archives.index import index_archive
from derm_ray.data.inputs import open_input
from derm_ray.data.manifest import Manifest, write_tables
from derm_ray.domain import Modality
from derm_ray.scoring.pipeline import ScoringOptions
from derm_ray.scoring.pipeline import score as score_on
from tests.conftest import RunCommand, take
from tests.inputs import MemoryInput

pytestmark = pytest.mark.ray
PAIRS = 12

Files = list[tuple[str, bytes]]
score = partial(score_on, engine="torch", options=ScoringOptions(replicas=1))


@pytest.fixture(scope="module")
def few(pairs: Manifest) -> Manifest:
    return take(pairs.absolute(), PAIRS)


@pytest.fixture(scope="module")
def files(few: Manifest) -> Files:
    """Names as WebDataset gives them, and bytes."""
    return [
        (f"{pair.pair_id}.{modality}.jpg", storage.read_bytes(str(pair.uri(modality))))
        for pair in few.pairs()
        for modality in Modality
    ]


@pytest.fixture(scope="module")
def whole(ray_local: None, few: Manifest, bundle_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pairs as files, scored in three parts."""
    return score(bundle_uri, MemoryInput(few), str(tmp_path_factory.mktemp("files")), shard_size=5).out_uri


@pytest.fixture(scope="module")
def expected(whole: str) -> pd.DataFrame:
    return scores(whole)


def scores(out: str) -> pd.DataFrame:
    names = [name for name in storage.list_folder(out) if name.startswith("part-")]
    table = pd.concat([pd.read_parquet(storage.join(out, name)) for name in names])
    return table.drop(columns="scored_at").sort_values("pair_id", ignore_index=True)


def tar(files: Files, mode: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def in_tar(files: Files, place: str) -> str:
    storage.write_bytes(f"{place}/a.tar", tar(files, "w"))
    return f"{place}/a.tar"


def in_tar_gz(files: Files, place: str) -> str:
    storage.write_bytes(f"{place}/a.tar.gz", tar(files, "w:gz"))
    return f"{place}/a.tar.gz"


def in_zip(files: Files, place: str) -> str:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    storage.write_bytes(f"{place}/a.zip", sink.getvalue())
    return f"{place}/a.zip"


def in_folder(files: Files, place: str) -> str:
    for name, data in files:
        storage.write_bytes(f"{place}/tree/{name}", data)
    return f"{place}/tree"


def in_parquet(files: Files, place: str) -> str:
    sink = io.BytesIO()
    images = {kind: [data for name, data in files if f".{kind}." in name] for kind in ("clinical", "dermoscopy")}
    ids = [name.split(".")[0] for name, _ in files if ".clinical." in name]
    pq.write_table(pa.table({"lesion_id": ids, **images}), sink, row_group_size=5)
    storage.write_bytes(f"{place}/a.parquet", sink.getvalue())
    return f"{place}/a.parquet"


@pytest.mark.parametrize(
    "pack",
    [*(pytest.param(pack, marks=pytest.mark.slow) for pack in (in_tar, in_zip, in_tar_gz, in_folder)), in_parquet],
)
def test_an_archive_in_a_bucket_is_scored_as_its_files_are(
    pack: Callable[[Files, str], str],
    files: Files,
    expected: pd.DataFrame,
    bundle_uri: str,
    s3: str,
    tmp_path: Path,
) -> None:
    place = f"{s3}/{tmp_path.name}"
    uri = pack(files, place)
    result = score(bundle_uri, open_input(uri), f"{place}/scores", shard_size=5)
    assert result.counts.scored == PAIRS
    found = scores(result.out_uri)[expected.columns]
    pd.testing.assert_frame_equal(found.assign(lesion_id=""), expected.assign(lesion_id=""), rtol=0, atol=1e-5)
    assert score(bundle_uri, open_input(uri), f"{place}/scores", shard_size=5).resumed == len(result.counts.parts)

    write_tables(index_archive(uri).tables(), f"{place}/m.parquet")
    columns = ["pair_id", "lesion_id", "clinical_uri", "dermoscopy_uri"]
    indexed = pd.read_parquet(f"{place}/m.parquet")[columns]
    pd.testing.assert_frame_equal(indexed, pd.read_parquet(f"{place}/scores/_run/manifest.parquet")[columns])


@pytest.mark.parametrize(
    "name", ["parquet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "jsonl"))]
)
def test_scores_open_as_they_are(
    few: Manifest, whole: str, expected: pd.DataFrame, bundle_uri: str, tmp_path: Path, name: str
) -> None:
    out = whole
    if name != "parquet":
        out = score(bundle_uri, MemoryInput(few), str(tmp_path), shard_size=5, output_format=name).out_uri
    reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[name]
    query = f"SELECT pair_id, p_melanoma FROM {reader}('{out}/*.{name}') ORDER BY pair_id"  # noqa: S608
    rows = duckdb.sql(query).fetchall()
    assert [row[0] for row in rows] == expected["pair_id"].tolist()
    assert [row[1] for row in rows] == pytest.approx(expected["p_melanoma"].tolist(), abs=1e-6)
    if name == "parquet":
        assert sorted(pd.read_parquet(out)["pair_id"]) == expected["pair_id"].tolist()
    read = {"parquet": ray.data.read_parquet, "csv": ray.data.read_csv, "jsonl": ray.data.read_json}[name]
    assert sorted(row["pair_id"] for row in read(f"{out}/", file_extensions=[name]).take_all()) == [
        row[0] for row in rows
    ]


def test_the_command_takes_patterns_and_tells_what_it_left_out(
    derm_ray: RunCommand, files: Files, bundle_uri: str, tmp_path: Path
) -> None:
    for name, data in [*files, ("clinical/notes.txt", b"x")]:
        lesion, modality, _ = name.split(".") if "." in name and "/" not in name else ("notes", "clinical", "")
        path = tmp_path / "tree" / modality / (f"{lesion}.jpg" if lesion != "notes" else "notes.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    patterns = ("--clinical", "clinical/{lesion}.jpg", "--dermoscopy", "dermoscopy/{lesion}.jpg")
    command = ("score", "--model", bundle_uri, "--input", "tree", "--out", "scores", "--engine", "torch")
    done = derm_ray(*command, *patterns)
    assert done.returncode == 0, done.stderr
    assert f"{PAIRS} pairs: {PAIRS} scored, 0 errors, each exactly once" in done.stdout
    assert "12/12 pairs" in done.stderr
    verified = derm_ray("verify", "scores")
    assert verified.returncode == 0, verified.stderr
    assert "scores: valid, 1 part\n" in verified.stdout
    assert "no image file extension" in (tmp_path / "scores" / "_report.json").read_text()
    changed = derm_ray(*command, *patterns[:2])
    assert changed.returncode == 2
    assert "patterns was" in changed.stderr
