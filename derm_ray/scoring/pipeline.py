"""A bulk scoring run on Ray Data: one row per shard, one actor call per row."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import ray.exceptions
import torch

from derm_ray import __version__, runtime, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.validation import validate
from derm_ray.errors import DermRayError, ScoringError
from derm_ray.inference.engines import resolve_engine
from derm_ray.observability import Progress
from derm_ray.scoring.ledger import SUCCESS, Run, open_run, recorded_engine
from derm_ray.scoring.reconcile import Reconciliation, reconcile, seal
from derm_ray.scoring.scorer import ShardOutcome, ShardScorer
from derm_ray.scoring.shards import SHARD_SIZE, Shard

logger = logging.getLogger(__name__)

SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class ScoringResult:
    """A complete, reconciled run.

    Attributes:
        out_uri: its folder.
        counts: rows by status.
        resumed: shards that were already there.
        seconds: of this invocation.
    """

    out_uri: str
    counts: Reconciliation
    resumed: int
    seconds: float


def score(
    model_uri: str,
    manifest: Manifest,
    out_uri: str,
    *,
    engine: str = "auto",
    branches: bool = False,
    shard_size: int = SHARD_SIZE,
    replicas: int = 1,
    use_gpu: bool = False,
    address: str | None = None,
) -> ScoringResult:
    """Score every pair of a manifest, resuming where an earlier invocation stopped.

    Args:
        model_uri: a bundle.
        manifest: pairs with at least one image.
        out_uri: folder of the output.
        engine: name; ``auto`` is resolved once per run and recorded.
        branches: also write the probabilities of every prediction kind.
        shard_size: pairs per part.
        replicas: actors that score.
        use_gpu: one GPU per replica.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.

    Raises:
        ManifestError, BundleError, StorageError, OutputExistsError: before any work starts.
        ScoringError: the run stopped or does not reconcile; the same call resumes.
    """
    started = time.perf_counter()
    model_uri = storage.absolute(model_uri)
    model = load_bundle(model_uri)
    validate(manifest)
    description = {
        "derm_ray_version": __version__,
        "model_digest": model.model_digest,
        "label_set": model.label_set.name,
        "engine": _engine(engine, out_uri, use_gpu=use_gpu, address=address),
        "branches": branches,
    }
    run = open_run(out_uri, manifest, description, shard_size)
    missing = run.missing()
    if missing:
        cpus = max(1, runtime.machine_cpus() // replicas)
        with runtime.ray_session(address, num_cpus=replicas * cpus + 1) as session:
            cpus = session.cpus_each(cpus)
            session.require(cpus=replicas * cpus, gpus=replicas if use_gpu else 0)
            scorer = {
                "model_uri": model_uri,
                "engine": description["engine"],
                "manifest_uri": run.manifest_uri,
                "out_uri": run.out_uri,
                "branches": branches,
                "use_gpu": use_gpu,
            }
            outcomes = _outcomes(missing, scorer, replicas=replicas, cpus=cpus, use_gpu=use_gpu)
            _follow(run, outcomes, sum(shard.stop - shard.start for shard in missing))
    counts = reconcile(run)
    seconds = time.perf_counter() - started
    if missing or not storage.exists(storage.join(run.out_uri, SUCCESS)):
        seal(run, counts, seconds)
    return ScoringResult(run.out_uri, counts, len(run.shards) - len(missing), seconds)


def _engine(name: str, out_uri: str, *, use_gpu: bool, address: str | None) -> str:
    """Resolve ``auto`` once per run: a resume takes what was recorded, a GPU is asked where it is."""
    if name != "auto":
        return resolve_engine(name)
    if recorded := recorded_engine(out_uri):
        return recorded
    if not use_gpu:
        return resolve_engine(name, torch.device("cpu"))
    with runtime.ray_session(address) as session:
        session.require(cpus=1, gpus=1)
        asked = ray.remote(num_cpus=1, num_gpus=1)(resolve_engine).remote(name, torch.device("cuda"))
        return str(ray.get(asked))


class _ScoringActor:
    """A :class:`ShardScorer` as Ray Data calls it: one shard per call."""

    def __init__(self, **scorer: Any) -> None:
        self._scorer = ShardScorer(**scorer)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        shard = Shard(
            **{name: column[0].item() if column.dtype != object else column[0] for name, column in batch.items()}
        )
        failure = ""
        try:
            outcome = self._scorer.score(shard)
        except DermRayError as error:
            outcome, failure = ShardOutcome(shard.index, 0, 0, 0.0), str(error)
        return {name: [value] for name, value in {**outcome.to_json(), "failure": failure}.items()}


def _outcomes(
    shards: Sequence[Shard], scorer: dict[str, Any], *, replicas: int, cpus: int, use_gpu: bool
) -> Iterator[dict[str, Any]]:
    """Yield one ledger row per shard as they finish."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items([shard.to_json() for shard in shards], override_num_blocks=len(shards))
    scored = dataset.map_batches(
        _ScoringActor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(replicas, len(shards))),
        fn_constructor_kwargs=scorer,
        num_cpus=cpus,
        num_gpus=1 if use_gpu else 0,
    )
    # No prefetching: a finished shard is reported at once, not together with the next one.
    for rows in scored.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from rows.to_pylist()


def _follow(run: Run, outcomes: Iterator[dict[str, Any]], pairs: int) -> None:
    """Log progress, and stop at the first shard that could not be written."""
    progress, errors, spoken = Progress(pairs), 0, 0.0
    try:
        for row in outcomes:
            if row["failure"]:
                raise ScoringError(f"shard {row['index']}: {row['failure']} The same command resumes {run.out_uri}.")
            progress.advance(row["scored"] + row["errors"])
            errors += row["errors"]
            if progress.elapsed_s - spoken > SAY_EVERY_S or progress.done == pairs:
                spoken = progress.elapsed_s
                logger.info("%s, %d errors", progress.line(), errors)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ScoringError(f"the run stopped: {last} The same command resumes {run.out_uri}.") from error
