import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ScoringError, StorageError
from derm_ray.lease import hold
from derm_ray.scoring.formats import FORMATS
from derm_ray.scoring.ledger import INVOCATIONS, Run
from derm_ray.scoring.reconcile import Reconciliation, reconcile, verify, with_errors
from derm_ray.scoring.report import complete_run
from tests.unit.scoring.conftest import Opened, remove_part, score_all


def finish(run: Run, bundle_uri: str) -> Reconciliation:
    with hold(storage.join(run.out_uri, INVOCATIONS)) as lease:
        score_all(run, bundle_uri)
        lease.note(pairs=25, errors=2, seconds=2.5, stages={"read_s": 0.5})
        counts = reconcile(run)
        complete_run(run, counts, lease)
    return counts


def test_scores_that_are_no_numbers_are_one_message(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    part = run.part_uri(run.shards[0])
    table = pq.read_table(part)
    place = table.schema.get_field_index("confidence")
    values = [None if value is None else float("nan") for value in table["confidence"].to_pylist()]
    column = pa.array(values, table.schema.field(place).type)
    with pytest.raises(ScoringError, match="the model computes NaN"):
        Reconciliation().add("part", "", table.set_column(place, table.schema.field(place), column))


@pytest.mark.parametrize("name", FORMATS)
def test_every_pair_has_one_row(opened: Opened, bundle_uri: str, name: str) -> None:
    run = opened(format=name)
    counts = finish(run, bundle_uri)
    assert (counts.pairs, counts.scored, counts.errors) == (25, 23, 2)
    assert counts.error_codes == {"corrupt": 1, "missing": 1}
    assert counts.modalities == {"both": 23}
    assert sum(counts.diagnoses.values()) == sum(counts.confidence) == 23
    assert verify(run.out_uri).parts == counts.parts


def test_all_formats_hold_the_same_rows(opened: Opened, bundle_uri: str, tmp_path: Path) -> None:
    read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True)}
    frames = {}
    for name, reader in read.items():
        run = opened(format=name, out=str(tmp_path / name))
        score_all(run, bundle_uri)
        frames[name] = pd.concat([reader(run.part_uri(shard)) for shard in run.shards]).drop(columns="scored_at")
    for name in ("csv", "jsonl"):
        other = frames[name][frames["parquet"].columns]
        assert other.set_index("pair_id").index.equals(frames["parquet"].set_index("pair_id").index)
        assert (other["p_melanoma"].dropna() - frames["parquet"]["p_melanoma"].dropna()).abs().max() < 1e-6
        assert other["error_code"].fillna("").tolist() == frames["parquet"]["error_code"].fillna("").tolist()


def test_a_lost_a_foreign_and_a_swapped_part_are_found(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    remove_part(run, 1)
    with pytest.raises(ScoringError, match="1 of 3 shards without a part"):
        reconcile(run)
    score_all(run, bundle_uri)
    first, second = (Path(run.part_uri(shard)) for shard in run.shards[:2])
    good = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ScoringError, match=r"does not contain the pairs 10\.\.20"):
        reconcile(run)
    second.write_bytes(good[:-100])
    with pytest.raises(ScoringError, match=r"is damaged.*scores its pairs again"):
        reconcile(run)
    second.write_bytes(good)
    for name in ("part-000009-0123456789abcdef.parquet", "extra.parquet"):
        (Path(run.out_uri) / name).write_bytes(good)
        with pytest.raises(ScoringError, match=f"{name} does not belong to this run"):
            reconcile(run)
        (Path(run.out_uri) / name).unlink()


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_is_one_message_wherever_it_is(opened: Opened, bundle_uri: str, name: str) -> None:
    run = opened(format=name)
    finish(run, bundle_uri)
    part = Path(run.part_uri(run.shards[0]))
    good = part.read_bytes()
    for place in [*range(0, len(good), len(good) // 40), len(good) - 20]:
        part.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(
            ScoringError, match=r"is damaged|changed after the run ended|does not contain|another model"
        ):
            verify(run.out_uri)


def test_a_damaged_or_edited_file_of_the_run_is_one_message(run: Run, bundle_uri: str) -> None:
    finish(run, bundle_uri)
    for name in ("_RUN.json", "_SUCCESS.json", "_run/shards.parquet", "_run/manifest.parquet"):
        file = Path(run.out_uri) / name
        good = file.read_bytes()
        for data in (b"", b"{}", b"PAR1 garbage PAR1", b"[1]"):
            file.write_bytes(data)
            with pytest.raises((ScoringError, StorageError), match=name):
                verify(run.out_uri)
        file.write_bytes(good)
    for name, change, message in (
        ("_SUCCESS.json", {"scored": 999}, "scored does not match the parts"),
        ("_SUCCESS.json", {"engine": "x"}, "engine does not match the parts"),
        ("_RUN.json", {"engine": "x"}, "shard 0 does not match _RUN.json"),
    ):
        uri = storage.join(run.out_uri, name)
        good = storage.read_json(uri)
        storage.write_json(uri, good | change)
        with pytest.raises(ScoringError, match=message):
            verify(run.out_uri)
        storage.write_json(uri, good)
    verify(run.out_uri)


@pytest.mark.parametrize("name", FORMATS)
def test_ids_that_look_like_nothing_come_back(opened: Opened, few: Manifest, bundle_uri: str, name: str) -> None:
    odd = ["NA", "null", "nan", "N/A", "#N/A", "NULL", '"', "a,b", "é", "1e5", "true", "2020-01-01", "None"]
    ids = [*odd, *few.column("pair_id")[len(odd) :]]
    run = opened(few.with_column("pair_id", ids).with_column("lesion_id", ids), format=name)
    assert finish(run, bundle_uri).pairs == 25


def test_what_changes_after_the_end_is_found(opened: Opened, bundle_uri: str) -> None:
    run = opened(format="jsonl")
    with pytest.raises(ScoringError, match="3 of 3 shards without a part"):
        verify(run.out_uri)
    score_all(run, bundle_uri)
    with pytest.raises(ScoringError, match="the run is not finished"):
        verify(run.out_uri)
    finish(run, bundle_uri)
    verify(run.out_uri)
    part = Path(run.part_uri(run.shards[0]))
    part.write_text(part.read_text().replace('"confidence": 0.', '"confidence": 0.9', 1))
    with pytest.raises(ScoringError, match="1 part changed after the run ended"):
        verify(run.out_uri)


def test_an_input_that_changed_after_the_end_is_found(
    run: Run, opened: Opened, bundle_uri: str, tmp_path: Path
) -> None:
    finish(run, bundle_uri)
    other = opened(run_pairs(opened), out=str(tmp_path / "other"))
    Path(run.manifest_uri).write_bytes(Path(other.manifest_uri).read_bytes())
    with pytest.raises(ScoringError, match="shard 0 does not match _RUN"):
        verify(run.out_uri)


def run_pairs(opened: Opened):  # type: ignore[no-untyped-def]
    few = opened.__defaults__[0]  # type: ignore[attr-defined]
    ids = few.column("lesion_id")
    return few.with_column("lesion_id", ["other", *ids[1:]])


def test_the_report_tells_what_was_done(run: Run, bundle_uri: str) -> None:
    finish(run, bundle_uri)
    out = Path(run.out_uri)
    success, report = (json.loads((out / name).read_text()) for name in ("_SUCCESS.json", "_report.json"))
    assert (success["pairs"], success["scored"], success["errors"]) == (25, 23, 2)
    assert success["pairs_per_second"] == 10
    assert len(success["parts"]) == 3
    assert report["invocations"][0]["stages"]["read_s"] == 0.5
    page = (out / "_report.html").read_text()
    assert "25 pairs, each exactly once" in page
    assert "23 scored, 2 errors, from" in page
    assert "corrupt" in page
    shares = [float(share) for share in re.findall(r"<i style=\"width: ([\d.]+)%", page)]
    assert (len(shares), sum(shares)) == (len(report["diagnoses"]), pytest.approx(100, abs=0.1))
    assert "<script" not in page
    assert (out / "_SUCCESS.json").stat().st_mtime_ns >= (out / "_report.html").stat().st_mtime_ns


def test_only_errors_of_storage_are_worth_another_try(run: Run, bundle_uri: str) -> None:
    score_all(run, bundle_uri)
    assert with_errors(run) == [run.shards[2]], "the missing image, not the damaged one of the first shard"
