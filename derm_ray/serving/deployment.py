"""The endpoint on Ray Serve: an ingress that decodes, and model replicas that batch."""

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from derm_ray import runtime, storage
from derm_ray.bundle import CARD, load_bundle
from derm_ray.data.preprocessing import PairPixels
from derm_ray.errors import ConfigError, ServingError
from derm_ray.inference.engines import resolve_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, overlay_files
from derm_ray.observability import configure_logging
from derm_ray.serving.api import create_app
from derm_ray.serving.problems import ApiError
from derm_ray.serving.schemas import describe_model
from derm_ray.serving.tokens import Tokens
from derm_ray.vocabulary import Modality, Prediction

APP = "derm_ray"
MAX_BATCH = 16
MAX_QUEUED = 64
REQUEST_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1
UPSCALE_DELAY_S = 10.0
DOWNSCALE_DELAY_S = 300.0


T = TypeVar("T")


class ModelReplica:
    """One predictor; requests that are waiting are answered in one forward pass."""

    def __init__(self, model_uri: str, engine: str, use_gpu: bool) -> None:
        bundle = load_bundle(model_uri)
        device = torch.device("cuda" if use_gpu else "cpu")
        self._predictor = Predictor(bundle, engine, batch_size=MAX_BATCH, device=device)
        self._mapper = SaliencyMapper(bundle, device) if bundle.network.cam is not None else None
        # The first pass is slow; it is over before Serve calls the replica ready.
        blank = np.zeros((bundle.preprocessing.size, bundle.preprocessing.size, 3), np.uint8)
        self._predictor.predict([PairPixels(blank, blank)])

    # No waiting: a batch is what has queued while the last one ran.
    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def predict(self, pairs: list[PairPixels]) -> list[Prediction]:
        """Answer a batch, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, self._predictor.predict, pairs)

    async def overlays(self, pair: PairPixels) -> dict[Modality, bytes]:
        """Return the overlay of every image given, as PNG files."""
        assert self._mapper is not None, "the application asks for maps of models that have them"
        return await asyncio.get_running_loop().run_in_executor(None, overlay_files, self._mapper, pair)

    async def ready(self) -> None:
        """Answer: a replica that answers has loaded and warmed its model."""


class Ingress:
    """Speaks HTTP and decodes images."""

    def __init__(self, replica: DeploymentHandle, model_uri: str, engine: str, tokens: Tokens | None) -> None:
        self._replica = replica
        self._bundle = load_bundle(model_uri)
        self._card = storage.read_bytes(storage.join(model_uri, CARD)).decode()
        self._engine = engine
        self._tokens = tokens
        configure_logging()  # the access log goes to this replica's log file

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application on the replica, when Serve asks for it."""
        return create_app(
            lambda pair: _asked(self._replica.predict.remote(pair)),
            lambda pair: _asked(self._replica.overlays.remote(pair)),
            lambda: _asked(self._replica.ready.remote()),
            describe_model(self._bundle, self._engine, self._card),
            self._bundle.preprocessing,
            tokens=self._tokens,
        )


async def _asked(answer: Awaitable[T]) -> T:
    """Wait for a model replica; where all of them are busy, refuse at once."""
    try:
        return await answer
    except BackPressureError:
        raise ApiError(503, "busy", "All replicas are busy. Try again.", {"retry-after": str(RETRY_AFTER_S)}) from None


@contextmanager
def endpoint(
    model_uri: str,
    *,
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    max_replicas: int | None = None,
    use_gpu: bool = False,
    address: str | None = None,
    tokens: Tokens | None = None,
    insecure: bool = False,
) -> Iterator[str]:
    """Serve a model for the length of a block, on this machine or on a cluster.

    On a cluster the head node listens. A Serve that runs there already keeps its own host and port and its other
    applications; the model is one more.

    Args:
        model_uri: a bundle.
        engine: name.
        host, port: where to listen.
        replicas: of the model.
        max_replicas: how many there may be under load; ``None`` keeps ``replicas``.
        use_gpu: one GPU per replica.
        address: a cluster's; ``None`` takes ``RAY_ADDRESS``, or starts a Ray on this machine where that is unset.
        tokens: who may call; ``None`` lets everybody in who reaches the port.
        insecure: listen beyond this machine without tokens.

    Yields:
        The endpoint's URL, once it answers.

    Raises:
        BundleError, StorageError, ConfigError: the model cannot be loaded, or the cluster cannot be joined or is too
            small; or others could call without a token.
        ServingError: host and port are taken, the cluster serves a model already, or the replicas do not start.
    """
    on_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    most = max_replicas or replicas
    if most < replicas:
        raise ConfigError(f"--max-replicas {most} is below --replicas {replicas}.")
    model_uri = storage.absolute(model_uri)
    load_bundle(model_uri)
    engine = resolve_engine(engine, torch.device("cuda" if use_gpu else "cpu"))
    if not on_cluster:
        _check_open(host, tokens, insecure=insecure)
        _check_free(host, port)
    cpus = 1 if on_cluster else max(1, runtime.machine_cpus() // most)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    with runtime.ray_session(address, num_cpus=most * cpus + 1, local=not on_cluster) as session:
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
                where = serve.context._get_global_client().http_config
                _check_open(where.host, tokens, insecure=insecure)
                serve.run(
                    _application(model_uri, engine, tokens, replicas=(replicas, most), cpus=cpus, use_gpu=use_gpu),
                    name=APP,
                    route_prefix="/",
                    logging_config=quiet,
                )
            except (RuntimeError, RayError, RayServeException) as error:
                raise ServingError(f"the endpoint did not start: {str(error).strip().splitlines()[-1]}") from error
            yield f"http://{where.host}:{where.port}"
        finally:
            others = set(serve.status().applications) - {APP}
            if on_cluster and (before.proxies or others):
                serve.delete(APP)
            else:
                serve.shutdown()


def _application(
    model_uri: str, engine: str, tokens: Tokens | None, *, replicas: tuple[int, int], cpus: int, use_gpu: bool
) -> serve.Application:
    """Return the deployments with their limits; ``replicas`` are the least and the most of the model.

    A model replica takes two batches, one running and one waiting; what waits beyond that is bounded, and what comes
    then is refused at once. The ingress holds more than all of these, so that it is the model that refuses, with a
    problem document; beyond that Serve answers a plain 503.
    """
    busy = BackpressureConfig(retry_after_s=RETRY_AFTER_S)
    least, most = replicas
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=MAX_BATCH,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=DOWNSCALE_DELAY_S,
    )
    model = serve.deployment(
        ModelReplica,
        autoscaling_config=scaling,
        max_ongoing_requests=2 * MAX_BATCH,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=busy,
        ray_actor_options={"num_cpus": cpus, "num_gpus": 1 if use_gpu else 0},
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        max_ongoing_requests=2 * (MAX_QUEUED + 2 * MAX_BATCH * most),
        max_queued_requests=MAX_QUEUED,
        backpressure_config=busy,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(model.bind(model_uri, engine, use_gpu), model_uri, engine, tokens)


def _check_open(host: str, tokens: Tokens | None, *, insecure: bool) -> None:
    """Refuse to let others than this machine's users call without a token."""
    if tokens is None and not insecure and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and there are no tokens. Give --tokens FILE "
            "(`derm-ray token ID` makes one), or say --insecure."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"{host}:{port} cannot be listened on ({error.strerror}). Choose another --host or --port."
            ) from error
