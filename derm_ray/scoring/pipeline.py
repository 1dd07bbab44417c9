"""A bulk scoring run on Ray Data: one row per shard, one actor call per row; with decoders, two stages of actors."""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import ray
import ray.data
import ray.exceptions
import torch

from derm_ray import __version__, local_files, ray_internals, runtime, storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.data.inputs import Input
from derm_ray.data.locations import Locations
from derm_ray.errors import ScoringError, counted
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.engines.selection import resolve_engine, resolve_engine_of
from derm_ray.inference.saliency import require_cam
from derm_ray.lease import Lease, hold
from derm_ray.observability import ProgressLine, WorkerLogs, working_for
from derm_ray.ray_rows import dataset_of, objects
from derm_ray.scoring.actor import ScoringActor
from derm_ray.scoring.decoder import DecodingActor
from derm_ray.scoring.formats import part_format
from derm_ray.scoring.ledger import (
    ATTEMPTS,
    INVOCATIONS,
    SUCCESS,
    Run,
    RunDescription,
    check_folder,
    open_run,
    recorded_run,
)
from derm_ray.scoring.metrics import RunMetrics
from derm_ray.scoring.parts import PartWriter, ShardOutcome, StageTimes, assemble
from derm_ray.scoring.reconcile import Reconciliation, reconcile, with_errors
from derm_ray.scoring.report import complete_run
from derm_ray.scoring.shards import SHARD_SIZE, Shard

MAX_ERROR_RATE = 0.5
JUDGED_PAIRS = 100
CHUNK_BYTES = 32_000_000
"""Most pixels that a decoder passes on at once; a single pair may be larger."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringOptions:
    """Execution options of a run; they do not affect scores.

    Attributes:
        replicas: scoring actors; ``None`` is as many as fit on the cluster, or one on a local Ray.
        decoders: actors of one CPU each that read and decode, on any node; with 0 the replicas do it.
        gpus_per_replica: 0 scores on CPUs; may be a fraction.
        max_error_rate: share of error rows, 0..1, above which the run stops: judged over an invocation's rows from 100
            on, and over all rows at the end.
        retry_errors: also score again the parts with errors of storage.
        allow_prefixes: folders that images may be read from; see :class:`derm_ray.data.locations.Locations`.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.
    """

    replicas: int | None = None
    gpus_per_replica: float = 0.0
    max_error_rate: float = MAX_ERROR_RATE
    retry_errors: bool = False
    allow_prefixes: Sequence[str] = ()
    address: str | None = None
    decoders: int = 0


@dataclass(frozen=True)
class ScoringResult:
    """A complete, reconciled run: ``resumed`` shards existed already, ``seconds`` are those of this invocation."""

    out_uri: str
    run_id: str
    counts: Reconciliation
    resumed: int
    seconds: float


def score(
    model_uri: str,
    source: Input,
    out_uri: str,
    *,
    engine: str | Engine = "auto",
    per_input_predictions: bool = False,
    saliency: bool = False,
    output_format: str = "parquet",
    shard_size: int = SHARD_SIZE,
    options: ScoringOptions | None = None,
) -> ScoringResult:
    """Score every pair of an input, resuming where an earlier invocation stopped.

    Args:
        model_uri: a bundle.
        source: the pairs; pairs with one image are scored by its stream.
        out_uri: folder of the output.
        engine: name, or an engine that can be pickled; ``auto`` is resolved once per run and recorded.
        per_input_predictions: also write the probabilities of every prediction kind.
        saliency: also write overlays of the CAM network's maps.
        output_format: ``parquet``, ``csv`` or ``jsonl``.
        shard_size: pairs per part.
        options: how the work is done.

    Raises:
        ManifestError, BundleError, StorageError, ConfigError: before any work starts.
        OutputExistsError: the output is another run's, or another process is writing it.
        ScoringError: the run stopped or does not reconcile; the same call resumes.
    """
    started = time.perf_counter()
    options = options or ScoringOptions()
    model_uri, out_uri = storage.absolute(model_uri), storage.absolute(out_uri)
    fingerprint = source.fingerprint()  # an input that is not there is refused before engines are measured
    model = load_bundle(model_uri)
    part_format(output_format)
    if saliency:
        require_cam(model)
    check_folder(out_uri)
    with hold(storage.join(out_uri, INVOCATIONS)) as lease:
        resolved = _engine(engine, model, out_uri, options)
        description = RunDescription(
            model_digest=model.model_digest,
            label_set=model.label_set.name,
            engine=resolved if isinstance(resolved, str) else resolved.name,
            per_input_predictions=per_input_predictions,
            saliency=saliency,
            format=output_format,
            shard_size=shard_size,
        )
        locations = Locations(source.uri, options.allow_prefixes)
        run = open_run(out_uri, source, description, locations, fingerprint, model)
        with working_for(run.run_id):
            counts, resumed = _complete(run, model, resolved, options, lease)
    return ScoringResult(out_uri, run.run_id, counts, resumed, time.perf_counter() - started)


def _complete(
    run: Run, model: Bundle, engine: str | Engine, options: ScoringOptions, lease: Lease
) -> tuple[Reconciliation, int]:
    """Score the missing shards, reconcile and finish; return the counts, and the number of existing shards."""
    out_uri = run.out_uri
    lease.note(derm_ray_version=__version__, submission_id=ray_internals.submission_id())
    todo = run.missing()
    if options.retry_errors:
        todo = sorted([*todo, *with_errors(run)], key=lambda shard: shard.index)
    logger.info("run %s: %d of %s to score", run.run_id, len(todo), counted(len(run.shards), "shard"))
    if todo:
        storage.remove(storage.join(out_uri, SUCCESS))
        _score_shards(run, todo, model, engine, options, lease)
    lease.check()
    if storage.is_local(out_uri):  # object stores keep no incomplete writes
        local_files.remove_temporary(out_uri)
    storage.remove_tree(storage.join(out_uri, ATTEMPTS))
    counts = reconcile(run)
    _judge(run, counts.errors, counts.pairs, options.max_error_rate)
    lease.check()
    if todo or not storage.exists(storage.join(out_uri, SUCCESS)):
        complete_run(run, counts, lease)
    return counts, len(run.shards) - len(todo)


def _engine(engine: str | Engine, model: Bundle, out_uri: str, options: ScoringOptions) -> str | Engine:
    """Resolve the engine once per run, where it will run; ``auto`` reuses the recorded engine of the run."""
    if not isinstance(engine, str):
        return engine
    if engine == "auto" and (run := recorded_run(out_uri)):
        engine = run.description.engine
    gpus = options.gpus_per_replica
    if not gpus and not runtime.cluster_address(options.address):
        return resolve_engine(model, engine, torch.device("cpu"))
    device = torch.device("cuda" if gpus else "cpu")
    with runtime.ray_session(options.address) as session:
        session.require(cpus=1, gpus=gpus, worker_gpus=gpus)
        return runtime.run_remote(resolve_engine_of, model.uri, engine, device, num_gpus=gpus)


def _score_shards(
    run: Run, todo: list[Shard], model: Bundle, engine: str | Engine, options: ScoringOptions, lease: Lease
) -> None:
    machine, decoders = runtime.machine_cpus(), min(options.decoders, len(todo))
    wanted = (options.replicas or 1) + decoders
    with runtime.ray_session(options.address, num_cpus=max(machine, wanted) + 1) as session:
        gpus = options.gpus_per_replica
        replicas = min(options.replicas or _replicas(session, gpus, decoders), len(todo))
        cpus = session.cpus_each(max(1, (machine - decoders) // replicas))
        if decoders and gpus:
            cpus = 0  # otherwise decoders could occupy the CPUs of a GPU node, and its replica would never start
        session.require(
            cpus=replicas * cpus + decoders, gpus=replicas * gpus, worker_cpus=max(1, cpus), worker_gpus=gpus
        )
        logs = WorkerLogs.like_here(run.run_id)
        scorer = {
            "model_uri": model.uri,
            "engine": engine,
            "out_uri": run.out_uri,
            "description": run.description,
            "use_gpu": gpus > 0,
            "lease_uri": lease.uri,
            "threads": max(1, cpus),
            "logs": logs,
        }
        dataset = dataset_of(todo)
        if decoders:
            # Any block is larger than a byte, so that each chunk is one: blocks end between rows.
            dataset.context.target_max_block_size = 1
            dataset = dataset.flat_map(
                DecodingActor,
                compute=_pool(decoders),
                fn_constructor_args=(run.out_uri, model.preprocessing, CHUNK_BYTES, logs),
                num_cpus=1,
            )
        scored = dataset.map(
            ScoringActor, compute=_pool(replicas), fn_constructor_kwargs=scorer, num_cpus=cpus, num_gpus=gpus
        )
        running = objects(scored)
        if decoders:
            running = assemble(running, todo, PartWriter(run.out_uri, run.description, lease.uri))
        # Ray Data must have stopped before Ray does: its threads would join any other Ray of the machine.
        with closing(running) as outcomes:
            _follow(run, todo, outcomes, options, lease)


def _replicas(session: runtime.RaySession, gpus_per_replica: float, decoders: int) -> int:
    """Return the number of replicas that fit on the cluster: by its GPUs, or one per CPU; one on a local Ray."""
    there = ray.cluster_resources()
    if gpus_per_replica:
        return max(1, int(there.get("GPU", 0) / gpus_per_replica))
    return 1 if session.started_here else max(1, int(there.get("CPU", 1)) - decoders)


def _pool(actors: int) -> ray.data.ActorPoolStrategy:
    return ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)


def _follow(
    run: Run, todo: Sequence[Shard], outcomes: Iterator[ShardOutcome], options: ScoringOptions, lease: Lease
) -> None:
    """Show progress, update the lease's record, and stop on failures."""
    pairs = sum(map(len, todo))
    progress, errors, stages = ProgressLine(run.pairs, run.pairs - pairs), 0, StageTimes()
    resumes = f"The same command resumes {run.out_uri}."
    try:
        with RunMetrics(run.out_uri, pairs) as metrics:
            for outcome in outcomes:
                if outcome.failure:
                    raise ScoringError(f"shard {outcome.shard.index}: {outcome.failure} {resumes}")
                errors += outcome.errors
                done = progress.show(outcome.scored + outcome.errors, counted(errors, "error"))
                metrics.shard(outcome)
                stages = StageTimes.total((stages, outcome.times))
                lease.note(pairs=done, errors=errors, seconds=progress.elapsed_s, stages=stages._asdict())
                lease.check()
                # Retried shards are errors by definition; the whole run is checked at its end.
                if done >= JUDGED_PAIRS and not options.retry_errors:
                    _judge(run, errors, done, options.max_error_rate)
    except ray.exceptions.RayError as error:
        raise ScoringError(f"the run stopped: {_reason(error)} {resumes}") from error
    finally:
        progress.end()


def _reason(error: BaseException) -> str:
    """Return the last line of a Ray error, without the advice on its own settings that Ray Data appends."""
    text = re.split(r"(?:\n|\\n)Failed to [^\n]* attempts \(total backoff", str(error))[0]
    return (text.strip().splitlines() or [type(error).__name__])[-1]


def _judge(run: Run, errors: int, pairs: int, max_error_rate: float) -> None:
    """Stop a run in which too many pairs are errors."""
    if errors > max_error_rate * pairs:
        raise ScoringError(
            f"{errors:,} of {counted(pairs, 'pair')} failed, more than --max-error-rate {max_error_rate:g}. See "
            f"error_code and error_message in {run.out_uri}. Fix the cause and run the same command with "
            "--retry-errors, or accept the errors with a larger --max-error-rate."
        )
