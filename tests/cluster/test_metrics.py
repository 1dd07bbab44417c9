"""What the dashboards and rules ask for is what a working Ray shows."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from derm_ray.data.manifest import Manifest
from derm_ray.operations.cluster import queries
from derm_ray.operations.cluster.queries import exported_metrics
from derm_ray.training.config import make_config
from derm_ray.training.run.metrics import STAGES
from derm_ray.vocabulary import Split
from tests.cluster.conftest import CLUSTER
from tests.conftest import unused_port
from tests.monitored import LIST, Shown, metrics_url, watched, work

pytestmark = pytest.mark.ray
BOARDS = sorted(CLUSTER.glob("grafana/*.json"))
EMPTY = {
    "GPUs": "this machine has none",
    "GPU memory": "this machine has none",
    "Storage asked again": "local disks do not fail",
    "Drift from the training data": "the model holds no reference",
}
"""Panels that show nothing here, and why."""


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield path.stem, panel


def expressions() -> Iterator[str]:
    for _, panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    for path in sorted(CLUSTER.glob("prometheus/*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (rule["expr"] for rule in group["rules"])


def asked() -> set[str]:
    """Return the metrics that our queries name."""
    selectors = [
        node
        for text in expressions()
        for node in queries._nodes(promql_parser.parse(queries._filled_in(text)))
        if isinstance(node, promql_parser.VectorSelector)
    ]
    return {str(node.name) for node in selectors if ":" not in str(node.name)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitored")


@pytest.fixture(scope="module")
def shown(ray_local: None, pairs: Manifest, folder: Path) -> Shown:
    with watched() as shown:
        work(pairs, folder)
    return shown


def test_every_metric_that_is_asked_for_is_shown(shown: Shown) -> None:
    listed = yaml.safe_load(LIST.read_text())
    assert {name for name in asked() - listed["unseen"].keys() if name not in shown.labels} == set()
    assert set(listed["seen"]) & set(listed["unseen"]) == set()
    assert all(entry["where"] for entry in listed["unseen"].values())


def test_the_list_tells_the_labels_that_are_shown(shown: Shown) -> None:
    seen = yaml.safe_load(LIST.read_text())["seen"]
    assert {name: set(seen[name]) - shown.labels[name] for name in asked() & seen.keys()} == {
        name: set() for name in asked() & seen.keys()
    }
    ours = {name for name in shown.labels if name.startswith("ray_derm_ray_")}
    assert {name: shown.labels[name] - exported_metrics().get(name, set()) for name in ours if name not in seen} == {}


def test_training_counts_what_it_did(shown: Shown, pairs: Manifest, folder: Path) -> None:
    batch, run = make_config("debug", {}).global_batch_size, "monitored"
    steps = 2 * (len(pairs.select(Split.TRAIN)) // batch)
    lines = map(json.loads, (folder / "runs" / run / "metrics.jsonl").read_text().splitlines())
    assert shown.total("train_starts_total", run=run) == 1
    assert shown.total("train_epochs_total", run=run) == 2
    assert shown.total("train_steps_total", run=run) == steps
    assert shown.total("train_pairs_total", run=run) == steps * batch
    assert shown.total("train_loss_total", run=run) == pytest.approx(sum(one["loss"] for one in lines if "step" in one))
    for rank in ("0", "1"):
        for stage in STAGES:
            assert shown.total("train_seconds_total", run=run, rank=rank, stage=stage) > 0, (rank, stage)


@pytest.mark.parametrize("run", ["scores-0", "scores-1"])
def test_bulk_scoring_counts_what_it_did(shown: Shown, run: str) -> None:
    assert shown.total("bulk_pairs_total", run=run, status="ok") == 47
    assert shown.total("bulk_pairs_total", run=run, status="error") == 1
    assert shown.total("bulk_errors_total", run=run) == shown.total("bulk_errors_total", run=run, code="missing") == 1
    assert shown.total("bulk_shards_total", run=run) == 3
    assert shown.total("bulk_bytes_total", run=run, direction="read") > 95 * 1000
    assert shown.total("bulk_bytes_total", run=run, direction="written") > 1000
    for stage in ("read", "decode", "infer", "write"):
        assert shown.total("bulk_seconds_total", run=run, stage=stage) > 0, stage


@pytest.mark.slow
def test_every_panel_shows_something(
    ray_local: None, pairs: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("prometheus is not there: install Debian's package")
    port = unused_port()
    url = metrics_url()
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(path) for path in CLUSTER.glob("prometheus/*.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [url.split("/")[2]]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.dump(config))
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            began = time.time()
            work(pairs, tmp_path)
            found = {
                (board, panel["title"]): [_series(port, target["expr"], began) for target in panel["targets"]]
                for board, panel in panels()
            }
            alerts = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules", timeout=30).json()["data"]["groups"]
        finally:
            server.terminate()
    for (board, title), targets in found.items():
        with capsys.disabled():
            print(f"{board:10} {title:32} {[len(series) for series in targets]}")
    assert {(board, title) for (board, title), targets in found.items() if not all(targets)} == {
        (board, title) for board, title in found if title in EMPTY
    }
    for (_, panel), targets in zip(panels(), found.values(), strict=True):
        for target, series in zip(panel["targets"], targets, strict=True):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(one.get(label) for one in series), (panel["title"], label)
    assert [rule["lastError"] for group in alerts for rule in group["rules"] if rule["health"] != "ok"] == []


def _series(port: int, text: str, began: float) -> list[dict[str, str]]:
    """Return the labels of the series that a panel's query has had since ``began``."""
    text = re.sub(r"\$__\w+", "30s", re.sub(r"\$[a-z]+", ".*", text.replace("$__rate_interval", "30s")))
    answer = httpx.get(
        f"http://127.0.0.1:{port}/api/v1/query_range",
        params={"query": text, "start": began, "end": time.time(), "step": 1},
        timeout=60,
    ).json()
    assert answer["status"] == "success", answer
    return [series["metric"] for series in answer["data"]["result"]]
