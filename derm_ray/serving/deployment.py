"""The endpoint on Ray Serve: an ingress that decodes, and model replicas that batch."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from derm_ray import runtime, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import PairPixels
from derm_ray.errors import ServingError
from derm_ray.inference.engines import resolve_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.serving.api import create_app
from derm_ray.serving.schemas import describe_model
from derm_ray.vocabulary import Prediction

APP = "derm_ray"
MAX_BATCH = 16
MAX_QUEUED = 64
REQUEST_TIMEOUT_S = 30.0


class ModelReplica:
    """One predictor; requests that are waiting are answered in one forward pass."""

    def __init__(self, model_uri: str, engine: str, use_gpu: bool) -> None:
        bundle = load_bundle(model_uri)
        device = torch.device("cuda" if use_gpu else "cpu")
        self._predictor = Predictor(bundle, engine, batch_size=MAX_BATCH, device=device)
        # The first pass is slow; it is over before Serve calls the replica ready.
        blank = np.zeros((bundle.preprocessing.size, bundle.preprocessing.size, 3), np.uint8)
        self._predictor.predict([PairPixels(blank, blank)])

    # No waiting: a batch is what has queued while the last one ran.
    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def __call__(self, pairs: list[PairPixels]) -> list[Prediction]:
        """Answer a batch, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, self._predictor.predict, pairs)


class Ingress:
    """Speaks HTTP and decodes images."""

    def __init__(self, replica: DeploymentHandle, model_uri: str, engine: str) -> None:
        self._replica = replica
        self._bundle = load_bundle(model_uri)
        self._engine = engine

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application on the replica, when Serve asks for it."""
        model = describe_model(self._bundle, self._engine)
        return create_app(self._score, model, self._bundle.preprocessing)

    async def _score(self, pair: PairPixels) -> Prediction:
        prediction: Prediction = await self._replica.remote(pair)
        return prediction


@contextmanager
def endpoint(
    model_uri: str,
    *,
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    use_gpu: bool = False,
    address: str | None = None,
) -> Iterator[str]:
    """Serve a model for the length of a block, on this machine or on a cluster.

    On a cluster the head node listens. A Serve that runs there already keeps its own host and port and its other
    applications; the model is one more.

    Args:
        model_uri: a bundle.
        engine: name.
        host, port: where to listen.
        replicas: of the model.
        use_gpu: one GPU per replica.
        address: a cluster's; ``None`` takes ``RAY_ADDRESS``, or starts a Ray on this machine where that is unset.

    Yields:
        The endpoint's URL, once it answers.

    Raises:
        BundleError, StorageError, ConfigError: the model cannot be loaded, or the cluster cannot be joined or is too
            small.
        ServingError: host and port are taken, the cluster serves a model already, or the replicas do not start.
    """
    on_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    model_uri = storage.absolute(model_uri)
    load_bundle(model_uri)
    engine = resolve_engine(engine, torch.device("cuda" if use_gpu else "cpu"))
    if not on_cluster:
        _check_free(host, port)
    cpus = 1 if on_cluster else max(1, runtime.machine_cpus() // replicas)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    with runtime.ray_session(address, num_cpus=replicas * cpus + 1, local=not on_cluster) as session:
        session.require(cpus=replicas * cpus, gpus=replicas if use_gpu else 0, worker_cpus=cpus)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        before = serve.status()
        if APP in before.applications:
            raise ServingError("this cluster serves a model already. Stop that `derm-ray serve` first.")
        try:
            try:
                serve.start(
                    proxy_location="HeadOnly",
                    http_options={"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S},
                    logging_config=quiet,
                )
                serve.run(
                    _application(model_uri, engine, replicas=replicas, cpus=cpus, use_gpu=use_gpu),
                    name=APP,
                    route_prefix="/",
                    logging_config=quiet,
                )
            except (RuntimeError, RayError, RayServeException) as error:
                raise ServingError(f"the endpoint did not start: {str(error).strip().splitlines()[-1]}") from error
            where = serve.context._get_global_client().http_config
            yield f"http://{where.host}:{where.port}"
        finally:
            others = set(serve.status().applications) - {APP}
            if on_cluster and (before.proxies or others):
                serve.delete(APP)
            else:
                serve.shutdown()


def _application(model_uri: str, engine: str, *, replicas: int, cpus: int, use_gpu: bool) -> serve.Application:
    """Return the deployments with their limits; a replica takes two batches, one running and one waiting."""
    model = serve.deployment(
        ModelReplica,
        num_replicas=replicas,
        max_ongoing_requests=2 * MAX_BATCH,
        max_queued_requests=MAX_QUEUED,
        ray_actor_options={"num_cpus": cpus, "num_gpus": 1 if use_gpu else 0},
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        max_ongoing_requests=4 * MAX_BATCH,
        max_queued_requests=MAX_QUEUED,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(model.bind(model_uri, engine, use_gpu), model_uri, engine)


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"{host}:{port} cannot be listened on ({error.strerror}). Choose another --host or --port."
            ) from error
