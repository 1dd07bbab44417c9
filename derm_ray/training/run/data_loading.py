"""Data loading of training by Ray tasks, so that CPU nodes can load data for GPU nodes."""

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import ray

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.errors import DermRayError, ImageError, StorageError
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Batch, Dropout, Indices, LabeledPairs, Share, load_batch
from derm_ray.training.feature_cache import FeatureCache

IMAGES_AT_ONCE = 4
PREFETCHED_BATCHES = 2


_Load = Callable[[Share], Batch | DermRayError]


def batches(
    split: LabeledPairs,
    order: Sequence[Indices],
    spec: Preprocessing,
    *,
    rank: int,
    world_size: int,
    augmentation: Augmentation | None = None,
    features: FeatureCache | None = None,
    dropout: Sequence[Dropout] = (),
) -> Iterator[Batch | DermRayError]:
    """Yield one rank's share of every global batch, in order: a batch, or the error of its first image that cannot be
    used.

    ``order`` are rows of the split, which alone determine the content of each step. Tasks load them, one a batch, on
    CPUs that no worker holds; without such CPUs, this process loads them. Features are read in place of images.
    What each ``dropout`` leaves out of a share is not loaded.

    Raises:
        OSError: storage failed.
    """
    shares = [split.share(batch, rank, world_size) for batch in order]
    load = partial(_load, spec=spec, augmentation=augmentation, features=features, dropout=dropout)
    # An elastic run, or one that lost a node, may hold all CPUs: tasks would wait for ever.
    spare = int(ray.available_resources().get("CPU", 0))
    ahead = PREFETCHED_BATCHES + spare // world_size
    for loaded in _loaded_by_tasks(shares, load, ahead) if spare else _loaded_here(shares, load):
        if isinstance(loaded, StorageError):
            # Storage may recover: this worker exits, and Ray Train restarts from the last checkpoint.
            raise OSError(str(loaded))
        yield loaded


def _loaded_by_tasks(shares: Sequence[Share], load: _Load, ahead: int) -> Iterator[Batch | DermRayError]:
    """Yield the batches that tasks load, on any node with free CPUs; ``ahead`` of them at most are loaded or loading.

    Not Ray Data: its executor would run in this process, and where batches are loaded faster than the network learns,
    it never sleeps, and takes the interpreter's lock from training.
    """

    def load_one(share: Share) -> bytes:
        return pickle.dumps(load(share), pickle.HIGHEST_PROTOCOL)

    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(load_one)
    loading: deque[ray.ObjectRef[bytes]] = deque()
    for share in shares:
        loading.append(task.remote(share))
        if len(loading) > ahead:
            yield pickle.loads(ray.get(loading.popleft()))  # noqa: S301 -- written by this program's own task
    while loading:
        yield pickle.loads(ray.get(loading.popleft()))  # noqa: S301


def _loaded_here(shares: Sequence[Share], load: _Load) -> Iterator[Batch | DermRayError]:
    """Yield the batches that threads of this process load."""
    with ThreadPoolExecutor(PREFETCHED_BATCHES) as executor:
        loading: deque[Future[Batch | DermRayError]] = deque()
        for share in shares:
            loading.append(executor.submit(load, share))
            if len(loading) > PREFETCHED_BATCHES:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()


def _load(
    share: Share,
    spec: Preprocessing,
    augmentation: Augmentation | None,
    features: FeatureCache | None,
    dropout: Sequence[Dropout],
) -> Batch | DermRayError:
    for leave_out in dropout:
        share = leave_out(share)
    try:
        if features is not None:
            return share.batch(*features.read(share.pairs, share.positions, augmentation))
        with ThreadPoolExecutor(IMAGES_AT_ONCE) as executor:
            return load_batch(share, spec, executor, augmentation)
    except (ImageError, StorageError) as error:
        return error
