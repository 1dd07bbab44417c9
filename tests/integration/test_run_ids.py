"""One training run, followed by its id into its model, an evaluation, scores, the endpoint and log lines."""

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from derm_ray.bundle import load_bundle
from derm_ray.cli.model import show
from derm_ray.data.inputs import MemoryInput
from derm_ray.data.manifest import Manifest
from derm_ray.domain import Split
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.report import render_html
from derm_ray.inference.predictor import Predictor
from derm_ray.observability import LOG_FORMAT_VARIABLE, configure_logging
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.scoring.reconcile import verify
from derm_ray.serving.schemas import describe_model
from derm_ray.training.config import debug
from derm_ray.training.run.driver import train
from tests.conftest import take

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


def workers_lines(run_id: str, message: str) -> list[dict[str, Any]]:
    """Lines of Ray's workers that name a run, once there is one."""
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    deadline = time.monotonic() + 20
    while True:
        texts = [path.read_text() for path in logs.glob("worker-*.err")]
        found = [json.loads(line) for text in texts for line in text.splitlines() if run_id in line and line[:1] == "{"]
        if [line for line in found if message in line["message"]] or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_a_run_id_is_followed(
    ray_local: None, pairs: Manifest, tmp_path: Path, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    few = take(pairs, 40).absolute().with_column("split", ["train"] * 20 + ["val"] * 20)
    trained = train(replace(debug(), size=32, epochs=1, global_batch_size=8), few, str(tmp_path), "run")
    run_id = trained.run_id
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run_id"] == run_id
    model = load_bundle(trained.bundle_uri)
    assert model.run_id == run_id
    assert {line["run_id"] for line in lines() if line["message"].startswith("run  epoch 1/1")} == {run_id}
    assert [line["level"] for line in workers_lines(run_id, "ready to train")] == ["INFO"]

    show(trained.bundle_uri, as_json=True)
    show(trained.bundle_uri)
    machine, _, card = capsys.readouterr().out.partition("\n")
    assert json.loads(machine)["run_id"] == run_id
    assert f"Training run: `{run_id}`" in card
    evaluation = evaluate(Predictor(model, "torch"), few, Split.VAL, resamples=2)
    assert evaluation.to_json()["provenance"]["run_id"] == run_id
    assert run_id in render_html(evaluation)

    out = tmp_path / "out"
    done = score(model.uri, MemoryInput(few), str(out), engine="torch", shard_size=20, options=ScoringOptions(1))
    assert done.run_id not in (None, run_id)
    for name in ("_RUN.json", "_SUCCESS.json"):
        recorded = json.loads((out / name).read_text())
        assert (recorded["run_id"], recorded["model_run_id"]) == (done.run_id, run_id)
    assert str(done.run_id) in (out / "_report.html").read_text()
    assert lines()[-1]["run_id"] == done.run_id
    assert [line["level"] for line in workers_lines(str(done.run_id), "ready to score")] == ["INFO"]
    assert verify(str(out)).pairs == 40
    again = score(model.uri, MemoryInput(few), str(out), engine="torch", shard_size=20, options=ScoringOptions(1))
    assert (again.run_id, again.resumed) == (done.run_id, 2)

    assert describe_model(model, "torch", card).run_id == run_id
