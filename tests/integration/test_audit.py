"""The audit through its command, on a real Ray."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.audit import running
from derm_ray.audit.audit import audit
from derm_ray.audit.fingerprint import Fingerprints
from derm_ray.audit.report import write_audit
from derm_ray.cli import app
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.manifest import Manifest, read_manifest, write_manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.validation import validate
from derm_ray.domain import MILK10K
from tests.conftest import RealData, take
from tests.duplicates import PLANTED, plant

pytestmark = pytest.mark.ray


def _run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["data", "audit", *arguments, "--json"])
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_planted_duplicates_are_leaks_until_they_are_dropped(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    few = split_manifest(take(pairs, 60)).manifest
    planted = plant(few, str(tmp_path / "planted"), 14)
    rows = planted.manifest.table.to_pylist()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(rows[0]["clinical_uri"]).read_bytes()[:400])
    uris = planted.manifest.column("dermoscopy_uri")
    unused = next(
        row for row, one in enumerate(rows) if one["pair_id"] not in {name for name, _ in planted.copies.values()}
    )
    manifest = planted.manifest.with_column(
        "dermoscopy_uri", [str(broken) if row == unused else uri for row, uri in enumerate(uris)]
    )
    write_manifest(manifest, manifest.uri)

    code, found = _run(manifest.uri, "--out", str(tmp_path / "audit"), "--fix", str(tmp_path / "fixed.parquet"))
    assert (code, found["leak"]) == (1, True)
    assert found["counts"]["duplicates_across_splits"] == found["counts"]["near_duplicates"] == 14
    assert found["counts"]["unreadable"] == 1
    assert sorted(found["dropped"]) == sorted(planted.copies)
    table = pq.read_table(tmp_path / "audit" / "findings.parquet").to_pylist()
    by_number: dict[int, set[str]] = {}
    for row in table:
        if row["finding"] == "duplicates_across_splits":
            by_number.setdefault(row["number"], set()).add(row["pair_id"])
    assert sorted(map(sorted, by_number.values())) == sorted(
        sorted((copy, original)) for copy, (original, _) in planted.copies.items()
    )
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("<img ") >= 28
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "damaged or truncated" in page

    fixed = read_manifest(str(tmp_path / "fixed.parquet"))
    validate(fixed)
    code, found = _run(fixed.uri, "--out", str(tmp_path / "again"), "--no-images")
    assert (code, found["leak"], found["counts"]["near_duplicates"]) == (0, False, 0)
    assert "<img " not in (tmp_path / "again" / "audit.html").read_text()


@pytest.mark.slow
def test_a_process_that_dies_on_an_image_costs_that_image_only(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(task: tuple[int, list[str]]) -> tuple[int, Fingerprints]:
        import os

        if "deadly" in task[1]:
            os._exit(1)
        return task[0], Fingerprints.empty(len(task[1]))

    monkeypatch.setattr(running, "_fingerprint", deadly)
    monkeypatch.setattr(running, "IMAGES", 3)
    found = running.fingerprint_all(["a", "b", "c", "d", "deadly", "e", "f"])
    assert {index: code for index, (code, _) in found.errors.items()} == {4: "crash"}


@pytest.mark.slow
@pytest.mark.real_data
def test_planted_near_duplicates_of_real_photos_are_found(ray_local: None, real_data: RealData, tmp_path: Path) -> None:
    """At least 195 of 200; among the given lesions at most 5 pairs, of which one is a photo that was given twice."""
    whole = split_manifest(import_milk10k(real_data.milk10k, MILK10K, "m.parquet").manifest).manifest
    planted = plant(whole, str(tmp_path))
    found = audit(planted.manifest)
    write_audit(found, str(tmp_path / "audit"))
    ids = planted.manifest.column("pair_id")
    groups = [{str(ids[row]) for row in group.rows} for group in found.duplicates]
    assert sum(
        any({copy, original} <= group for group in groups) for copy, (original, _) in planted.copies.items()
    ) >= (PLANTED - 5)
    given = [group - planted.copies.keys() for group in groups]
    assert sum(len(group) - 1 for group in given if group) <= 5
