"""Batches: their pairs and pixels. The order depends on the seed only, not on the number of workers."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.data.preprocessing import Pixels, Preprocessing, load_pairs
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ConfigError, ImageError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        clinical, dermoscopy: images (B, size, size, 3) uint8, or the frozen stem's activations (B, H, W, C),
            float32 or the bits of bfloat16 as uint16.
        labels: (B,) int64 class indices.
        indices: (B,) int64 rows of the split.
        global_size: pairs in the whole global batch.
    """

    clinical: npt.NDArray[np.uint8 | np.uint16 | np.float32]
    dermoscopy: npt.NDArray[np.uint8 | np.uint16 | np.float32]
    labels: npt.NDArray[np.int64]
    indices: Indices
    global_size: int


def training_order(pairs: int, global_batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """Return an epoch's global batches: one seeded permutation, cut; an incomplete last batch is dropped."""
    order = np.random.default_rng((seed, epoch)).permutation(pairs)
    full = pairs // global_batch_size
    return [order[i * global_batch_size : (i + 1) * global_batch_size] for i in range(full)]


def evaluation_order(pairs: int, batch_size: int) -> list[Indices]:
    """Return batches that hold every pair exactly once, in order."""
    return [np.arange(start, min(start + batch_size, pairs)) for start in range(0, pairs, batch_size)]


def rank_share(batch: Indices, rank: int, world_size: int) -> Indices:
    """Return one rank's pairs of a global batch; shares differ by one pair at most."""
    return np.array_split(batch, world_size)[rank]


def check_batch_size(pairs: int, global_batch_size: int, workers: int) -> None:
    """Check that every rank gets at least two pairs a step (batch norm needs them) and an epoch has a step.

    Raises:
        ConfigError: it does not.
    """
    if global_batch_size < 2 * workers:
        raise ConfigError(
            f"global_batch_size {global_batch_size} leaves fewer than two pairs for each of {workers} workers. "
            f"Use at least {2 * workers}, or fewer workers."
        )
    if pairs < global_batch_size:
        raise ConfigError(
            f"the train split has {pairs} pairs, fewer than global_batch_size {global_batch_size}. "
            "Give --set global_batch_size=N with a smaller N."
        )


def is_mirrored(pair: LesionPair, modality: Modality, *, seed: int, epoch: int) -> bool:
    """Return whether an image is mirrored in an epoch: a fair coin keyed by seed, epoch, pair and modality."""
    key = f"{seed}/{epoch}/{pair.pair_id}/{modality}".encode()
    return bool(hashlib.blake2b(key, digest_size=1).digest()[0] & 1)


def load_batch(
    pairs: Sequence[LesionPair],
    labels: Sequence[int] | npt.NDArray[np.int64],
    indices: Indices,
    spec: Preprocessing,
    executor: Executor,
    *,
    global_size: int,
    mirror: tuple[int, int] | None = None,
) -> Batch:
    """Read, decode, resize and mirror a batch.

    Args:
        pairs, labels, indices: of the batch, in order.
        spec, executor, mirror: see :func:`load_images`.
        global_size: pairs in the whole global batch.

    Raises:
        ImageError: an image cannot be used; the message names pair and file.
    """
    return Batch(*load_images(pairs, spec, executor, mirror), np.asarray(labels, np.int64), indices, global_size)


def load_images(
    pairs: Sequence[LesionPair], spec: Preprocessing, executor: Executor, mirror: tuple[int, int] | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the clinical and the dermoscopy images of pairs, (B, size, size, 3) each.

    Args:
        pairs: with both images.
        spec: target size.
        executor: runs one task per image.
        mirror: (seed, epoch), or ``None`` for no mirroring.

    Raises:
        ImageError: an image cannot be used; the message names pair and file.
    """
    images: dict[Modality, list[Pixels]] = {modality: [] for modality in Modality}
    for pair, pixels in zip(pairs, load_pairs(list(pairs), spec, executor), strict=True):
        if isinstance(pixels, ImageError):
            raise ImageError(pixels.code, f"pair {pair.pair_id}: {pixels.message}")
        for modality, image in zip(Modality, (pixels.clinical, pixels.dermoscopy), strict=True):
            assert image is not None, "validated: training has both images"
            flipped = mirror is not None and is_mirrored(pair, modality, seed=mirror[0], epoch=mirror[1])
            images[modality].append(image[:, ::-1] if flipped else image)
    empty = np.empty((0, spec.size, spec.size, 3), np.uint8)  # of a rank whose share is empty
    clinical, dermoscopy = (np.stack(some) if some else empty for some in images.values())
    return clinical, dermoscopy
