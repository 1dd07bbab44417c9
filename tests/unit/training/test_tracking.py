import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from derm_ray.errors import ConfigError
from derm_ray.training.run import tracking
from derm_ray.training.run.tracking import RUN_ID, TrackedRun, send_to, tracking_uri

EPOCH = [
    {"epoch": 1, "step": 1, "loss": 2.0, "elapsed_s": 0.1},
    {"epoch": 1, "step": 2, "loss": 1.0, "elapsed_s": 0.2},
    {"epoch": 1, "loss": 1.5, "cross/accuracy": 0.25},
]
NEXT = [
    {"epoch": 2, "step": 1, "loss": 0.5, "elapsed_s": 0.3},
    {"epoch": 2, "loss": 0.5, "cross/accuracy": 0.5},
]


class Store:
    """A run's folder, and a real MLflow database."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "first"
        self.run.mkdir()
        self.uri = tracking_uri(f"mlflow:sqlite:///{folder}/mlflow.db")
        self.tracked = TrackedRun(str(self.run), "first", "id1", {"epochs": 2}, {"manifest": "m"}, "derm_ray_paper15")

    def history(self, lines: list[dict[str, Any]]) -> None:
        (self.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def bundle(self) -> None:
        (self.run / "bundle").mkdir()
        (self.run / "bundle" / "bundle.json").write_text("{}")
        self.tracked.best = {"cross/accuracy": 0.5}

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    def only(self) -> Any:
        (run,) = self.client.search_runs([self.client.get_experiment_by_name("derm_ray").experiment_id])
        return run

    def logged(self, key: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in self.client.get_metric_history(self.only().info.run_id, key)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts beside a database
    return Store(tmp_path)


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_a_stopped_and_resumed_run_is_one_run_with_each_point_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LAST_S", 60.0)  # a new database takes its time on a busy machine

    def interrupted() -> None:
        with send_to(store.uri, store.tracked):
            store.history([*EPOCH, NEXT[0]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.only().info.status == "KILLED"
    store.history(EPOCH)  # the checkpoint is older than what was reported
    with send_to(store.uri, store.tracked):
        store.history([*EPOCH, *NEXT])
        store.bundle()
    run = store.only()
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "first", {"epochs": "2"})
    assert run.data.tags.items() >= {RUN_ID: "id1", "manifest": "m"}.items()
    assert store.logged("step/loss") == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert store.logged("epoch/cross/accuracy") == [(1, 0.25), (2, 0.5)]
    assert run.data.metrics["best/cross/accuracy"] == 0.5
    assert [f.path for f in store.client.list_artifacts(run.info.run_id, "bundle")] == ["bundle/bundle.json"]
    (version,) = store.client.search_model_versions("name = 'derm_ray_paper15'")
    assert (version.run_id, version.tags[RUN_ID]) == (run.info.run_id, "id1")


@pytest.mark.filterwarnings("default")
def test_points_are_sent_while_training_and_caught_up_after_an_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(tracking, "INTERVAL_S", 0.01)
    send, away, tried, recovered = MlflowClient.log_batch, threading.Event(), threading.Event(), threading.Event()

    def log_batch(self: Any, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if away.is_set():
            tried.set()
            raise ConnectionError("gone\nfor a while")
        send(self, run_id, metrics, params)
        if tried.is_set():
            recovered.set()

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with caplog.at_level("INFO", "derm_ray"), send_to(store.uri, store.tracked):
        away.set()
        store.history(EPOCH)
        assert tried.wait(30)
        tried.clear()
        assert tried.wait(30)
        away.clear()
        assert recovered.wait(30)
        store.history([*EPOCH, *NEXT])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{store.uri}: MLflow cannot be reached: gone. Training continues; its metrics are sent later."]
    assert store.logged("step/loss") == [(1, 2.0), (2, 1.0), (3, 0.5)]


@pytest.mark.filterwarnings("default")
def test_a_server_that_never_answers_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    uri = tracking_uri(f"mlflow:http://127.0.0.1:{port}")
    with send_to(uri, TrackedRun(str(tmp_path), "n", "i", {}, {}, "m")):
        pass
    assert f"It is complete in {tmp_path}." in caplog.text


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mlflow", "Give mlflow:URI"),
        ("wandb:project", "unknown tracker 'wandb'"),
        ("mlflow:", "mlflow:: not a tracking server"),
        ("mlflow:./mlruns", "not a tracking server. Give mlflow:http"),
    ],
)
def test_what_is_no_tracking_server_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tracking_uri(target)


def test_mlflow_that_is_not_installed_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'derm-ray\[mlflow\]'"):
        tracking_uri("mlflow:sqlite:///m.db")
