"""Reconciliation: proof that a bulk run's output contains every pair exactly once."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from derm_ray import storage
from derm_ray.domain import Modality
from derm_ray.errors import ImageErrorCode, ScoringError, StorageError, counted
from derm_ray.scoring.ledger import MANIFEST, RUN, SALIENCY, SUCCESS, Run, part_name, readable, recorded_run
from derm_ray.scoring.shards import PairReader, Shard, row_line

READERS = 8
BINS = 20
RETRYABLE = frozenset(
    {
        ImageErrorCode.STORAGE,
        ImageErrorCode.TIMEOUT,
        ImageErrorCode.FORBIDDEN,
        ImageErrorCode.MISSING,
        ImageErrorCode.CRASH,
    }
)
"""Codes that may disappear by themselves or after a fix of the storage; ``--retry-errors`` scores them again."""

_READ = ("pair_id", "status", "error_code", "modality", "flags", "diagnosis", "confidence", "model_digest", "scored_at")


@dataclass
class Reconciliation:
    """Totals over all parts of a complete run.

    Attributes:
        pairs: rows, equal to the input's.
        scored, errors: rows by status; they add up to ``pairs``.
        error_codes, modalities, diagnoses, flags: value -> rows.
        confidence: rows per bin of 0..1, :data:`BINS` bins.
        parts: file name -> SHA-256.
        times: (seconds since 1970, rows) of every part, in order of time.
    """

    pairs: int = 0
    scored: int = 0
    errors: int = 0
    error_codes: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    diagnoses: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    parts: dict[str, str] = field(default_factory=dict)
    times: list[tuple[float, int]] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return rows in all, by status, code, modality, flag and diagnosis, as JSON types."""
        names = ("pairs", "scored", "errors", "error_codes", "modalities", "flags", "diagnoses")
        return {name: dict(v) if isinstance(v := getattr(self, name), Counter) else v for name in names}

    def add(self, name: str, digest: str, table: pa.Table) -> None:
        """Count one part."""
        for column, counter in (
            ("error_code", self.error_codes),
            ("modality", self.modalities),
            ("diagnosis", self.diagnoses),
        ):
            counter.update(_count(table[column]))
        for flags, count in _count(table["flags"]).items():
            self.flags.update(dict.fromkeys(flags.split(), count))
        status = _count(table["status"])
        self.pairs += table.num_rows
        self.scored += status.get("ok", 0)
        self.errors += status.get("error", 0)
        confidence = table["confidence"].drop_null().to_numpy()
        if not np.isfinite(confidence).all():
            raise ScoringError(
                f"{name}: some scores are not numbers: the model computes NaN for these images. Do not use the scores. "
                "To find out whether the engine is the cause, score with --engine torch into another --out."
            )
        bins = np.minimum(confidence * BINS, BINS - 1).astype(int)
        self.confidence = (np.bincount(bins, minlength=BINS) + self.confidence).tolist()
        self.parts[name] = digest
        self.times.append((pc.max(table["scored_at"]).as_py().timestamp(), table.num_rows))


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    """Return value -> rows, nulls left out."""
    counts = pc.value_counts(column.drop_null())
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def reconcile(run: Run) -> Reconciliation:
    """Compare every part with the rows of its shard; memory holds a few parts.

    Raises:
        ScoringError: a part is missing, foreign, or does not match its shard.
    """
    if missing := run.missing():
        raise ScoringError(
            f"{run.out_uri}: {len(missing)} of {counted(len(run.shards), 'shard')} without a part. The same command "
            "resumes."
        )
    expected = {part_name(shard, run.description.format) for shard in run.shards}
    names = storage.list_folder(run.out_uri)
    if foreign := [name for name in names if name not in expected and not name.startswith(("_", "."))]:
        raise ScoringError(
            f"{run.out_uri}: {foreign[0]} does not belong to this run. Move it out of the folder and try again."
        )
    total = Reconciliation()
    for shard, digest, table in _parts(run):
        total.add(part_name(shard, run.description.format), digest, table)
    total.times.sort()
    return total


def _parts(run: Run) -> Iterator[tuple[Shard, str, pa.Table]]:
    """Yield every part, read and compared with its shard."""
    schema = run.description.schema
    overlays = [f"{modality}_saliency" for modality in Modality] if run.description.saliency else []
    names = [*_READ, *overlays]

    def read(wanted: tuple[Shard, pa.ChunkedArray]) -> tuple[Shard, str, pa.Table]:
        shard, ids = wanted
        uri = run.part_uri(shard)
        again = "Remove the file; the same command scores its pairs again."
        with readable(uri, again):
            data = storage.read_bytes(uri)
            table = run.description.part_format.decode(data, schema, names)
        if table["pair_id"].combine_chunks() != ids.combine_chunks():
            raise ScoringError(f"{uri} does not contain the pairs {shard.start}..{shard.stop} of the input. {again}")
        if pc.unique(table["model_digest"]).to_pylist() != [run.description.model_digest]:
            raise ScoringError(f"{uri} contains scores of another model. {again}")
        if overlays:
            named = {path for name in overlays for path in table[name].drop_null().to_pylist()}
            folder = f"{SALIENCY}/{shard.index:06d}"
            there = {f"{folder}/{name}" for name in storage.list_folder(storage.join(run.out_uri, folder))}
            if lost := named - there:
                raise ScoringError(f"{run.out_uri}: {min(lost)} is missing. {again.replace('the file', uri)}")
        return shard, storage.sha256(data), table

    wanted = PairReader(run.manifest_uri).ids(iter(run.shards))
    with ThreadPoolExecutor(READERS) as executor:
        while chunk := list(islice(wanted, 4 * READERS)):
            yield from executor.map(read, chunk)


def with_errors(run: Run) -> list[Shard]:
    """Return the shards with errors that may disappear on a retry; see :data:`RETRYABLE`."""
    missing = set(run.missing())
    found = replace(run, shards=tuple(shard for shard in run.shards if shard not in missing))
    return [shard for shard, _, table in _parts(found) if RETRYABLE & set(table["error_code"].to_pylist())]


def verify(out_uri: str) -> Reconciliation:
    """Check a finished run again: its input's digest, every part's rows, and the digests in ``_SUCCESS.json``.

    Raises:
        StorageError: there is no run.
        ScoringError: the run is not finished, or something changed since.
    """
    run = recorded_run(out_uri)
    if run is None:
        raise StorageError(f"{out_uri}: no scoring run there (no {RUN}). Give the --out folder of `derm-ray score`.")
    _check_input(run)
    found = reconcile(run)
    success_uri = storage.join(run.out_uri, SUCCESS)
    if not storage.exists(success_uri):
        raise ScoringError(
            f"{run.out_uri}: all parts exist, but the run is not finished. The same command finishes it."
        )
    again = "Remove the file; the same command writes it again."
    with readable(success_uri, again):
        sealed = storage.read_json(success_uri)
        changed = [name for name, digest in found.parts.items() if sealed["parts"].get(name) != digest]
        other = [key for key, value in {**run.to_json(), **found.counts()}.items() if sealed[key] != value]
    if changed:
        raise ScoringError(
            f"{run.out_uri}: {counted(len(changed), 'part')} changed after the run ended (first: {changed[0]}). Remove "
            f"them and {SUCCESS}; the same command scores their pairs again."
        )
    if other:
        raise ScoringError(f"{success_uri}: {', '.join(other)} does not match the parts and {RUN}. {again}")
    return found


def _check_input(run: Run) -> None:
    """Check that the shards are those of the description, and their rows those of the input."""
    total = hashlib.sha256()
    run_digest = storage.digest(asdict(run.description)).encode()
    reader = PairReader(run.manifest_uri)
    for shard in run.shards:
        lines = b"".join(row_line(pair) for pair in reader.read(shard))
        total.update(lines)
        if hashlib.sha256(run_digest + lines).hexdigest() != shard.digest:
            raise ScoringError(
                f"{run.out_uri}: shard {shard.index} does not match {RUN} and {MANIFEST}. Restore these files, or "
                "score into another folder."
            )
    if total.hexdigest() != run.source["digest"]:
        raise ScoringError(
            f"{run.manifest_uri} does not match the input in {RUN}. Restore it, or score into another folder."
        )
