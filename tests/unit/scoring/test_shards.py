import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import OutputExistsError, ScoringError
from derm_ray.scoring.ledger import Run, open_run
from derm_ray.scoring.reconcile import reconcile, seal
from derm_ray.scoring.schema import score_schema
from derm_ray.scoring.scorer import ShardScorer
from derm_ray.scoring.shards import plan_shards, read_shard
from derm_ray.vocabulary import LABEL_SETS, PAPER15, LabelSet
from tests.conftest import take

DESCRIPTION = {"model_digest": "m", "engine": "torch", "branches": False}


@pytest.fixture
def run(pairs: Manifest, bundle_uri: str, tmp_path: Path) -> Run:
    """A run of 25 pairs in shards of 10, of which one image is missing and one is damaged."""
    few = take(pairs.absolute(), 25)
    uris = few.column("clinical_uri")
    (tmp_path / "cut.jpg").write_bytes(Path(str(uris[3])).read_bytes()[:1500])
    few = few.with_column("clinical_uri", [*uris[:3], str(tmp_path / "cut.jpg"), *uris[4:24], "/nowhere.jpg"])
    return open_run(str(tmp_path / "out"), few, DESCRIPTION, 10)


def score_all(run: Run, bundle_uri: str) -> None:
    scorer = ShardScorer(bundle_uri, "torch", run.manifest_uri, run.out_uri, batch_size=4)
    for shard in run.missing():
        scorer.score(shard)


def test_every_pair_has_one_row_in_one_schema(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    counts = reconcile(run)
    assert (counts.pairs, counts.scored, counts.errors) == (25, 23, 2)
    assert counts.error_codes == {"corrupt": 1, "missing": 1}
    for shard in run.shards:
        assert pq.read_schema(Path(run.out_uri) / shard.part_name).equals(score_schema(PAPER15))
    rows = pq.read_table(run.out_uri).to_pylist()
    bad = next(row for row in rows if row["error_code"] == "missing")
    assert "/nowhere.jpg" in bad["error_message"]
    assert bad["p_melanoma"] is None


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_column_names_are_unique_and_hold_the_risks(labels: LabelSet) -> None:
    names = score_schema(labels, branches=True).names
    assert len(names) == len(set(names))
    assert {*(f"p_{task.name}" for task in labels.tasks()), "cross_" + labels.class_names[0]} <= set(names)


def test_resume_does_only_what_is_missing(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    part = Path(run.out_uri) / run.shards[1].part_name
    part.unlink()
    with pytest.raises(ScoringError, match="1 of 3 shards have no part"):
        reconcile(run)
    assert run.missing() == [run.shards[1]]
    score_all(run, bundle_uri)
    assert reconcile(run).pairs == 25


def test_a_foreign_part_and_a_swapped_part_are_found(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    first, second = (Path(run.out_uri) / shard.part_name for shard in run.shards[:2])
    second.write_bytes(first.read_bytes())
    with pytest.raises(ScoringError, match="10 pairs are missing and 10 stand more than once"):
        reconcile(run)
    (Path(run.out_uri) / "part-000009-0123456789abcdef.parquet").write_bytes(b"x")
    with pytest.raises(ScoringError, match="does not belong to this run"):
        reconcile(run)


def test_another_run_never_mixes_in(run: Run, pairs: Manifest, tmp_path: Path) -> None:
    few = take(pairs, 25)
    with pytest.raises(OutputExistsError, match='engine was "torch", now "torch-bf16"'):
        open_run(run.out_uri, few, DESCRIPTION | {"engine": "torch-bf16"}, 10)
    with pytest.raises(OutputExistsError, match="manifest_digest was"):
        open_run(run.out_uri, few, DESCRIPTION, 10)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="holds files that are no scoring run"):
        open_run(str(tmp_path / "full"), few, DESCRIPTION, 10)


def test_success_is_written_last_and_tells_what_was_done(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    assert not (Path(run.out_uri) / "_SUCCESS.json").exists()
    seal(run, reconcile(run), 2.5)
    success = json.loads((Path(run.out_uri) / "_SUCCESS.json").read_text())
    assert (success["pairs"], success["scored"], success["errors"]) == (25, 23, 2)
    assert len(success["parts"]) == 3


def test_an_outage_leaves_no_part(run: Run, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that does not answer is no property of the images: nothing is written, the shard stays to be done."""

    def unreachable(uri: str) -> bytes:
        raise storage.StorageError(f"{uri}: storage unreachable")

    scorer = ShardScorer(bundle_uri, "torch", run.manifest_uri, run.out_uri)
    with monkeypatch.context() as patched:
        patched.setattr("derm_ray.data.decode.storage.read_bytes", unreachable)
        with pytest.raises(storage.StorageError, match="storage unreachable"):
            scorer.score(run.shards[0])
    assert run.missing() == list(run.shards)


def test_a_start_cut_short_can_be_repeated(run: Run, pairs: Manifest) -> None:
    (Path(run.out_uri) / "_RUN.json").unlink()
    (Path(run.out_uri) / "._RUN.json.0123.tmp").write_bytes(b"{")
    assert open_run(run.out_uri, take(pairs, 25), DESCRIPTION, 10).missing()


def test_shard_digests_follow_rows_model_and_options(pairs: Manifest) -> None:
    first = list(plan_shards(pairs, DESCRIPTION, 100))
    assert [(s.start, s.stop) for s in first] == [(0, 100), (100, 200), (200, 300), (300, 400), (400, 480)]
    assert first == list(plan_shards(pairs, DESCRIPTION, 100))
    assert {s.digest for s in first}.isdisjoint(
        s.digest for s in plan_shards(pairs, DESCRIPTION | {"engine": "x"}, 100)
    )
    changed = pairs.with_column("clinical_uri", ["other.jpg", *pairs.column("clinical_uri")[1:]])
    second = list(plan_shards(changed, DESCRIPTION, 100))
    assert second[0].digest != first[0].digest
    assert second[1:] == first[1:]


def test_a_shard_is_one_row_group(run: Run) -> None:
    pairs = [pair.pair_id for shard in run.shards for pair in read_shard(run.manifest_uri, shard)]
    assert pairs == [f"SYN_{i:06d}" for i in range(25)]
