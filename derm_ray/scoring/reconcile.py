"""Proof that a bulk run's output holds every pair exactly once."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from derm_ray import storage
from derm_ray.data.parquet import parse_parquet
from derm_ray.errors import ScoringError
from derm_ray.scoring.ledger import SUCCESS, Run


@dataclass(frozen=True)
class Reconciliation:
    """Counts over all parts of a complete run.

    Attributes:
        pairs: rows, equal to the manifest's.
        scored, errors: rows by status; they add up to ``pairs``.
        error_codes: code -> rows.
        parts: file name -> SHA-256.
    """

    pairs: int
    scored: int
    errors: int
    error_codes: dict[str, int]
    parts: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON types."""
        return asdict(self)


def reconcile(run: Run) -> Reconciliation:
    """Compare the parts with the run's copy of the manifest.

    Raises:
        ScoringError: a shard has no part, a foreign part lies there, or the pairs are not each there once.
    """
    if missing := run.missing():
        raise ScoringError(
            f"{run.out_uri}: {len(missing)} of {len(run.shards)} shards have no part. The same command resumes."
        )
    expected = {shard.part_name for shard in run.shards}
    files = {uri.rpartition("/")[2]: uri for uri in storage.list_files(run.out_uri)}
    if foreign := sorted(name for name in files if name.startswith("part-") and name not in expected):
        raise ScoringError(f"{run.out_uri}: {foreign[0]} does not belong to this run. Move it away and try again.")
    statuses: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    digests: dict[str, str] = {}
    for name in sorted(expected):
        data = storage.read_bytes(files[name])
        table = parse_parquet(data, ["pair_id", "status", "error_code"])
        seen.update(table["pair_id"].to_pylist())
        statuses.update(table["status"].to_pylist())
        codes.update(code for code in table["error_code"].to_pylist() if code)
        digests[name] = storage.sha256(data)
    wanted = parse_parquet(storage.read_bytes(run.manifest_uri), ["pair_id"])["pair_id"].to_pylist()
    if seen != Counter(wanted):
        twice = [pair_id for pair_id, count in seen.items() if count > 1]
        lost = set(wanted) - seen.keys()
        raise ScoringError(
            f"{run.out_uri}: {len(lost)} pairs are missing and {len(twice)} stand more than once"
            f"{' (first: ' + min([*lost, *twice]) + ')' if lost or twice else ''}. "
            "Remove the parts concerned; the same command scores them again."
        )
    return Reconciliation(seen.total(), statuses["ok"], statuses["error"], dict(codes), digests)


def seal(run: Run, reconciliation: Reconciliation, seconds: float) -> None:
    """Write ``_SUCCESS.json``: the last file of a run.

    Args:
        run: complete.
        reconciliation: its counts.
        seconds: of the last invocation, for the throughput.
    """
    storage.write_json(
        storage.join(run.out_uri, SUCCESS),
        {**run.description, **reconciliation.to_json(), "last_invocation_s": round(seconds, 3)},
    )
