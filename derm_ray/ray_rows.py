"""Ray Data over Python objects: each row is one pickled object, which stays as it is from end to end."""

import logging
import pickle
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import ray.data

Row = dict[str, bytes]


def packed(item: object) -> Row:
    """Return the row of an object."""
    return {"item": pickle.dumps(item, pickle.HIGHEST_PROTOCOL)}


def unpacked(row: Row) -> Any:
    """Return the object of a row."""
    return pickle.loads(row["item"])  # noqa: S301 -- written by this program's own processes


def dataset_of(items: Sequence[object]) -> ray.data.Dataset:
    """Return one row and one block per object, without Ray Data's own output."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data.from_items([packed(item) for item in items], override_num_blocks=len(items))


def objects(dataset: ray.data.Dataset) -> Generator[Any]:
    """Yield the objects of a dataset of :func:`packed` rows as they arrive; it has stopped when this is closed."""
    # Prefetching would hold an object back until the next one arrives.
    blocks = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"))
    with closing(blocks):
        for block in blocks:
            for item in block["item"]:
                yield pickle.loads(item.as_buffer())  # noqa: S301
