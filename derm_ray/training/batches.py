"""Batches: their pairs and pixels. The order depends on the seed only, not on the number of workers."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.data.manifest import Manifest, collapsed, require_split
from derm_ray.data.patient import PatientEncoder, Vectors
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.data.preprocessing import Preprocessing, load_pairs
from derm_ray.domain import LabelSet, LesionPair, Modality, Split
from derm_ray.errors import ConfigError, ImageError, ImageErrorCode, StorageError

Indices = npt.NDArray[np.int64]
Mirror = tuple[int, int] | None
"""Seed and epoch that decide which images are mirrored; ``None`` mirrors none."""


@dataclass(frozen=True, eq=False)
class LabeledPairs:
    """The pairs of one split that a label set includes, in manifest order.

    Attributes:
        listed: all pairs of the split; caches hold these, so that label sets share them.
        positions, labels: (N,) which of them the label set includes, and their class indices.
        patient: encoded patient data of all pairs of the split (listed, F); ``None``: the network uses none.
    """

    listed: tuple[LesionPair, ...]
    positions: Indices
    labels: Indices
    patient: Vectors | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def pairs(self) -> list[LesionPair]:
        """Those that the label set includes."""
        return [self.listed[position] for position in self.positions]

    def share(self, batch: Indices, rank: int = 0, world_size: int = 1) -> "Share":
        """Return one rank's share of a global batch; shares differ by one pair at most."""
        rows = np.array_split(batch, world_size)[rank]
        positions = self.positions[rows]
        patient = self.patient[positions] if self.patient is not None else None
        return Share([self.listed[p] for p in positions], positions, self.labels[rows], rows, len(batch), patient)


def labeled(manifest: Manifest, split: Split, labels: LabelSet, encoder: PatientEncoder | None = None) -> LabeledPairs:
    """Return one split with its class indices, and its patient data where the network uses it.

    Raises:
        ConfigError: the split is empty, or the label set excludes all of it.
        ManifestError: patient data cannot be used.
    """
    part = require_split(manifest, split)
    listed = tuple(part.pairs())
    classes = [collapsed(labels, pair.diagnosis) for pair in listed]
    included = [(at, labels.class_names.index(name)) for at, name in enumerate(classes) if name is not None]
    if not included:
        raise ConfigError(f"{manifest.uri}: label set {labels.name!r} excludes every pair of split {split!s}.")
    positions, indices = np.array(included, np.int64).T
    patient = encoder.encode([pair.patient for pair in patient_pairs(part, encoder, manifest)]) if encoder else None
    return LabeledPairs(listed, positions, indices, patient)


@dataclass(frozen=True)
class Share:
    """One rank's share of a global batch, to be loaded; ``positions`` (B,) are places among the listed pairs.

    ``patient`` is encoded patient data (B, F), of networks that use it.
    """

    pairs: list[LesionPair]
    positions: Indices
    labels: Indices
    indices: Indices
    global_size: int
    patient: Vectors | None = None


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        clinical, dermoscopy: images (B, size, size, 3) uint8, or the frozen stem's activations (B, H, W, C),
            float32 or the bits of bfloat16 as uint16.
        labels: (B,) class indices.
        indices: (B,) rows of the split.
        global_size: pairs in the whole global batch.
        patient: encoded patient data (B, F); ``None`` for networks without it.
    """

    clinical: npt.NDArray[np.uint8 | np.uint16 | np.float32]
    dermoscopy: npt.NDArray[np.uint8 | np.uint16 | np.float32]
    labels: Indices
    indices: Indices
    global_size: int
    patient: Vectors | None = None


def training_order(pairs: int, global_batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """Return an epoch's global batches: one seeded permutation, cut; an incomplete last batch is dropped."""
    order = np.random.default_rng((seed, epoch)).permutation(pairs)
    full = pairs // global_batch_size
    return [order[i * global_batch_size : (i + 1) * global_batch_size] for i in range(full)]


def evaluation_order(pairs: int, batch_size: int) -> list[Indices]:
    """Return batches that hold every pair exactly once, in order."""
    return [np.arange(start, min(start + batch_size, pairs)) for start in range(0, pairs, batch_size)]


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


def is_mirrored(pair: LesionPair, modality: Modality, mirror: Mirror) -> bool:
    """Return whether an image is mirrored: a fair coin keyed by seed, epoch, pair and modality."""
    if mirror is None:
        return False
    seed, epoch = mirror
    key = f"{seed}/{epoch}/{pair.pair_id}/{modality}".encode()
    return bool(hashlib.blake2b(key, digest_size=1).digest()[0] & 1)


def load_batch(share: Share, spec: Preprocessing, executor: Executor, mirror: Mirror) -> Batch:
    """Read, decode, resize and mirror the images of a share; see :func:`load_images`."""
    clinical, dermoscopy = load_images(share.pairs, spec, executor, mirror)
    return Batch(clinical, dermoscopy, share.labels, share.indices, share.global_size, share.patient)


def load_images(
    pairs: Sequence[LesionPair], spec: Preprocessing, executor: Executor, mirror: Mirror = None
) -> npt.NDArray[np.uint8]:
    """Return the clinical and the dermoscopy images of pairs that have both: (2, B, size, size, 3).

    ``executor`` runs one task per image.

    Raises:
        ImageError: an image cannot be used; the message names pair and file.
        StorageError: storage failed.
    """
    images = np.empty((2, len(pairs), spec.size, spec.size, 3), np.uint8)
    for row, (pair, pixels) in enumerate(zip(pairs, load_pairs(list(pairs), spec, executor), strict=True)):
        if isinstance(pixels, ImageError):
            message = f"pair {pair.pair_id}: {pixels.message}"
            if pixels.code is ImageErrorCode.STORAGE:
                raise StorageError(message)
            raise ImageError(pixels.code, message)
        for slot, modality in enumerate(Modality):
            image = pixels.of(modality)
            assert image is not None, "validated: training has both images"
            images[slot, row] = image[:, ::-1] if is_mirrored(pair, modality, mirror) else image
    return images
