"""What the dashboards and rules ask for is what a working Ray shows, and what it shows is true."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from derm_ray.data.manifest import Manifest
from derm_ray.domain import Split
from derm_ray.training.config import make_config
from derm_ray.training.run.metrics import STAGES
from tests.cluster.queries import CLUSTER, LIST, asked, dashboards, exported_metrics
from tests.conftest import unused_port
from tests.monitored import Shown, make_pairs, metrics_url, watched, work

pytestmark = [pytest.mark.ray, pytest.mark.slow]
EMPTY = {
    "GPUs": "this machine has none",
    "GPU memory": "this machine has none",
    "Storage retries": "local disks do not fail",
}
"""Panels that may show nothing here, and why."""
Panels = list[tuple[str, dict[str, Any]]]


def panels() -> Panels:
    return [(name, panel) for name, board in dashboards().items() for panel in board["panels"]]


@dataclass
class Observed:
    """One Ray at work, as seen by a plain scraper and by Prometheus."""

    shown: Shown
    folder: Path
    series: list[list[list[dict[str, str]]]]
    """For each panel, of each of its queries, the labels of the series that it had; empty without Prometheus."""
    rules: list[dict[str, Any]]


@contextmanager
def prometheus(folder: Path) -> Iterator[str | None]:
    """A real Prometheus with our rules, which scrapes the Ray each second; returns its address."""
    if (program := shutil.which("prometheus")) is None:
        yield None
        return
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(path) for path in CLUSTER.glob("prometheus/*.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [metrics_url().split("/")[2]]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.dump(config))
    address = f"127.0.0.1:{unused_port()}"
    files = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with subprocess.Popen(
        [program, *files, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield f"http://{address}/api/v1"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def observed(ray_local: None, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    folder, began = tmp_path_factory.mktemp("monitored"), time.time()
    with prometheus(folder) as url:
        with watched() as shown:
            work(manifest, folder)
        if url is None:
            return Observed(shown, folder, [], [])
        series = [[_series(url, target["expr"], began) for target in panel["targets"]] for _, panel in panels()]
        groups = httpx.get(f"{url}/rules", timeout=30).json()["data"]["groups"]
    return Observed(shown, folder, series, [rule for group in groups for rule in group["rules"]])


def _series(url: str, text: str, began: float) -> list[dict[str, str]]:
    text = re.sub(r"\$[a-z]+", ".*", re.sub(r"\$__\w+", "30s", text))
    asked = {"query": text, "start": str(began), "end": str(time.time()), "step": "1"}
    answer = httpx.get(f"{url}/query_range", params=asked, timeout=60).json()
    assert answer["status"] == "success", answer
    return [series["metric"] for series in answer["data"]["result"]]


def test_every_metric_that_is_asked_for_is_shown(observed: Observed) -> None:
    listed = yaml.safe_load(LIST.read_text())
    assert {name for name in asked() - listed["unseen"].keys() if name not in observed.shown.labels} == set()
    assert set(listed["seen"]) & set(listed["unseen"]) == set()
    assert all(entry["where"] for entry in listed["unseen"].values())


def test_the_list_tells_the_labels_that_are_shown(observed: Observed) -> None:
    seen, labels = yaml.safe_load(LIST.read_text())["seen"], observed.shown.labels
    assert {name: wrong for name in asked() & seen.keys() if (wrong := set(seen[name]) - labels[name])} == {}
    ours = {name for name in labels if name.startswith("ray_derm_ray_")}
    assert ours - exported_metrics().keys() == set()


def test_training_counts_what_it_did(observed: Observed, manifest: Manifest) -> None:
    shown, run = observed.shown, "monitored"
    batch = make_config("debug", {}).global_batch_size
    steps = 2 * (len(manifest.select(Split.TRAIN)) // batch)
    lines = [json.loads(line) for line in (observed.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    assert shown.total("train_starts_total", run=run) == 1
    assert shown.total("train_epochs_total", run=run) == 2
    assert shown.total("train_steps_total", run=run) == steps
    assert shown.total("train_pairs_total", run=run) == steps * batch
    assert shown.total("train_loss_total", run=run) == pytest.approx(sum(one["loss"] for one in lines if "step" in one))
    for rank in ("0", "1"):
        for stage in STAGES:
            assert shown.total("train_seconds_total", run=run, rank=rank, stage=stage) > 0, (rank, stage)


@pytest.mark.parametrize("run", ["scores-0", "scores-1"])
def test_bulk_scoring_counts_what_it_did(observed: Observed, run: str) -> None:
    shown = observed.shown
    assert shown.total("bulk_pairs_total", run=run, status="ok") == pytest.approx(2 * 47)
    assert shown.total("bulk_pairs_total", run=run, status="error") == pytest.approx(2)
    assert shown.total("bulk_errors_total", run=run) == shown.total("bulk_errors_total", run=run, code="missing") == 2
    assert shown.total("bulk_shards_total", run=run) == 2 * 3
    assert shown.total("bulk_bytes_total", run=run, direction="read") > 2 * 95 * 1000
    assert shown.total("bulk_bytes_total", run=run, direction="written") > 1000
    for stage in ("read", "decode", "infer", "write"):
        assert shown.total("bulk_seconds_total", run=run, stage=stage) > 0, stage


def test_every_panel_shows_something_and_names_it(observed: Observed) -> None:
    if not observed.series:
        pytest.skip("prometheus is not there: install Debian's package")
    for (board, panel), targets in zip(panels(), observed.series, strict=True):
        assert all(targets) or panel["title"] in EMPTY, (board, panel["title"])
        for target, series in zip(panel["targets"], targets, strict=True):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(one.get(label) for one in series), (board, panel["title"], label)
    assert [rule["lastError"] for rule in observed.rules if rule["health"] != "ok"] == []
