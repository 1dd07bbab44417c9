import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.inputs import Input, ManifestInput
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest, normalize_schema, write_manifest
from derm_ray.errors import ManifestError
from derm_ray.scoring.plan import Plan, make_plan
from derm_ray.scoring.shards import PairReader
from tests.inputs import MemoryInput

RUN = {"model_digest": "m", "engine": "torch"}


def plan(source: Input, size: int = 100, copy: str | None = None, csv: bool = False, **run: object) -> Plan:
    return make_plan(source, RUN | run, size, copy, Locations(source.uri), csv=csv)


def rows(*images: dict[str, str | None], uri: str = "/data/m.parquet") -> MemoryInput:
    columns = ("pair_id", "clinical_uri", "dermoscopy_uri")
    table = pa.table({name: pa.array([row.get(name) for row in images], pa.string()) for name in columns})
    return MemoryInput(normalize_schema(table, uri))


def test_shard_digests_follow_rows_model_and_options(pairs: Manifest) -> None:
    first = plan(MemoryInput(pairs))
    assert [(s.start, s.stop) for s in first.shards] == [(0, 100), (100, 200), (200, 300), (300, 400), (400, 480)]
    assert first == plan(MemoryInput(pairs))
    other = plan(MemoryInput(pairs), engine="x")
    assert other.digest == first.digest
    assert {s.digest for s in first.shards}.isdisjoint(s.digest for s in other.shards)
    changed = pairs.with_column("clinical_uri", ["other.jpg", *pairs.column("clinical_uri")[1:]])
    second = plan(MemoryInput(changed))
    assert second.shards[0].digest != first.shards[0].digest
    assert second.shards[1:] == first.shards[1:]
    assert second.digest != first.digest


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_the_copy_holds_the_rows_one_row_group_a_shard(pairs: Manifest, tmp_path: Path, suffix: str) -> None:
    write_manifest(pairs.absolute(), str(tmp_path / f"m.{suffix}"))
    made = plan(ManifestInput(str(tmp_path / f"m.{suffix}")), 7, str(tmp_path / "copy.parquet"))
    assert made.digest == plan(MemoryInput(pairs)).digest
    assert pq.read_metadata(tmp_path / "copy.parquet").num_row_groups == len(made.shards) == 69
    reader = PairReader(str(tmp_path / "copy.parquet"))
    read = [pair for shard in made.shards for pair in reader.read(shard)]
    assert [pair.pair_id for pair in read] == pairs.column("pair_id")
    assert [pair.clinical_uri for pair in read] == pairs.absolute().column("clinical_uri")


def test_all_bad_rows_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    source = rows(
        {"pair_id": "a", "clinical_uri": "a.jpg"},
        {"pair_id": "a", "dermoscopy_uri": "b.jpg"},
        {"pair_id": "c"},
        {"pair_id": "\u202egpj.d", "clinical_uri": "d.jpg"},
        {"pair_id": "e\0", "clinical_uri": "e.jpg", "dermoscopy_uri": "e.jpg"},
        {"clinical_uri": "f.jpg"},
    )
    with pytest.raises(ManifestError) as caught:
        plan(source, copy=str(tmp_path / "copy.parquet"))
    assert caught.value.problems == (
        "row 3: neither clinical_uri nor dermoscopy_uri is given",
        "row 4: pair_id '\\u202egpj.d' contains invisible characters",
        "row 4: lesion_id '\\u202egpj.d' contains invisible characters",
        "row 5: pair_id 'e\\x00' contains invisible characters",
        "row 5: lesion_id 'e\\x00' contains invisible characters",
        "row 5: clinical_uri and dermoscopy_uri are the same file, /data/e.jpg",
        "row 6: pair_id and lesion_id must not be empty (nor NA, None, nan, null or unknown)",
        "rows 1 and 2: the same pair_id; it must be unique",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", "=+-@")
def test_ids_that_begin_a_formula_are_refused_in_csv(start: str) -> None:
    source = rows({"pair_id": f"{start}1+cmd", "clinical_uri": "a.jpg"})
    with pytest.raises(ManifestError, match="formula in a CSV"):
        plan(source, csv=True)
    assert plan(source).shards[-1].stop == 1


@pytest.mark.parametrize(
    ("base", "uri", "refusal"),
    [
        ("s3://b/m.parquet", "file:///etc/passwd", "local paths are not allowed for a remote input"),
        ("s3://b/m.parquet", "/etc/passwd", "local paths are not allowed for a remote input"),
        ("s3://b/m.parquet", "http://169.254.169.254/latest/meta-data", "link-local"),
        ("/data/m.parquet", "http://example.org/x.jpg", "scheme 'http' is not allowed"),
        ("/data/m.parquet", "https://example.org/x.jpg", "scheme 'https' is not allowed"),
        ("/data/m.parquet", "sftp://host/x.jpg", "scheme 'sftp' is not allowed"),
        ("/data/m.parquet", "zip://a.jpg::s3://b/x.zip", "chained URIs"),
        ("/data/m.parquet", "ftp://[fe80::1]/x.jpg", "not allowed"),
        ("/data/m.parquet", "http://[x/x.jpg", "not allowed"),
    ],
)
def test_a_manifest_does_not_choose_what_is_opened(base: str, uri: str, refusal: str) -> None:
    with pytest.raises(ManifestError, match=refusal):
        plan(rows({"pair_id": "a", "clinical_uri": uri}, uri=base))


@pytest.mark.parametrize(
    ("base", "uri"),
    [
        ("s3://b/m.parquet", "images/a.jpg"),
        ("s3://b/m.parquet", "s3://other/a.jpg"),
        ("/data/m.parquet", "s3://b/a.jpg"),
        ("/data/m.parquet", "/archive/a.jpg"),
        ("https://example.org/set/m.csv", "images/a.jpg"),
        ("s3://b/x.tar", "s3://b/x.tar#member=a.jpg&offset=512&size=3"),
    ],
)
def test_object_stores_and_the_input_s_own_place_may_be_named(base: str, uri: str) -> None:
    assert plan(rows({"pair_id": "a", "clinical_uri": uri}, uri=base)).shards[-1].stop == 1


def test_prefixes_allow_more_and_nothing_else() -> None:
    locations = Locations("s3://b/sets/m.parquet", ["https://images.example.org/derm/", "s3://c/open"])
    assert locations.refusal("https://images.example.org/derm/1.jpg") is None
    assert locations.refusal("s3://c/open/1.jpg") is None
    assert locations.refusal("s3://b/sets/1.jpg") is None
    for uri in (
        "s3://c/opened/1.jpg",
        "s3://c/open/../secret.jpg",
        "https://images.example.org/x.jpg",
        "https://images.example.org/derm/%2e%2e/x.jpg",
        "/etc/passwd",
    ):
        assert "outside the allowed folders" in str(locations.refusal(uri))


def test_pairs_of_one_stream_are_one_shard() -> None:
    def member(archive: str, number: int) -> dict[str, str | None]:
        uri = f"s3://b/{archive}#member={number}.jpg&position={number}&size=9"
        return {"pair_id": f"{archive}{number}", "clinical_uri": uri}

    source = rows(
        *({"pair_id": f"p{i}", "clinical_uri": f"s3://b/{i}.jpg"} for i in range(5)),
        *(member("x.tar.gz", i) for i in range(7)),
        *(member("y.tar.gz", i) for i in range(2)),
        {"pair_id": "last", "clinical_uri": "s3://b/last.jpg"},
    )
    assert [len(shard) for shard in plan(source, 4).shards] == [4, 1, 7, 2, 1]


def test_a_stream_that_would_be_read_twice_is_refused() -> None:
    def pair(number: int, archive: str) -> dict[str, str | None]:
        uri = f"s3://b/{archive}.tar.gz#member={number}.jpg&position={number}&size=9"
        return {"pair_id": f"{number}", "clinical_uri": f"s3://b/{number}.jpg", "dermoscopy_uri": uri}

    source = rows(*(pair(i, "xy"[i % 2]) for i in range(4)))
    with pytest.raises(ManifestError, match=r"row 3: s3://b/x\.tar\.gz can be read once, in order"):
        plan(source)
    assert [len(shard) for shard in plan(rows(*(pair(i, "x") for i in range(9))), 4).shards] == [9]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        uri = str(tmp_path / f"{count}.csv")
        lines = io.StringIO()
        lines.write("lesion_id,clinical_uri\n")
        lines.writelines(f"L{i},x.jpg\n" for i in range(count))
        Path(uri).write_text(lines.getvalue())
        tracemalloc.start()
        make_plan(_Small(uri), RUN, 256, None, Locations(uri))
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    assert peak(20_000) < 1.5 * peak(5_000)


class _Small(ManifestInput):
    """Reads in pieces of 2,000 rows, as a long manifest is read in pieces of 65,536."""

    def pieces(self):  # type: ignore[no-untyped-def]
        from derm_ray.data.manifest import scan_manifest

        return (piece.absolute() for piece in scan_manifest(self.uri, 2000))
