"""The Serve application: an ingress that speaks HTTP, and model replicas that batch."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TypeVar

import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from derm_ray import runtime, storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.errors import ConfigError
from derm_ray.inference.engines.selection import resolve_engine, resolve_engine_of
from derm_ray.observability import WorkerLogs, configure_logging
from derm_ray.serving.api import MAX_BODY_BYTES, create_app
from derm_ray.serving.guard import Limits, Traffic, busy
from derm_ray.serving.metrics import RequestMetrics
from derm_ray.serving.model import MAX_BATCH, Answered, ServedModel
from derm_ray.serving.problems import ApiError
from derm_ray.serving.room import Room
from derm_ray.serving.schemas import Model, Score
from derm_ray.serving.tokens import Tokens, find_tokens

logger = logging.getLogger(__name__)

INGRESS, MODEL = "Ingress", "ModelReplica"
"""Names of the deployments, as config files know them."""
MAX_QUEUED = 64
WAIT_S = 10.0
"""The longest expected wait with which a pair is let in; :data:`MAX_QUEUED` bounds what comes before that is known."""
REQUEST_TIMEOUT_S = 30.0
MEASURE_S = 1800.0
"""How long a node is waited for that measures engines: until a cluster has grown by one."""
BURST_S = 5.0
"""Seconds of a token's rate that it may use at once."""
RETRY_AFTER_S = 1
UPSCALE_DELAY_S = 10.0
DOWNSCALE_DELAY_S = 300.0
SURGE_PERCENT = 25
"""Of the replicas, rounded up: how many more run while a new version takes over."""
DESCRIBED_S = 1.0
"""How long an answer to what the model is holds."""
DESCRIBE_S = 5.0
"""How long it is waited for."""
CPU_ONGOING = 4
"""Pairs at each replica above which another one is started. A pass of a CPU over many pairs takes as long as one pass
for each, so that waiting gains nothing; a GPU is worth filling with :data:`MAX_BATCH`."""
STARTS = 3
"""How often a replica is started that does not come up, before an update is given up."""

NOT_READY = ApiError(503, "not_ready", "No replica answers. Try again.", {"retry-after": "5"})

T = TypeVar("T")


class ServeArguments(BaseModel):
    """What to serve, and how: ``args`` of an application in a Serve config file.

    Attributes:
        model: URI of a bundle.
        engine: name.
        gpu: one GPU per replica.
        cpus: of each replica; its threads.
        replicas: of the model.
        max_replicas: how many there may be under load; ``None`` keeps ``replicas``.
        tokens: URI of a token file; ``None`` takes the variable ``DERM_RAY_TOKENS``.
        insecure: let everybody in.
        rate: requests a second that one token may keep up, at each ingress replica; five times as many at once.
        revision: another value rolls out what lies at the same URIs; ``derm-ray serve`` fills in :func:`revision`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: str = "auto"
    gpu: bool = False
    cpus: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    tokens: str | None = None
    insecure: bool = False
    rate: float = Field(20.0, gt=0)
    revision: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> "ServeArguments":
        if self.most < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self

    @property
    def most(self) -> int:
        """The most replicas there may be."""
        return self.replicas if self.max_replicas is None else self.max_replicas


class Replicas:
    """The model replicas, as the application asks them.

    Args:
        handle: of their deployment.
        room: counts the pairs they are asked about.
    """

    def __init__(self, handle: DeploymentHandle, room: Room) -> None:
        self._handle = handle
        self._room = room
        self._known: Model | None = None
        self._asking: asyncio.Task[Model] | None = None
        self._asked_at = 0.0

    async def score(self, clinical: bytes | None, dermoscopy: bytes | None, saliency: bool) -> Answered:
        """See :class:`derm_ray.serving.api.Backend`."""
        if wait_s := self._room.retry_after_s():  # many heads may have passed before the first was counted
            raise busy(wait_s)
        with self._room.taken() as pair:
            answered: Answered = await _asked(self._handle.score.remote(clinical, dermoscopy, saliency))
            pair.tells_speed = isinstance(answered.result, Score)
            if self._known is not None and self._known.model_digest != answered.model_digest:
                self._asking = None  # another model took over
            return answered

    async def describe(self) -> Model:
        """See :class:`derm_ray.serving.api.Backend`.

        However many ask, a replica is asked once a second; busy ones are as they were.
        """
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked_at > DESCRIBED_S):
            self._asking, self._asked_at = asyncio.create_task(_asked(self._handle.describe.remote())), now
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # or asyncio reports it
        asking = self._asking
        try:
            self._known = await asyncio.wait_for(asyncio.shield(asking), DESCRIBE_S)
        except TimeoutError:
            if self._asking is asking:
                self._asking = None  # its replica may be on a node that went without a word: ask another one
            raise NOT_READY from None
        except ApiError as error:
            if error.code != "busy" or self._known is None:
                raise
        return self._known


async def _asked(answer: Awaitable[T]) -> T:
    """Wait for a replica; where all are busy, this one is lost, or none comes up, say so at once."""
    try:
        return await answer
    except DeploymentUnavailableError:
        raise NOT_READY from None
    except BackPressureError:
        raise busy(RETRY_AFTER_S) from None
    except RayActorError:
        again = {"retry-after": str(RETRY_AFTER_S)}
        raise ApiError(503, "replica_lost", "The replica at work on this ended. Try again.", again) from None


class Ingress:
    """Speaks HTTP."""

    def __init__(self, replicas: DeploymentHandle, tokens: Tokens | None, rate: float, logs: WorkerLogs) -> None:
        self._room = Room(WAIT_S)
        self._replicas = Replicas(replicas, self._room)
        self._tokens = tokens
        self._limits = Limits(
            MAX_BODY_BYTES, answer_s=REQUEST_TIMEOUT_S, per_s=rate, burst=max(1, round(BURST_S * rate))
        )
        self._traffic = Traffic()
        configure_logging(log_format=logs.log_format)  # the access log goes to this replica's log file

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application on the replica, when Serve asks for it."""
        return create_app(
            self._replicas,
            tokens=self._tokens,
            limits=self._limits,
            traffic=self._traffic,
            room=self._room,
            observe=RequestMetrics().request,
        )

    async def drain(self) -> None:
        """Refuse new requests, and wait for those under way."""
        await self._traffic.drain()


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
    if args.engine not in ("auto", "compiled") or not runtime.has_several_nodes():
        return resolve_engine(bundle, args.engine, device)
    return runtime.run_remote(
        resolve_engine_of,
        bundle.uri,
        args.engine,
        device,
        num_cpus=args.cpus,
        num_gpus=1 if args.gpu else 0,
        timeout_s=MEASURE_S,
        mend="name the engine instead of auto, such as torch-bf16",
    )


def build(args: ServeArguments, tokens: Tokens | None) -> serve.Application:
    """Bind the deployments with their limits.

    A model replica takes two batches, one running and one being decoded; what waits beyond that is bounded, and what
    comes then is refused at once. The ingress holds more than all of these, so that it is the model that refuses, with
    a problem document; beyond that Serve answers a plain 503. A new version's replicas answer before old ones leave,
    and those end what they have begun.
    """
    uri = storage.absolute(args.model)
    bundle = load_bundle(uri)
    if not bundle.reference:
        logger.info("%s holds no reference of its training data: drift is not counted", uri)
    engine = _engine(args, bundle)
    common = {
        "max_queued_requests": MAX_QUEUED,
        "backpressure_config": BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        "max_surge_percent": SURGE_PERCENT,
        "graceful_shutdown_timeout_s": REQUEST_TIMEOUT_S,
        "max_constructor_retry_count": STARTS,
    }
    scaling = AutoscalingConfig(
        min_replicas=args.replicas,
        max_replicas=args.most,
        target_ongoing_requests=MAX_BATCH if args.gpu else CPU_ONGOING,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=DOWNSCALE_DELAY_S,
    )
    model = serve.deployment(
        ServedModel,
        name=MODEL,
        autoscaling_config=scaling,
        max_ongoing_requests=2 * MAX_BATCH,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": 1 if args.gpu else 0},
        **common,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        num_replicas=2 if runtime.has_several_nodes() else 1,  # each on its own node where Serve can
        max_ongoing_requests=2 * (MAX_QUEUED + 2 * MAX_BATCH * args.most),
        ray_actor_options={"num_cpus": 0},
        **common,
    )
    logs = WorkerLogs.like_here(bundle.run_id)
    replicas = model.bind(uri, bundle.model_digest, engine, args.gpu, args.cpus, logs)
    return ingress.bind(replicas, tokens, args.rate, WorkerLogs.like_here(None))
