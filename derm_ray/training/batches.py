"""Batches: their pairs and pixels. The order depends on the seed only, not on the number of workers."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.patient import PatientEncoder, Vectors
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.data.preprocessing import Preprocessing, load_pairs
from derm_ray.diagnoses import decided_class, possible_classes
from derm_ray.domain import LabelSet, LesionPair, Modality, PredictionKind, Split
from derm_ray.errors import ConfigError, ImageError, ImageErrorCode, StorageError, counted
from derm_ray.evaluation.kinds import Flags, main_kind, rows_of
from derm_ray.training.augmentation import Augmentation

Indices = npt.NDArray[np.int64]
Classes = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8 | np.uint16 | np.float32]


@dataclass(frozen=True, eq=False)
class LabeledPairs:
    """The pairs of one split that a label set includes, in manifest order.

    Attributes:
        listed: all pairs of the split; caches hold these, so that label sets share them.
        positions: (N,) which of them the label set includes.
        classes: (N, K) the classes that each can be: one, or several of a coarse diagnosis.
        teacher: (N, 3, K) probabilities to learn from beside the labels, one row per
            :class:`derm_ray.domain.PredictionKind`, NaN for kinds whose images a pair lacks; ``None``: no teacher.
        patient: encoded patient data of all pairs of the split (listed, F); ``None``: the network uses none.
    """

    listed: tuple[LesionPair, ...]
    positions: Indices
    classes: Classes
    teacher: Probabilities | None = None
    patient: Vectors | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def pairs(self) -> list[LesionPair]:
        """Those that the label set includes."""
        return [self.listed[position] for position in self.positions]

    @property
    def present(self) -> Flags:
        """Which images they have (N, 2), in the order of :class:`derm_ray.domain.Modality`."""
        return images_of(self.pairs)

    @property
    def kind(self) -> PredictionKind:
        """The kind that judges a model on them: see :func:`derm_ray.evaluation.kinds.main_kind`."""
        return main_kind(rows_of(self.present))

    @property
    def labels(self) -> Indices:
        """Class indices (N,); -1 where the diagnosis is coarse."""
        return np.where(self.classes.sum(1) == 1, self.classes.argmax(1), -1)

    @property
    def class_counts(self) -> npt.NDArray[np.float64]:
        """Pairs of each class (K,); a coarse one counts for its classes in equal parts."""
        return np.asarray((self.classes / self.classes.sum(1, keepdims=True)).sum(0), np.float64)

    def share(self, batch: Indices, rank: int = 0, world_size: int = 1) -> "Share":
        """Return one rank's share of a global batch; shares differ by one pair at most."""
        rows = np.array_split(batch, world_size)[rank]
        positions = self.positions[rows]
        teacher = None if self.teacher is None else self.teacher[rows]
        patient = None if self.patient is None else self.patient[positions]
        pairs = [self.listed[position] for position in positions]
        return Share(pairs, positions, self.classes[rows], rows, len(batch), teacher, patient)


def images_of(pairs: Sequence[LesionPair]) -> Flags:
    """Return which images pairs have (N, 2), in the order of :class:`derm_ray.domain.Modality`."""
    flags = [[pair.uri(modality) is not None for modality in Modality] for pair in pairs]
    return np.array(flags, np.bool_).reshape(len(pairs), 2)


def labeled(manifest: Manifest, split: Split, labels: LabelSet, encoder: PatientEncoder | None = None) -> LabeledPairs:
    """Return one split with its classes, and its patient data where the network uses it.

    Coarse diagnoses are in train alone: elsewhere, an answer could not be told right or wrong.

    Raises:
        ConfigError: the split is empty, or the label set excludes all of it.
        ManifestError: patient data cannot be used.
    """
    part = require_split(manifest, split)
    listed = tuple(patient_pairs(part, encoder, manifest))
    of_diagnosis = {name: _classes(name, split, labels) for name in {pair.diagnosis for pair in listed}}
    included = [(at, of_diagnosis[pair.diagnosis]) for at, pair in enumerate(listed) if of_diagnosis[pair.diagnosis]]
    if not included:
        raise ConfigError(f"{manifest.uri}: label set {labels.name!r} excludes every pair of split {split!s}.")
    positions = np.array([at for at, _ in included], np.int64)
    classes = np.array([[name in names for name in labels.class_names] for _, names in included])
    patient = encoder.encode([pair.patient for pair in listed]) if encoder is not None else None
    return LabeledPairs(listed, positions, classes, patient=patient)


def _classes(diagnosis: str | None, split: Split, labels: LabelSet) -> tuple[str, ...]:
    if diagnosis is None:
        return ()
    only = decided_class(diagnosis, labels)
    return (only,) if only is not None else possible_classes(diagnosis, labels) if split is Split.TRAIN else ()


@dataclass(frozen=True)
class Share:
    """One rank's share of a global batch, to be loaded; ``positions`` (B,) are places among the listed pairs,
    ``classes`` (B, K) what each can be.

    ``patient`` is encoded patient data (B, F), of networks that use it.
    """

    pairs: list[LesionPair]
    positions: Indices
    classes: Classes
    indices: Indices
    global_size: int
    teacher: Probabilities | None = None
    patient: Vectors | None = None

    @property
    def present(self) -> Flags:
        """Which images its pairs have (B, 2); see :func:`images_of`."""
        return images_of(self.pairs)

    def batch(self, clinical: Images, dermoscopy: Images) -> "Batch":
        """Return the batch of its images, or their activations; see :class:`Batch`."""
        return Batch(
            clinical,
            dermoscopy,
            self.classes,
            self.indices,
            self.global_size,
            self.teacher,
            self.patient,
            self.present,
        )


Dropout = Callable[[Share], Share]
"""Returns a share without some of its patient data or images."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        clinical, dermoscopy: images (B, size, size, 3) uint8, or the frozen stem's activations (B, H, W, C),
            float32 or the bits of bfloat16 as uint16; zeros where a pair has none.
        classes: (B, K) the classes that each pair can be.
        indices: (B,) rows of the split.
        global_size: pairs in the whole global batch.
        teacher: (B, 3, K) see :class:`LabeledPairs`.
        patient: encoded patient data (B, F); ``None`` for networks without it.
        present: which images pairs have (B, 2), see :func:`images_of`; ``None``: all have both.
    """

    clinical: Images
    dermoscopy: Images
    classes: Classes
    indices: Indices
    global_size: int
    teacher: Probabilities | None = None
    patient: Vectors | None = None
    present: Flags | None = None

    @property
    def given(self) -> Flags:
        """Which images its pairs have (B, 2)."""
        return np.ones((len(self.classes), 2), np.bool_) if self.present is None else self.present

    def parts(self, number: int) -> "list[Batch]":
        """Return its pairs in as many batches, whose sizes differ by one at most."""
        if number == 1:
            return [self]
        rows = np.array_split(np.arange(len(self.classes)), number)
        return [
            Batch(
                self.clinical[of],
                self.dermoscopy[of],
                self.classes[of],
                self.indices[of],
                self.global_size,
                None if self.teacher is None else self.teacher[of],
                None if self.patient is None else self.patient[of],
                None if self.present is None else self.present[of],
            )
            for of in rows
        ]


def training_order(pairs: int, global_batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """Return an epoch's global batches: one seeded permutation, cut; an incomplete last batch is dropped."""
    order = np.random.default_rng((seed, epoch)).permutation(pairs)
    full = pairs // global_batch_size
    return [order[i * global_batch_size : (i + 1) * global_batch_size] for i in range(full)]


def evaluation_order(pairs: int, batch_size: int) -> list[Indices]:
    """Return batches that hold every pair exactly once, in order."""
    return [np.arange(start, min(start + batch_size, pairs)) for start in range(0, pairs, batch_size)]


def check_batch_size(pairs: int, global_batch_size: int, workers: int, accumulation: int = 1) -> None:
    """Check that each part of a step has two pairs on every rank (batch norm needs them) and an epoch has a step.

    Raises:
        ConfigError: it does not.
    """
    if global_batch_size < 2 * workers * accumulation:
        parts = f" and accumulation {accumulation}" if accumulation > 1 else ""
        raise ConfigError(
            f"global_batch_size {global_batch_size}{parts} leaves fewer than two pairs for each of {workers} workers. "
            f"Use at least {2 * workers * accumulation}, or fewer workers."
        )
    if pairs < global_batch_size:
        raise ConfigError(
            f"the train split has {counted(pairs, 'pair')}, fewer than global_batch_size {global_batch_size}. "
            "Give --set global_batch_size=N with a smaller N."
        )


def load_batch(share: Share, spec: Preprocessing, executor: Executor, augmentation: Augmentation | None) -> Batch:
    """Load the images of a share; see :func:`load_images`."""
    return share.batch(*load_images(share.pairs, spec, executor, augmentation))


def load_images(
    pairs: Sequence[LesionPair], spec: Preprocessing, executor: Executor, augmentation: Augmentation | None = None
) -> npt.NDArray[np.uint8]:
    """Read, decode, resize and augment the clinical and the dermoscopy images of pairs.

    Of several images of a modality, an augmentation draws one for its epoch; without one, the first is taken.
    ``executor`` runs one task per image. Returns (2, B, size, size, 3), zeros where a pair has no image.

    Raises:
        ImageError: an image cannot be used; the message names pair and file.
        StorageError: storage failed.
    """
    loaded = spec if augmentation is None else augmentation.before(spec)
    pairs = [pair.first() if augmentation is None else augmentation.choose(pair) for pair in pairs]
    images = np.zeros((2, len(pairs), spec.size, spec.size, 3), np.uint8)
    for row, (pair, pixels) in enumerate(zip(pairs, load_pairs(pairs, loaded, executor), strict=True)):
        if isinstance(pixels, ImageError):
            message = f"pair {pair.pair_id}: {pixels.message}"
            if pixels.code is ImageErrorCode.STORAGE:
                raise StorageError(message)
            raise ImageError(pixels.code, message)
        for slot, modality in enumerate(Modality):
            if (image := pixels.of(modality)) is None:
                continue
            images[slot, row] = image if augmentation is None else augmentation.apply(image, spec.size, pair, modality)
    return images
