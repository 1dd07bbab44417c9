"""What a bulk run is, and which of its shards are done. The parts themselves are the ledger."""

import json
from dataclasses import dataclass
from typing import Any

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import OutputExistsError
from derm_ray.scoring.shards import Shard, freeze_manifest, plan_shards

RUN = "_RUN.json"
SUCCESS = "_SUCCESS.json"
MANIFEST = "_manifest.parquet"


@dataclass(frozen=True)
class Run:
    """A bulk run's identity.

    Attributes:
        out_uri: its folder.
        description: content of ``_RUN.json``: manifest digest, model digest, engine, options, version.
        shards: all of them, in order.
    """

    out_uri: str
    description: dict[str, Any]
    shards: tuple[Shard, ...]

    @property
    def manifest_uri(self) -> str:
        """The run's own copy of the manifest."""
        return storage.join(self.out_uri, MANIFEST)

    def missing(self) -> list[Shard]:
        """Return the shards that have no part yet."""
        there = {uri.rpartition("/")[2] for uri in storage.list_files(self.out_uri)}
        return [shard for shard in self.shards if shard.part_name not in there]


def _is_foreign(uri: str) -> bool:
    """Tell whether a file is none that a start cut short may have left."""
    name = uri.rpartition("/")[2]
    return name != MANIFEST and not name.endswith(".tmp")


def recorded_engine(out_uri: str) -> str | None:
    """Return the engine of the run that lies in a folder, if there is one."""
    run_uri = storage.join(out_uri, RUN)
    return str(storage.read_json(run_uri)["engine"]) if storage.exists(run_uri) else None


def open_run(out_uri: str, manifest: Manifest, description: dict[str, Any], shard_size: int) -> Run:
    """Begin a run in a folder, or continue the one that lies there.

    ``_RUN.json`` is written before the first part. What decides scores must be the same on every resume.

    Raises:
        OutputExistsError: the folder holds another run, or something else; the message names the difference.
    """
    out_uri = storage.absolute(out_uri)
    manifest = manifest.absolute()
    whole = {**description, "manifest_digest": manifest.digest, "pairs": len(manifest), "shard_size": shard_size}
    run_uri = storage.join(out_uri, RUN)
    run = Run(out_uri, whole, tuple(plan_shards(manifest, description, shard_size)))
    if storage.exists(run_uri):
        before = storage.read_json(run_uri)
        changes = [
            f"{key} was {json.dumps(before.get(key))}, now {json.dumps(whole.get(key))}"
            for key in sorted(before.keys() | whole.keys())
            if before.get(key) != whole.get(key)
        ]
        if changes:
            raise OutputExistsError(
                f"{out_uri} holds another scoring run: {'; '.join(changes)}. Give the same arguments to resume it, "
                "or another --out."
            )
    else:
        if any(_is_foreign(uri) for uri in storage.list_files(out_uri)):
            raise OutputExistsError(f"{out_uri} holds files that are no scoring run. Choose another --out.")
        freeze_manifest(manifest, run.manifest_uri, shard_size)
        storage.write_json(run_uri, whole)
    return run
