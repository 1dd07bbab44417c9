"""Data loading of training with Ray Data, so that CPU nodes can load data for GPU nodes."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import LesionPair
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode, StorageError
from derm_ray.training.batches import Batch, Indices, load_batch, rank_share
from derm_ray.training.feature_cache import FeatureCache

IMAGES_AT_ONCE = 4
PREFETCHED_BATCHES = 2

_Row = dict[str, Any]


@dataclass(frozen=True)
class LabeledPairs:
    """One split, in manifest order.

    Attributes:
        pairs: those that the label set includes.
        labels: their class indices.
        positions: position of each in ``listed``.
        listed: all pairs of the split; caches hold these, so that label sets share them.
    """

    pairs: tuple[LesionPair, ...]
    labels: tuple[int, ...]
    positions: tuple[int, ...]
    listed: tuple[LesionPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)


def batches(
    split: LabeledPairs,
    order: Sequence[Indices],
    spec: Preprocessing,
    *,
    rank: int,
    world_size: int,
    mirror: tuple[int, int] | None = None,
    features: FeatureCache | None = None,
) -> Iterator[Batch | DermRayError]:
    """Yield one rank's share of every global batch, in order; the order determines the content of each step.

    Ray Data loads them, one row a batch, on CPUs that no worker holds; without such CPUs, this process loads them.

    Args:
        split: where the pairs come from.
        order: global batches as row indices.
        spec: target size.
        rank, world_size: of the reader.
        mirror: (seed, epoch), or ``None`` for no mirroring.
        features: the split's activations, read in place of its images.

    Yields:
        A batch, or the error of its first image that cannot be used.

    Raises:
        OSError: storage failed.
    """
    rows = [_row(split, rank_share(batch, rank, world_size), len(batch)) for batch in order]
    how = {"spec": spec, "mirror": mirror, "features": features}
    # An elastic run, or one that lost a node, may hold all CPUs: tasks would wait for ever.
    spare = ray.available_resources().get("CPU", 0) >= 1
    for row in _loaded_by_tasks(rows, how) if spare else _loaded_here(rows, how):
        if row["error_code"] == ImageErrorCode.STORAGE:
            # Storage may recover: this worker exits, and Ray Train restarts from the last checkpoint.
            raise OSError(str(row["error"]))
        if row["error_code"]:
            yield ImageError(ImageErrorCode(row["error_code"]), str(row["error"]))
        else:
            yield Batch(row["clinical"], row["dermoscopy"], row["labels"], row["indices"], int(row["global_size"]))


def _loaded_by_tasks(rows: list[_Row], how: dict[str, Any]) -> Iterator[_Row]:
    """Yield the batches that Ray Data loads, on any node with free CPUs."""
    if not rows:  # a run that was saved after an epoch's last step
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_load, fn_kwargs=how)
    for block in dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=PREFETCHED_BATCHES):
        yield {name: column[0] for name, column in block.items()}


def _loaded_here(rows: list[_Row], how: dict[str, Any]) -> Iterator[_Row]:
    """Yield the batches that threads of this process load."""
    with ThreadPoolExecutor(PREFETCHED_BATCHES) as executor:
        loading: deque[Future[_Row]] = deque()
        for row in rows:
            loading.append(executor.submit(_load, row, **how))
            if len(loading) > PREFETCHED_BATCHES:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()


def _row(split: LabeledPairs, share: Indices, global_size: int) -> dict[str, Any]:
    pairs = [split.pairs[i] for i in share]
    return {
        "pair_ids": [pair.pair_id for pair in pairs],
        "clinical_uris": [pair.clinical_uri for pair in pairs],
        "dermoscopy_uris": [pair.dermoscopy_uri for pair in pairs],
        "labels": [split.labels[i] for i in share],
        "indices": share.tolist(),
        "positions": [split.positions[i] for i in share],
        "global_size": global_size,
    }


def _load(
    row: dict[str, Any], spec: Preprocessing, mirror: tuple[int, int] | None, features: FeatureCache | None
) -> dict[str, Any]:
    columns = (row[name] for name in ("pair_ids", "clinical_uris", "dermoscopy_uris"))
    pairs = [
        LesionPair(pair_id, "", clinical, dermoscopy) for pair_id, clinical, dermoscopy in zip(*columns, strict=True)
    ]
    loaded: dict[str, Any] = {
        "labels": np.asarray(row["labels"], np.int64),
        "indices": np.asarray(row["indices"], np.int64),
        "global_size": row["global_size"],
        "error_code": "",
        "error": "",
    }
    nothing = np.empty((0, spec.size, spec.size, 3), np.uint8)
    if features is not None:
        try:
            clinical, dermoscopy = features.read(pairs, np.asarray(row["positions"], np.int64), mirror)
        except StorageError as error:
            failure = {"error_code": str(ImageErrorCode.STORAGE), "error": str(error)}
            return loaded | {"clinical": nothing, "dermoscopy": nothing} | failure
        return loaded | {"clinical": clinical, "dermoscopy": dermoscopy}
    try:
        with ThreadPoolExecutor(IMAGES_AT_ONCE) as executor:
            batch = load_batch(
                pairs, row["labels"], loaded["indices"], spec, executor, global_size=row["global_size"], mirror=mirror
            )
    except ImageError as error:
        return loaded | {"clinical": nothing, "dermoscopy": nothing, "error_code": str(error.code), "error": str(error)}
    return loaded | {"clinical": batch.clinical, "dermoscopy": batch.dermoscopy}
