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
    labels: Sequence[int],
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
        spec: target size.
        executor: runs one task per image.
        global_size: pairs in the whole global batch.
        mirror: (seed, epoch), or ``None`` for no mirroring.

    Raises:
        ImageError: an image cannot be used; the message names pair and file.
    """
    clinical: list[Pixels] = []
    dermoscopy: list[Pixels] = []
    for pair, pixels in zip(pairs, load_pairs(list(pairs), spec, executor), strict=True):
        if isinstance(pixels, ImageError):
            raise ImageError(pixels.code, f"pair {pair.pair_id}: {pixels.message}")
        assert pixels.clinical is not None, "validated: training has both images"
        assert pixels.dermoscopy is not None, "validated: training has both images"
        clinical.append(_mirror(pixels.clinical, pair, Modality.CLINICAL, mirror))
        dermoscopy.append(_mirror(pixels.dermoscopy, pair, Modality.DERMOSCOPY, mirror))
    return Batch(_stack(clinical, spec), _stack(dermoscopy, spec), np.asarray(labels, np.int64), indices, global_size)


def _stack(images: list[Pixels], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Stack images; a rank whose share is empty gets an array of length 0."""
    return np.stack(images) if images else np.empty((0, spec.size, spec.size, 3), np.uint8)


def _mirror(image: Pixels, pair: LesionPair, modality: Modality, key: tuple[int, int] | None) -> Pixels:
    if key is None or not is_mirrored(pair, modality, seed=key[0], epoch=key[1]):
        return image
    return image[:, ::-1]
