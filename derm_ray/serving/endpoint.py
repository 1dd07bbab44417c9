"""Starting, updating and stopping the endpoint, on this machine or on a cluster."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from derm_ray import ray_internals, runtime
from derm_ray.bundle import load_bundle
from derm_ray.errors import ConfigError, ServingError
from derm_ray.proxies import is_loopback
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.config import IMPORT_PATH, read_config
from derm_ray.serving.deployment import REQUEST_TIMEOUT_S, application, build, revision
from derm_ray.serving.tokens import find_tokens

APP = "derm_ray"
QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that answers.

    Attributes:
        url: where.
        update: rolls out what the bundle, or the config file, holds by now; no request fails meanwhile. Where the new
            one does not start, the old one goes on answering and :class:`DermRayError` says why.
    """

    url: str
    update: Callable[[], None]


@contextmanager
def endpoint(
    args: ServeArguments, *, host: str = "127.0.0.1", port: int = 8000, address: str | None = None
) -> Iterator[Endpoint]:
    """Serve a model for the length of a block, on this machine or on a cluster.

    On a cluster the head node listens. A Serve that runs there already keeps its own host and port and its other
    applications; the model is one more.

    Args:
        args: what to serve; ``cpus`` that are not set are an equal share of this machine, or 1 on a cluster.
        host, port: where to listen; beyond this machine with tokens only, or ``insecure``.
        address: a cluster's; ``None`` takes ``RAY_ADDRESS``, or starts a Ray on this machine where that is unset.

    Yields:
        The endpoint, once it answers.

    Raises:
        BundleError, StorageError, ConfigError: the model cannot be loaded, or the cluster cannot be joined or is too
            small; or others could call without a token.
        ServingError: host and port are taken, the cluster serves a model already, or the replicas do not start.
    """
    on_cluster = runtime.cluster_address(address) is not None
    load_bundle(args.model)
    if not on_cluster and "cpus" not in args.model_fields_set:
        args = args.model_copy(update={"cpus": max(1, runtime.machine_cpus() // args.most)})
    _check_open(host, args)
    if not on_cluster:
        _check_free(host, port)

    def deploy() -> None:
        with _one_message():
            serve.run(build(args, find_tokens(args.tokens)), name=APP, route_prefix="/", logging_config=QUIET)

    with _session(address, args, on_cluster=on_cluster):
        before = serve.status()
        if APP in before.applications:
            raise ServingError(
                "this cluster serves a model already. Stop that `derm-ray serve` first; where it was killed, on a "
                f"node: python -c \"import ray; from ray import serve; ray.init('auto'); serve.delete('{APP}')\"."
            )
        try:
            where = _start({"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S}, "HeadOnly")
            _check_open(where.host, args)
            deploy()
            yield Endpoint(_url(where), deploy)
            _drain(APP)
        finally:
            serve.delete(APP)
            if not (on_cluster and (before.proxies or serve.status().applications)):
                serve.shutdown()


@contextmanager
def configured_endpoint(config_uri: str, address: str | None = None) -> Iterator[Endpoint]:
    """Serve what a Serve config file says.

    On a cluster it is Serve's from then on: it outlasts the block, and applications that an earlier file deployed and
    this one lacks are removed. Without a cluster it is served on this machine for the length of the block.

    Args:
        config_uri: see :func:`derm_ray.serving.config.read_config`.
        address: a cluster's; ``None`` takes ``RAY_ADDRESS``, or starts a Ray on this machine where that is unset.

    Yields:
        The endpoint, once it answers.

    Raises:
        StorageError, ConfigError: the file cannot be served, or the cluster cannot be joined or is too small.
        BundleError, ServingError: as for :func:`endpoint`.
    """
    on_cluster = runtime.cluster_address(address) is not None
    config = read_config(config_uri)
    http = config.http_options.model_dump()
    if http["request_timeout_s"] is None:
        http["request_timeout_s"] = REQUEST_TIMEOUT_S
    if not on_cluster:
        _check_free(http["host"], http["port"])

    def deploy() -> None:
        asked = read_config(config_uri)
        asked.logging_config = asked.logging_config or QUIET  # Serve's own default writes callers' paths down
        args = _arguments(asked)
        if not on_cluster:
            application(args)  # its failures are clearer here than in Serve's build task
        _ours(asked).args["revision"] = revision(args)
        with _one_message():
            ray_internals.deploy_serve_config(asked)
            for app in asked.applications:
                _wait_for(app.name)

    with _session(address, _arguments(config), on_cluster=on_cluster):
        try:
            where = _start(http, config.proxy_location)
            deploy()
            ours = _ours(config)
            yield Endpoint(_url(where) + (ours.route_prefix or "").rstrip("/"), deploy)
            if not on_cluster:
                _drain(ours.name)
        finally:
            if not on_cluster:
                for name in serve.status().applications:
                    serve.delete(name)
                serve.shutdown()


def _ours(config: ServeDeploySchema) -> ServeApplicationSchema:
    return next(app for app in config.applications if app.import_path == IMPORT_PATH)


def _arguments(config: ServeDeploySchema) -> ServeArguments:
    return ServeArguments.model_validate(_ours(config).args)


@contextmanager
def _session(address: str | None, args: ServeArguments, *, on_cluster: bool) -> Iterator[None]:
    """Join a Ray that holds the replicas; on this machine, one that counts a CPU set more for updates."""
    # Ray's own 15 puts replicas behind whatever else runs; those who wait for an answer come first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with runtime.ray_session(address, num_cpus=(args.most + 1) * args.cpus + 1, local=not on_cluster) as session:
        gpus = args.replicas if args.gpu else 0
        session.require(cpus=args.replicas * args.cpus, gpus=gpus, worker_cpus=args.cpus)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        yield


def _start(http_options: dict[str, Any], proxy_location: Any) -> HTTPOptions:
    with _one_message():
        serve.start(proxy_location=proxy_location, http_options=http_options, logging_config=QUIET)
    return ray_internals.serve_http_options()


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, RayError, RayServeException) as error:
        raise ServingError(f"the endpoint did not start: {str(error).strip().splitlines()[-1]}") from error


def _drain(name: str) -> None:
    """Wait until an application has answered its requests in progress."""
    with suppress(TimeoutError, RayError, RayServeException):
        serve.get_app_handle(name).broadcast("drain").results(timeout_s=REQUEST_TIMEOUT_S)


def _wait_for(name: str) -> None:
    """Wait until an application runs."""
    while (app := serve.status().applications[name]).status is not ApplicationStatus.RUNNING:
        if app.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise RuntimeError(app.message)
        time.sleep(0.2)


def _check_open(host: str, args: ServeArguments) -> None:
    """Refuse to let others than this machine's users call without a token."""
    if find_tokens(args.tokens) is None and not args.insecure and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and there are no tokens. Give --tokens FILE "
            "(`derm-ray token ID` makes one), or say --insecure."
        )


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise ServingError(
            f"{host}:{port} cannot be listened on ({error.strerror}). Choose another --host or --port."
        ) from error


def _url(where: HTTPOptions) -> str:
    host = f"[{where.host}]" if ":" in str(where.host) else where.host
    return f"{'https' if where.ssl_certfile else 'http'}://{host}:{where.port}"
