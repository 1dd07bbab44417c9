"""Finding pairs that crash the process that scores them."""

from typing import Any, Self

from derm_ray import storage
from derm_ray.errors import StorageError
from derm_ray.scoring.shards import Shard

WHOLE_ATTEMPTS = 2
DEATHS = 2


class Attempts:
    """Record of the attempts on a shard; Ray restarts the task of a dead actor without limit.

    After :data:`WHOLE_ATTEMPTS` attempts, pairs are scored one by one and recorded before they start. A pair during
    which the process died :data:`DEATHS` times is skipped. So a pair costs at most four processes, and a pair that was
    in progress when a node was lost is not blamed. The record is removed at the end of the block.
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

    def __exit__(self, *_: object) -> None:
        storage.remove(self._uri)

    @property
    def one_by_one(self) -> bool:
        """Whether pairs must be scored one by one."""
        return bool(self._record["attempts"] > WHOLE_ATTEMPTS)

    def begin(self, row: int) -> bool:
        """Record the next row; return whether it may be scored."""
        if self._record["deaths"].get(str(row), 0) >= DEATHS:
            return False
        self._record["row"] = row
        storage.write_json(self._uri, self._record)
        return True

    def end(self) -> None:
        """Record that no row is in progress: later deaths are not caused by a pair."""
        if self._record["row"] is not None:
            self._record["row"] = None
            storage.write_json(self._uri, self._record)
