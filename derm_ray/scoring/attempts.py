"""Finding the pair that kills the process which scores it."""

from types import TracebackType
from typing import Any, Self

from derm_ray import storage
from derm_ray.errors import StorageError
from derm_ray.scoring.shards import Shard

WHOLE_ATTEMPTS = 2
DEATHS = 2


class Attempts:
    """The record of who began a shard and never told its end; Ray starts such a shard again, without limit.

    After :data:`WHOLE_ATTEMPTS` attempts the pairs are to be scored one by one, each noted before it begins: a pair at
    which the process died :data:`DEATHS` times is skipped from then on. So a pair costs no more than four processes,
    and one that was merely there when a node went away is not blamed. The record is removed at the block's end.

    Args:
        folder_uri: of the records.
        shard: what is scored.
    """

    def __init__(self, folder_uri: str, shard: Shard) -> None:
        self._uri = storage.join(folder_uri, f"{shard.index:06d}.json")
        self._record: dict[str, Any] = {"attempts": 0, "row": None, "deaths": {}}

    def __enter__(self) -> Self:
        try:
            self._record = storage.read_json(self._uri)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        record = self._record
        record["attempts"] += 1
        if record["row"] is not None:
            row = str(record["row"])
            record["deaths"][row] = record["deaths"].get(row, 0) + 1
            record["row"] = None
        storage.write_json(self._uri, record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        storage.remove(self._uri)

    @property
    def one_by_one(self) -> bool:
        """Whether pairs are to be scored alone."""
        return bool(self._record["attempts"] > WHOLE_ATTEMPTS)

    def begin(self, row: int) -> bool:
        """Note the row that is scored next; tell whether it may be."""
        if self._record["deaths"].get(str(row), 0) >= DEATHS:
            return False
        self._record["row"] = row
        storage.write_json(self._uri, self._record)
        return True

    def end(self) -> None:
        """Note that no row is worked on: a death from now on is no pair's fault."""
        if self._record["row"] is not None:
            self._record["row"] = None
            storage.write_json(self._uri, self._record)
