"""A run in MLflow: the driver sends what ``metrics.jsonl`` has gained, so that no worker waits for the server."""

import importlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.training.config import TrainConfig
from derm_ray.training.run.folder import BUNDLE
from derm_ray.training.run.worker import METRICS
from derm_ray.training.tensorboard import points

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
METRICS_PER_REQUEST = 500
"""Beside one more epoch; MLflow takes 1000."""
LAST_S = 5.0
"""How long a run that was stopped waits for its last metrics to be sent."""
RUN_ID = "derm_ray.run_id"
"""Tag by which a resumed run finds itself."""

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # MLflow's own are 7 and 120: points are sent again anyway.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def tracking_uri(target: str) -> str:
    """Return the tracking URI of ``mlflow:URI``.

    Raises:
        ConfigError: it is none, or MLflow is not installed.
    """
    kind, separator, uri = target.partition(":")
    if not separator or kind != "mlflow":
        raise ConfigError(f"--track: {unknown_name('tracker', kind, ('mlflow',))} Give mlflow:URI.")
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"--track {target}: not a tracking server. Give mlflow:http://HOST:PORT, or a database such as "
            "mlflow:sqlite:///mlflow.db."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("mlflow")
    except ImportError as error:
        raise ConfigError("--track needs the package mlflow-skinny: pip install 'derm-ray[mlflow]'") from error
    return uri


@dataclass
class TrackedRun:
    """What is sent beside metrics.

    Attributes:
        run_uri, name: the run's folder, and its name in MLflow.
        run_id: of derm_ray, which a resumed run keeps.
        params: setting -> value.
        tags: of the run.
        model: name of the registered model that the bundle becomes a version of.
        best: metrics of the best epoch, once there is a bundle.
    """

    run_uri: str
    name: str
    run_id: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    model: str
    best: Mapping[str, float] | None = None

    @classmethod
    def of(cls, run_uri: str, name: str, run_id: str, config: TrainConfig, manifest: Manifest) -> "TrackedRun":
        """Return what a training run is tracked as; there is one registered model per label set."""
        tags = {"run": run_uri, "manifest": manifest.uri, "manifest_digest": manifest.digest}
        return cls(run_uri, name, run_id, config.to_json(), tags, f"derm_ray_{config.label_set}")


@contextmanager
def send_to(uri: str | None, run: TrackedRun) -> Iterator[None]:
    """Send a run's metrics to MLflow while the block runs, and at its end the bundle, where ``run.best`` is set then.

    A server that does not answer is one warning; what is missing is sent once it does.
    """
    if uri is None:
        yield
        return
    sender = _Sender(uri, run)
    ended, status = threading.Event(), "FINISHED"

    def work() -> None:
        while not ended.wait(INTERVAL_S):
            sender.attempt()
        sender.attempt(status)

    thread = threading.Thread(target=copy_context().run, args=(work,), name="tracking", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        ended.set()
        thread.join(LAST_S)
        raise
    ended.set()
    thread.join()


@dataclass
class _Sender:
    uri: str
    run: TrackedRun
    id: str | None = None
    sent: dict[str, int] = field(default_factory=dict)
    seen: float | None = None
    away: bool = False

    def attempt(self, status: str | None = None) -> None:
        """Send what is new, and the end of the run where a status is given; whatever fails is logged."""
        try:
            if status is not None:
                self.seen = None  # some storages know the time of a change to a second only
            self._send()
            if status is not None:
                self._end(status)
        except Exception as error:  # of MLflow, its database or its HTTP client
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            if status is not None:
                logger.warning(
                    "%s: not all of the run was sent to MLflow: %s. It is complete in %s.",
                    self.uri,
                    reason,
                    self.run.run_uri,
                )
            elif not self.away:
                logger.warning(
                    "%s: MLflow cannot be reached: %s. Training continues; its metrics are sent later.",
                    self.uri,
                    reason,
                )
            self.away = True
        else:
            if self.away:
                logger.info("%s: MLflow has all metrics again", self.uri)
            self.away = False

    def _send(self) -> None:
        from mlflow.entities import Metric

        client = self._client()
        run_id = self.id or self._begin(client)
        uri = storage.join(self.run.run_uri, METRICS)
        if not storage.exists(uri) or ((modified := storage.modified(uri)) is not None and modified == self.seen):
            return
        now, waiting = int(time.time() * 1000), []
        lines = [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
        new = [line for line in points(lines) if line[0][1] > self.sent.get(_kind(line[0][0]), 0)]
        for number, line in enumerate(new, 1):
            waiting += [Metric(tag, value, now, at) for tag, at, value in line]
            if len(waiting) >= METRICS_PER_REQUEST or number == len(new):
                client.log_batch(run_id, waiting)
                self.sent |= {_kind(metric.key): metric.step for metric in waiting}
                waiting = []
        self.seen = modified

    def _client(self) -> Any:
        from mlflow import MlflowClient

        client = MlflowClient(self.uri, self.uri)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return client

    def _begin(self, client: Any) -> str:
        """Return the id of the run in MLflow, a new one unless it has been there before."""
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "derm_ray")
        experiment = client.get_experiment_by_name(name)
        at = experiment.experiment_id if experiment else client.create_experiment(name)
        found = client.search_runs([at], f"tags.`{RUN_ID}` = '{self.run.run_id}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
            for kind in ("step", "epoch"):
                history = client.get_metric_history(run_id, f"{kind}/loss")
                self.sent[kind] = max((metric.step for metric in history), default=0)
        else:
            tags = {RUN_ID: self.run.run_id, **self.run.tags}
            run_id = str(client.create_run(at, tags=tags, run_name=self.run.name).info.run_id)
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in self.run.params.items()])
        self.id = run_id
        return run_id

    def _end(self, status: str) -> None:
        client, run_id = self._client(), self.id
        if self.run.best is not None:
            for name, value in self.run.best.items():
                client.log_metric(run_id, f"best/{name}", value)
            self._register(client)
        client.set_terminated(run_id, status)

    def _register(self, client: Any) -> None:
        """Add the bundle to the run's artifacts, and as a version of the model."""
        source = storage.join(self.run.run_uri, BUNDLE)
        with tempfile.TemporaryDirectory() as folder:
            for uri in storage.list_files(source):
                (Path(folder) / uri.rpartition("/")[2]).write_bytes(storage.read_bytes(uri))
            client.log_artifacts(self.id, folder, BUNDLE)
        if not client.search_registered_models(f"name = '{self.run.model}'"):
            client.create_registered_model(self.run.model)
        artifacts = client.get_run(self.id).info.artifact_uri
        client.create_model_version(
            self.run.model, f"{artifacts}/{BUNDLE}", self.id, tags={RUN_ID: self.run.run_id, **self.run.tags}
        )


def _kind(tag: str) -> str:
    return tag.partition("/")[0]
