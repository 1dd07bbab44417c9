"""Data loading of training with Ray Data, so that CPU nodes can load data for GPU nodes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import ray

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.datasets import Row, dataset_of, objects, packed, unpacked
from derm_ray.domain import LesionPair
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode, StorageError
from derm_ray.training.batches import Batch, Indices, load_batch, rank_share
from derm_ray.training.feature_cache import FeatureCache

IMAGES_AT_ONCE = 4
PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class _Task:
    """What one rank loads for one step: pairs, labels, their rows of the split and of the cache, global batch size."""

    pairs: list[LesionPair]
    labels: npt.NDArray[np.int64]
    indices: Indices
    positions: Indices
    global_size: int


_Load = Callable[[_Task], Batch | DermRayError]


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
    tasks = [_task(split, rank_share(batch, rank, world_size), len(batch)) for batch in order]
    load = partial(_load, spec=spec, mirror=mirror, features=features)
    # An elastic run, or one that lost a node, may hold all CPUs: tasks would wait for ever.
    spare = ray.available_resources().get("CPU", 0) >= 1
    for loaded in _loaded_by_tasks(tasks, load) if spare else _loaded_here(tasks, load):
        if _is_storage_failure(loaded):
            # Storage may recover: this worker exits, and Ray Train restarts from the last checkpoint.
            raise OSError(str(loaded))
        yield loaded


def _task(split: LabeledPairs, share: Indices, global_size: int) -> _Task:
    labels, positions = (np.array([values[i] for i in share], np.int64) for values in (split.labels, split.positions))
    return _Task([split.pairs[i] for i in share], labels, share, positions, global_size)


def _is_storage_failure(loaded: Batch | DermRayError) -> bool:
    image_failed = isinstance(loaded, ImageError) and loaded.code is ImageErrorCode.STORAGE
    return image_failed or isinstance(loaded, StorageError)


def _loaded_by_tasks(tasks: Sequence[_Task], load: _Load) -> Iterator[Batch | DermRayError]:
    """Yield the batches that Ray Data loads, on any node with free CPUs."""
    if not tasks:  # a run that was saved after an epoch's last step
        return

    def load_row(row: Row) -> Row:
        return packed(load(unpacked(row)))

    dataset = dataset_of(tasks)
    dataset.context.execution_options.preserve_order = True
    yield from objects(dataset.map(load_row), PREFETCHED_BATCHES)


def _loaded_here(tasks: Sequence[_Task], load: _Load) -> Iterator[Batch | DermRayError]:
    """Yield the batches that threads of this process load."""
    with ThreadPoolExecutor(PREFETCHED_BATCHES) as executor:
        loading: deque[Future[Batch | DermRayError]] = deque()
        for task in tasks:
            loading.append(executor.submit(load, task))
            if len(loading) > PREFETCHED_BATCHES:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()


def _load(
    task: _Task, spec: Preprocessing, mirror: tuple[int, int] | None, features: FeatureCache | None
) -> Batch | DermRayError:
    try:
        if features is not None:
            return Batch(
                *features.read(task.pairs, task.positions, mirror), task.labels, task.indices, task.global_size
            )
        with ThreadPoolExecutor(IMAGES_AT_ONCE) as executor:
            return load_batch(
                task.pairs, task.labels, task.indices, spec, executor, global_size=task.global_size, mirror=mirror
            )
    except (ImageError, StorageError) as error:
        return error
