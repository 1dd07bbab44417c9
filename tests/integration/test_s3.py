"""The whole path against a real S3 endpoint: import, train, evaluate, score; and the run's id all the way."""

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from derm_ray import storage
from derm_ray.bundle import load_bundle
from derm_ray.cli.model import show
from derm_ray.data.importers.folder import import_folder
from derm_ray.data.manifest import Manifest, read_manifest, write_manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.data.validation import validate
from derm_ray.domain import PAPER15, Split
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.report import write_evaluation
from derm_ray.inference.predictor import Predictor
from derm_ray.observability import LOG_FORMAT_VARIABLE, configure_logging
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.scoring.reconcile import verify
from derm_ray.serving.schemas import describe_model
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train
from tests.inputs import MemoryInput

pytestmark = pytest.mark.ray
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What this process logs, as JSON."""
    told, logger = io.StringIO(), logging.getLogger("derm_ray")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.setenv(LOG_FORMAT_VARIABLE, "json")
    monkeypatch.setattr(sys, "stderr", told)
    configure_logging()
    yield lambda: [json.loads(line) for line in told.getvalue().splitlines()]
    logger.handlers[:], logger.level, logger.propagate = before


def workers_lines(run_id: str, message: str, count: int) -> list[dict[str, Any]]:
    """Lines of Ray's workers that name a run and hold a message, once there are so many."""
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    deadline = time.monotonic() + 20
    while True:
        texts = [path.read_text() for path in logs.glob("worker-*.err")]
        found = [json.loads(line) for text in texts for line in text.splitlines() if run_id in line and line[:1] == "{"]
        found = [line for line in found if message in line["message"]]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.fixture(scope="module")
def archive(ray_local: None, s3: str) -> Manifest:
    """150 pairs in a bucket, imported from a CSV that lies there, split."""
    drawn = synthesize(f"{s3}/archive", 150, PAPER15)
    listing = drawn.table.select(["lesion_id", "clinical_uri", "dermoscopy_uri", "diagnosis"]).to_pandas()
    storage.write_bytes(f"{s3}/archive/list.csv", listing.to_csv(index=False).encode())
    imported = import_folder(f"{s3}/archive/list.csv", PAPER15, f"{s3}/manifests/m.csv").manifest
    write_manifest(split_manifest(imported).manifest, f"{s3}/manifests/m.csv")
    manifest = read_manifest(f"{s3}/manifests/m.csv")
    validate(manifest, PAPER15, complete=tuple(Split))
    return manifest


def test_a_run_id_is_followed_through_a_bucket(
    archive: Manifest, s3: str, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(make_config("debug", {"epochs": 2, "size": 32}), archive, f"{s3}/runs", "first", workers=2)
    run_id = trained.run_id
    assert trained.bundle_uri == f"{s3}/runs/first/bundle"
    checkpoints = {uri.split("/")[5] for uri in storage.list_files(trained.run_uri) if "/checkpoint_epoch_" in uri}
    assert "checkpoint_epoch_0002" in checkpoints
    assert storage.exists(f"{trained.run_uri}/metrics.jsonl")
    assert storage.read_json(f"{trained.run_uri}/config.json")["run_id"] == run_id
    model = load_bundle(trained.bundle_uri)
    assert model.run_id == run_id
    assert {line["run_id"] for line in lines() if line["message"].startswith("first  epoch 2/2")} == {run_id}
    assert [line["level"] for line in workers_lines(run_id, "ready to train", 2)] == ["INFO", "INFO"]

    show(trained.bundle_uri, as_json=True)
    show(trained.bundle_uri)
    machine, _, card = capsys.readouterr().out.partition("\n")
    assert json.loads(machine)["run_id"] == run_id
    assert f"Training run: `{run_id}`" in card
    evaluation = evaluate(Predictor(model, "torch"), archive, resamples=2)
    document, page = write_evaluation(evaluation, f"{s3}/evaluation")
    assert storage.read_json(document)["provenance"]["run_id"] == run_id
    assert run_id in storage.read_bytes(page).decode()

    out, options = f"{s3}/scores", ScoringOptions(1)
    done = score(model.uri, MemoryInput(archive), out, engine="torch", shard_size=64, options=options)
    assert (done.counts.scored, done.resumed) == (150, 0)
    assert done.run_id not in (None, run_id)
    for name in ("_RUN.json", "_SUCCESS.json"):
        recorded = storage.read_json(f"{out}/{name}")
        assert (recorded["run_id"], recorded["model_run_id"]) == (done.run_id, run_id)
    assert str(done.run_id) in storage.read_bytes(f"{out}/_report.html").decode()
    assert lines()[-1]["run_id"] == done.run_id
    assert [line["level"] for line in workers_lines(str(done.run_id), "ready to score", 1)] == ["INFO"]
    parts = [uri for uri in storage.list_files(out) if uri.endswith(".parquet") and "/part-" in uri]
    assert [sum(len(pd.read_parquet(uri)) for uri in parts), len(parts)] == [verify(out).pairs, 3]
    again = score(model.uri, MemoryInput(archive), out, engine="torch", shard_size=64, options=options)
    assert (again.run_id, again.resumed) == (done.run_id, 3)

    assert describe_model(model, "torch", card).run_id == run_id
