from pathlib import Path

import pyarrow.parquet as pq
import pytest

from derm_ray import __version__, storage
from derm_ray.data.inputs import open_input
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest
from derm_ray.domain import LABEL_SETS, PAPER15, LabelSet
from derm_ray.errors import ImageError, ImageErrorCode, OutputExistsError, ScoringError, StorageError
from derm_ray.lease import hold
from derm_ray.scoring.ledger import INVOCATIONS, Run, RunDescription, open_run, recorded_run
from derm_ray.scoring.reconcile import reconcile, verify
from derm_ray.scoring.report import complete_run
from derm_ray.scoring.schema import score_schema
from derm_ray.scoring.scorer import ShardScorer
from tests.unit.scoring.conftest import Opened, remove_part, score_all


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_column_names_are_unique_and_hold_the_task_probabilities(labels: LabelSet) -> None:
    names = score_schema(labels, per_input_predictions=True, saliency=True).names
    assert len(names) == len(set(names))
    assert {*(f"p_{task.name}" for task in labels.tasks()), "cross_" + labels.class_names[0]} <= set(names)


def test_every_part_has_the_same_schema(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    for shard in run.shards:
        assert pq.read_schema(run.part_uri(shard)).equals(score_schema(PAPER15))
    rows = pq.read_table(run.out_uri).to_pylist()
    bad = next(row for row in rows if row["error_code"] == "missing")
    assert "/nowhere.jpg" in bad["error_message"]
    assert bad["p_melanoma"] is None


def test_resume_does_only_what_is_missing(run: Run, opened: Opened, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    remove_part(run, 1)
    again = opened()
    assert again == run
    assert again.missing() == [run.shards[1]]


def test_a_run_keeps_its_id_and_a_bug_fix_release_resumes_it(
    run: Run, opened: Opened, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("derm_ray.scoring.ledger.__version__", "99.0.1")
    again, other = opened(), opened(out=str(tmp_path / "other"))
    assert (again.run_id, again.derm_ray_version) == (run.run_id, __version__)
    assert other.run_id != run.run_id
    assert other.derm_ray_version == "99.0.1"
    assert other.shards == run.shards, "its parts have the same names"
    score_all(again, bundle_uri)
    with hold(storage.join(run.out_uri, INVOCATIONS)) as lease:
        complete_run(again, reconcile(again), lease)
    assert verify(run.out_uri).pairs == 25


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_a_run_whose_record_is_damaged_or_older_is_one_message(run: Run, content: str) -> None:
    assert recorded_run(run.out_uri) == run
    (Path(run.out_uri) / "_RUN.json").write_text(content)
    with pytest.raises((ScoringError, StorageError), match=r"_RUN\.json"):
        recorded_run(run.out_uri)
    if content == "{}":
        with pytest.raises(
            ScoringError,
            match=r"cannot read .*_RUN\.json: .* another version wrote it\. Score again into another --out",
        ):
            recorded_run(run.out_uri)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "torch-bf16"}, 'engine was "torch", now "torch-bf16"'),
        ({"model_digest": "0" * 64}, "model_digest was"),
        ({"per_input_predictions": True}, "per_input_predictions was false, now true"),
        ({"format": "csv"}, 'format was "parquet", now "csv"'),
        ({"shard_size": 5}, "shard_size was 10, now 5"),
    ],
)
def test_another_run_never_mixes_in(run: Run, opened: Opened, changes: dict[str, object], message: str) -> None:
    with pytest.raises(OutputExistsError, match=message):
        opened(**changes)


def test_a_changed_row_is_refused(run: Run, opened: Opened, few: Manifest) -> None:
    uris = few.column("dermoscopy_uri")
    with pytest.raises(OutputExistsError, match="input digest was"):
        opened(few.with_column("dermoscopy_uri", [*uris[:7], None, *uris[8:]]))


def test_a_folder_of_something_else_is_refused(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="contains files that are not a scoring run"):
        opened(out=str(tmp_path / "full"))


def test_an_archive_whose_files_were_replaced_is_refused(bundle_uri: str, tmp_path: Path) -> None:
    for name in ("clinical", "dermoscopy"):
        storage.write_bytes(str(tmp_path / "tree" / "L1" / f"{name}.jpg"), b"x")
    source = open_input(str(tmp_path / "tree"))
    description = RunDescription("m", "paper15", "torch", False, False, "parquet", 10)
    locations = Locations(source.uri)
    open_run(str(tmp_path / "out"), source, description, locations, source.fingerprint())
    open_run(str(tmp_path / "out"), source, description, locations, source.fingerprint())
    storage.write_bytes(str(tmp_path / "tree" / "L1" / "clinical.jpg"), b"other")
    with pytest.raises(OutputExistsError, match="files were added, removed or replaced since"):
        open_run(str(tmp_path / "out"), source, description, locations, source.fingerprint())
    with pytest.raises(OutputExistsError, match="is inside the input"):
        open_run(str(tmp_path / "tree" / "out"), source, description, locations, source.fingerprint())


def test_a_start_cut_short_can_be_repeated(run: Run, opened: Opened) -> None:
    (Path(run.out_uri) / "_RUN.json").unlink()
    (Path(run.out_uri) / "._RUN.json.0123.tmp").write_bytes(b"{")
    assert opened().missing()


def test_an_outage_leaves_no_part(run: Run, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that does not answer is no property of the images: nothing is written, the shard stays to be done."""

    def unreachable(reader: object, uri: str) -> bytes:
        raise ImageError(ImageErrorCode.STORAGE, f"{uri}: storage unreachable")

    scorer = ShardScorer(bundle_uri, "torch", run.out_uri, run.description)
    monkeypatch.setattr("derm_ray.data.archives.reader.ImageReader.read", unreachable)
    with pytest.raises(StorageError, match=r"no image of 10 pairs in a row could be read: .*storage unreachable"):
        scorer.score(run.shards[0])
    assert run.missing() == list(run.shards)


def test_a_part_of_one_image_that_storage_does_not_give_is_a_row(
    run: Run, bundle_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from derm_ray.data.archives.reader import ImageReader

    read = ImageReader.read

    def partly(reader: ImageReader, uri: str) -> bytes:
        if "000002" in uri:
            raise ImageError(ImageErrorCode.TIMEOUT, f"{uri}: no answer")
        return read(reader, uri)

    monkeypatch.setattr(ImageReader, "read", partly)
    score_all(run, bundle_uri)
    rows = {row["pair_id"]: row for row in pq.read_table(run.out_uri).to_pylist()}
    assert rows["SYN_000002"]["error_code"] == "timeout"
    assert rows["SYN_000001"]["status"] == "ok"


def test_a_model_that_changes_under_way_is_refused(run: Run, bundle_uri: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from derm_ray.errors import BundleError

    other = replace(run.description, model_digest="0" * 64)
    with pytest.raises(BundleError, match="changed during the run"):
        ShardScorer(bundle_uri, "torch", run.out_uri, other)
    assert storage.list_folder(run.out_uri) == ["_RUN.json", "_run/"]
