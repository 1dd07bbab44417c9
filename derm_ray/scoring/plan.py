"""Planning: cutting an input into shards, and writing the run's own copy of its rows."""

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.bundle import Bundle
from derm_ray.data.archives.address import container, is_sequential
from derm_ray.data.inputs import Input
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import PatientReader
from derm_ray.data.prepared import require_size
from derm_ray.data.validation import attribute_problems, row_problems
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ManifestError
from derm_ray.scoring.shards import COLUMNS, Shard, pair_schema, row_line

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 1000
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Plan(NamedTuple):
    """An input cut into shards, with the SHA-256 of all rows' ids and image URIs, in order."""

    digest: str
    shards: tuple[Shard, ...]


def make_plan(
    source: Input,
    run: dict[str, Any],
    shard_size: int,
    manifest_uri: str | None,
    locations: Locations,
    *,
    csv: bool = False,
    model: Bundle | None = None,
) -> Plan:
    """Check every row, cut the input and write the run's own copy of it, one Parquet row group per shard.

    Memory holds one piece of the input, one shard and a 16-byte hash per row (about 60 bytes where they are sorted).

    Args:
        source, locations: the pairs, and the allow-list of images.
        run: model, engine and options, as JSON; part of every shard's digest.
        shard_size: rows per shard, the last one shorter; all pairs of one ``.tar.gz`` are one shard, since its stream
            is read once.
        manifest_uri: of the copy; ``None`` writes none.
        csv: the scores will be opened as CSV: ids must not begin a formula.
        model: prepared images must have its input size; the patient data that it uses is copied too.

    Raises:
        ManifestError: rows that break the rules; up to 1,000 are listed, and nothing is written.
        ConfigError: the images were prepared at another size.
    """
    problems: list[str] = []
    ids = _Ids()
    total = hashlib.sha256()
    run_digest = storage.digest(run).encode()
    shards: list[Shard] = []
    patient = model.patient if model is not None else None
    reader = PatientReader(patient) if patient is not None else None
    schema = pair_schema(patient)
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
        with pq.ParquetWriter(copy.name, schema, write_statistics=False) as writer:
            start = 0
            for rows in _cut(_checked(source, model, locations, ids, problems, reader, csv=csv), shard_size, problems):
                lines = b"".join(row_line(row) for row in rows)
                total.update(lines)
                digest = hashlib.sha256(run_digest + lines).hexdigest()
                shards.append(Shard(len(shards), start, start + len(rows), digest))
                start += len(rows)
                columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
                columns |= {name: [row.patient.get(name) for row in rows] for name in schema.names[len(COLUMNS) :]}
                writer.write_table(pa.table(columns, schema=schema), row_group_size=len(rows))
        problems += ids.repetitions()
        if not shards and not problems:
            problems.append("no rows")
        if problems:
            raise ManifestError(source.uri, problems[:MAX_PROBLEMS])
        if manifest_uri is not None:
            storage.upload(copy.name, manifest_uri)
    for line in reader.warnings() if reader is not None else ():
        logger.warning("%s: %s", source.uri, line)
    return Plan(total.hexdigest(), tuple(shards))


def _checked(
    source: Input,
    model: Bundle | None,
    locations: Locations,
    ids: "_Ids",
    problems: list[str],
    reader: PatientReader | None,
    *,
    csv: bool,
) -> Iterator[LesionPair]:
    """Yield all pairs, and collect their problems."""
    first = 0
    for piece in source.pieces():
        if model is not None:
            require_size(piece, model.preprocessing, "the model's size")
        if reader is None:
            pairs = piece.pairs()
        else:
            patients, unusable = reader.read(piece, first)
            pairs = piece.pairs(patients)
            problems += islice(chain(attribute_problems(piece, first), unusable), MAX_PROBLEMS - len(problems))
        found = _piece_problems(piece, pairs, first, locations, csv=csv)
        problems += islice(found, MAX_PROBLEMS - len(problems))
        ids.add(pair.pair_id for pair in pairs)
        first += len(pairs)
        yield from pairs


def _piece_problems(
    piece: Manifest, pairs: list[LesionPair], first: int, locations: Locations, *, csv: bool
) -> Iterator[str]:
    yield from row_problems(piece, pairs, first)
    for row, pair in enumerate(pairs, first + 1):
        for modality in Modality:
            for uri in pair.uris(modality):
                if refusal := locations.refusal(uri):
                    yield f"row {row}: {modality}_uri {ascii(uri)[1:-1]}: {refusal}"
        for name, value in (("pair_id", pair.pair_id), ("lesion_id", pair.lesion_id)):
            if csv and value.startswith(FORMULA_STARTS):
                yield f"row {row}: {name} {value!a} would be a formula in a CSV; choose --format parquet or jsonl"


def _cut(pairs: Iterator[LesionPair], shard_size: int, problems: list[str]) -> Iterator[list[LesionPair]]:
    """Yield the rows of one shard after the other; a stream that would be read twice is a problem."""
    rows: list[LesionPair] = []
    streams: frozenset[str] = frozenset()
    ended: set[str] = set()
    for number, pair in enumerate(pairs, 1):
        of = _streams(pair)
        if rows and (of != streams or (not of and len(rows) == shard_size)):
            yield rows
            rows = []
            ended |= streams
            if (again := of & ended) and len(problems) < MAX_PROBLEMS:
                problems.append(
                    f"row {number}: {ascii(min(again))[1:-1]} can be read once, in order, but its pairs "
                    "are not in consecutive rows; sort the manifest by archive, or repack as .tar"
                )
        streams = of
        rows.append(pair)
    if rows:
        yield rows


def _streams(pair: LesionPair) -> frozenset[str]:
    """Return the ``.tar.gz`` archives that a pair's images are streamed from."""
    return frozenset(container(uri) for m in Modality for uri in pair.uris(m) if is_sequential(uri))


class _Ids:
    """Finds repeated ids among millions: 16 bytes of hash each."""

    def __init__(self) -> None:
        self._hashes = bytearray()

    def add(self, ids: Iterator[str]) -> None:
        for value in ids:
            self._hashes += hashlib.blake2b(value.encode(), digest_size=16).digest()

    def repetitions(self) -> Iterator[str]:
        """Yield one line per row that repeats an id."""
        halves = np.frombuffer(bytes(self._hashes), np.uint64).reshape(-1, 2)
        order = np.lexsort(halves.T)
        ordered = halves[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(1))
        for index in islice(same, MAX_PROBLEMS):
            yield f"rows {order[index] + 1} and {order[index + 1] + 1}: the same pair_id; it must be unique"
