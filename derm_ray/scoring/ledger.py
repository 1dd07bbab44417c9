"""The identity of a bulk run, and its finished shards. The parts themselves are the ledger."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import __version__, storage
from derm_ray.bundle import Bundle
from derm_ray.data.inputs import Input
from derm_ray.data.locations import Locations
from derm_ray.domain import label_set
from derm_ray.errors import DermRayError, OutputExistsError, ScoringError
from derm_ray.scoring.formats import PartFormat, part_format
from derm_ray.scoring.plan import Plan, make_plan
from derm_ray.scoring.schema import score_schema
from derm_ray.scoring.shards import Shard

RUN = "_RUN.json"
SUCCESS = "_SUCCESS.json"
FOLDER = "_run"
MANIFEST = f"{FOLDER}/manifest.parquet"
SHARDS = f"{FOLDER}/shards.parquet"
INVOCATIONS = f"{FOLDER}/invocations"
ATTEMPTS = f"{FOLDER}/attempts"
SALIENCY = "_saliency"


@dataclass(frozen=True)
class RunDescription:
    """Everything that determines the scores; equal on every resume."""

    model_digest: str
    label_set: str
    engine: str
    per_input_predictions: bool
    saliency: bool
    format: str
    shard_size: int

    @property
    def part_format(self) -> PartFormat:
        """Format of the parts."""
        return part_format(self.format)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the parts."""
        return score_schema(
            label_set(self.label_set), per_input_predictions=self.per_input_predictions, saliency=self.saliency
        )


@dataclass(frozen=True)
class Run:
    """A bulk run.

    Attributes:
        out_uri: its folder.
        source: URI, fingerprint, digest and skipped files of the input.
        shards: all of them, in order.
        run_id: created at the start; affects no result.
        derm_ray_version: that started the run; another one may resume it.
        model_run_id: the training run of the model, if known.
    """

    out_uri: str
    description: RunDescription
    source: dict[str, Any]
    shards: tuple[Shard, ...]
    run_id: str
    derm_ray_version: str
    model_run_id: str | None

    @property
    def pairs(self) -> int:
        """Rows of the input."""
        return self.shards[-1].stop

    @property
    def manifest_uri(self) -> str:
        """The run's own copy of its input."""
        return storage.join(self.out_uri, MANIFEST)

    def part_uri(self, shard: Shard) -> str:
        """URI of a shard's scores."""
        return storage.join(self.out_uri, part_name(shard, self.description.format))

    def missing(self) -> list[Shard]:
        """Return the shards that have no part yet."""
        there = set(storage.list_folder(self.out_uri))
        return [shard for shard in self.shards if part_name(shard, self.description.format) not in there]

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``_RUN.json``."""
        return {**self.identity(), "pairs": self.pairs, "input": self.source}

    def identity(self) -> dict[str, Any]:
        """Return ids, version and description as JSON types."""
        names = ("run_id", "derm_ray_version", "model_run_id")
        return {name: getattr(self, name) for name in names} | asdict(self.description)


def part_name(shard: Shard, format_name: str) -> str:
    """Return the name of the file that holds a shard's scores."""
    return f"{shard.name}.{format_name}"


def recorded_run(out_uri: str) -> Run | None:
    """Return the run in a folder, if there is one; see :func:`load_run`."""
    return load_run(out_uri) if storage.exists(storage.join(out_uri, RUN)) else None


def check_folder(out_uri: str) -> None:
    """Raise an ``OutputExistsError`` if a folder contains something else than a scoring run."""
    names = storage.list_folder(out_uri)
    if RUN not in names and any(name != f"{FOLDER}/" and not name.endswith(".tmp") for name in names):
        raise OutputExistsError(f"{out_uri} contains files that are not a scoring run. Choose another --out.")


def load_run(out_uri: str) -> Run:
    """Read the run in a folder.

    Raises:
        StorageError: there is none.
        ScoringError: its files do not belong together, or another version wrote them.
    """
    out_uri = storage.absolute(out_uri)
    again = "Score again into another --out, or restore the file."
    with readable(storage.join(out_uri, RUN), again) as uri:
        recorded = storage.read_json(uri)
        known = {name: recorded.pop(name) for name in ("run_id", "derm_ray_version", "model_run_id")}
        source, pairs = recorded.pop("input"), recorded.pop("pairs")
        description = RunDescription(**recorded)
    with readable(storage.join(out_uri, SHARDS), again) as uri:
        table = pq.ParquetFile(BytesIO(storage.read_bytes(uri))).read(use_threads=False)
        shards = tuple(Shard(**row) for row in table.to_pylist())
    if sum(map(len, shards)) != pairs:
        raise ScoringError(f"{out_uri}: {SHARDS} does not belong to the run in {RUN}. Score into another folder.")
    return Run(out_uri=out_uri, description=description, source=source, shards=shards, **known)


def open_run(
    out_uri: str,
    source: Input,
    description: RunDescription,
    locations: Locations,
    fingerprint: str,
    model: Bundle | None = None,
) -> Run:
    """Start a run in a folder, or resume the one in it.

    ``_RUN.json`` is written before the first part. An input that storage says is unchanged is not read again.

    Args:
        out_uri: the folder; the caller has its lease, and called :func:`check_folder` before.
        source, fingerprint: the pairs.
        description: everything that determines the scores.
        locations: the images' allow-list.
        model: its training run, input size and patient data; ``None`` takes any images and no patient data.

    Raises:
        OutputExistsError: the folder contains another run; the message names the difference.
        ManifestError, ConfigError: rows that break the rules, or images prepared at another size.
    """
    out_uri = storage.absolute(out_uri)
    if out_uri.startswith(source.uri.rstrip("/") + "/"):
        raise OutputExistsError(f"{out_uri} is inside the input {source.uri}. Choose an --out outside it.")
    if run := recorded_run(out_uri):
        _refuse_changes(out_uri, asdict(run.description), asdict(description))
        if run.source["patterns"] != source.patterns:
            _refuse_changes(out_uri, run.source, {"uri": source.uri, "patterns": source.patterns})
        if fingerprint != run.source["fingerprint"]:
            if not source.may_be_rewritten:
                raise OutputExistsError(
                    f"{source.uri}: files were added, removed or replaced since the run in {out_uri} started. "
                    "Choose another --out, or restore the files."
                )
            digest = _plan(source, description, locations, None, model).digest
            _refuse_changes(out_uri, {"input digest": run.source["digest"]}, {"input digest": digest})
        return run
    digest, shards = _plan(source, description, locations, storage.join(out_uri, MANIFEST), model)
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(shard) for shard in shards]), sink)
    storage.write_bytes(storage.join(out_uri, SHARDS), sink.getvalue())
    about = {
        "uri": source.uri,
        "patterns": source.patterns,
        "fingerprint": fingerprint,
        "digest": digest,
        "skipped": dict(source.skipped),
    }
    run_id, model_run_id = uuid.uuid4().hex, model.run_id if model is not None else None
    run = Run(out_uri, description, about, shards, run_id, __version__, model_run_id)
    storage.write_json(storage.join(out_uri, RUN), run.to_json())
    return run


@contextmanager
def readable(uri: str, hint: str) -> Iterator[str]:
    """Turn parser errors on a file into one error that names it, and what to do.

    Raises:
        ScoringError: the file is damaged, or another version wrote it.
    """
    try:
        yield uri
    except DermRayError:
        raise
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        reason = f": {str(error).splitlines()[0]}" if isinstance(error, ValueError) and str(error) else ""
        raise ScoringError(
            f"this version of derm_ray cannot read {uri}: it is damaged, or another version wrote it{reason}. {hint}"
        ) from error


def _plan(
    source: Input,
    description: RunDescription,
    locations: Locations,
    manifest_uri: str | None,
    model: Bundle | None,
) -> Plan:
    csv = description.format == "csv"
    run = asdict(description)
    return make_plan(source, run, description.shard_size, manifest_uri, locations, csv=csv, model=model)


def _refuse_changes(out_uri: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{key} was {json.dumps(before[key])}, now {json.dumps(now[key])}" for key in now if before[key] != now[key]
    ]
    if changes:
        raise OutputExistsError(
            f"{out_uri} contains another scoring run: {'; '.join(changes)}. Use the same arguments and input to "
            "resume it, or another --out."
        )
