"""The Serve application: replicas that speak HTTP and answer for their model."""

import logging
from functools import partial

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from derm_ray import runtime, storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.errors import ConfigError
from derm_ray.inference.engines.selection import differs, resolve_engine, resolve_engine_of
from derm_ray.observability import WorkerLogs, configure_logging
from derm_ray.serving.api import create_app
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.body import Limits
from derm_ray.serving.metrics import RequestMetrics
from derm_ray.serving.middleware import Checks, access
from derm_ray.serving.model import MAX_BATCH, MAX_PAIRS, ServedModel
from derm_ray.serving.recorder import Recorder
from derm_ray.serving.tokens import Tokens, find_tokens

logger = logging.getLogger(__name__)

DEPLOYMENT = "ModelReplica"
"""Name of the deployment, as config files know it."""
MAX_ONGOING = 4 * MAX_PAIRS
"""Requests at a replica, more than it ever admits: where this bound is reached, Serve's router sleeps up to 0.5 s."""
MAX_QUEUED = MAX_PAIRS
"""Requests that wait in each of Serve's proxies for a replica to be chosen, or to come up."""
REQUEST_TIMEOUT_S = 30.0
MEASURE_S = 1800.0
"""How long a node is waited for that measures engines: until a cluster has grown by one."""
RETRY_AFTER_S = 1
UPSCALE_DELAY_S = 10.0
DOWNSCALE_DELAY_S = 300.0
SURGE_PERCENT = 25
"""Of the replicas, rounded up: how many more run while a new version takes over."""
CPU_ONGOING = 4
"""Requests at each replica above which another one is started. A pass of a CPU over many pairs takes as long as one
pass for each, so that waiting gains nothing; a GPU is worth filling with :data:`MAX_BATCH`."""
STARTS = 3
"""How often a replica is started that does not come up, before an update is given up."""


class ModelReplica:
    """Speaks HTTP for a model of its own, so that no queue lies between admission and the model's batches.

    Args:
        args: with the engine's name resolved.
        model_digest: of the bundle.
        tokens: who may call; ``None`` lets everybody in.
        logs: how it logs.
    """

    def __init__(self, args: ServeArguments, model_digest: str, tokens: Tokens | None, logs: WorkerLogs) -> None:
        logs.begin()
        self._recorder = Recorder()
        self._model = ServedModel(args, model_digest, self._recorder)
        self._checks = Checks(
            tokens,
            Limits(answer_s=REQUEST_TIMEOUT_S, per_s=args.rate),
            observe=RequestMetrics(self._recorder).request,
            log=partial(self._recorder.later, access.info),
        )
        configure_logging(log_format=logs.log_format)  # the access log goes to this replica's log file

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application on the replica, when Serve asks for it."""
        return create_app(self._model, self._checks)

    async def drain(self) -> None:
        """Refuse new requests, wait for those under way, and record them."""
        await self._checks.traffic.drain()
        self._recorder.flush()


def revision(args: ServeArguments) -> str:
    """Return a digest of the model and the tokens that lie at an application's URIs now.

    Serve compares an application's arguments only, and would keep a revoked token and an exchanged model.
    """
    tokens = find_tokens(args.tokens)
    hashes = {name: known.hex() for name, known in tokens.hashes.items()} if tokens else None
    return storage.digest({"given": args.revision, "model": load_bundle(args.model).model_digest, "tokens": hashes})


def application(args: ServeArguments) -> serve.Application:
    """Build the Serve application; config files name this function in ``import_path``.

    Raises:
        BundleError, StorageError, ConfigError: the model or the tokens cannot be read, or there are no tokens and
            ``insecure`` is not said.
    """
    tokens = find_tokens(args.tokens)
    if tokens is None and not args.insecure:
        raise ConfigError(
            "there are no tokens. Give `tokens: URI` (`derm-ray token ID` makes one) or `insecure: true`."
        )
    return build(args, tokens)


def _engine(args: ServeArguments, bundle: Bundle) -> str:
    """Resolve the engine where replicas run: Serve builds an application on the head, which may lack GPUs.

    Raises:
        WorkError: no node had room to measure on in time.
    """
    device = torch.device("cuda" if args.gpu else "cpu")
    if not differs(args.engine) or not runtime.has_several_nodes():
        return resolve_engine(bundle, args.engine, device)
    return runtime.run_remote(
        resolve_engine_of,
        bundle.uri,
        args.engine,
        device,
        num_cpus=args.cpus,
        num_gpus=1 if args.gpu else 0,
        timeout_s=MEASURE_S,
        fix="name the engine instead of auto, such as torch-bf16",
    )


def build(args: ServeArguments, tokens: Tokens | None) -> serve.Application:
    """Bind the deployment with its limits.

    A replica admits what it can answer in time and refuses the rest with a problem document. A new version's replicas
    answer before old ones leave, and those end what they have begun.
    """
    bundle = load_bundle(args.model)
    if not bundle.reference:
        logger.info(
            "%s: the endpoint exports no drift metrics, because this bundle has no reference distributions. They need "
            "more training lesions; see `docs/guides/drift.md`.",
            bundle.uri,
        )
    args = args.model_copy(update={"model": bundle.uri, "engine": _engine(args, bundle)})
    scaling = AutoscalingConfig(
        min_replicas=args.replicas,
        max_replicas=args.most,
        target_ongoing_requests=MAX_BATCH if args.gpu else CPU_ONGOING,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=DOWNSCALE_DELAY_S,
    )
    replicas = serve.deployment(
        serve.ingress()(ModelReplica),
        name=DEPLOYMENT,
        autoscaling_config=scaling,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        max_surge_percent=SURGE_PERCENT,
        graceful_shutdown_timeout_s=REQUEST_TIMEOUT_S,
        max_constructor_retry_count=STARTS,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": 1 if args.gpu else 0},
    )
    return replicas.bind(args, bundle.model_digest, tokens, WorkerLogs.like_here(bundle.run_id))
