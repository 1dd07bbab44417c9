"""Feature cache: the frozen stem's activations on disk, computed once and shared by all runs with the same stem."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from derm_ray import storage
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ConfigError, StorageError
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Indices, images_of

PAIRS_PER_FILE = 64
LIMIT_GIB = 50.0
INDEX = "cache.json"
GIB = 1 << 30

Activations = npt.NDArray[np.uint16 | np.float32]


@dataclass(frozen=True)
class FeatureCache:
    """The activations of one list of pairs; zeros for an image that a pair lacks.

    Files hold fixed-size records, one per pair in order; a record is the clinical and the dermoscopy image's
    activations (H, W, C), and those of both images mirrored. Any range of a file can be read alone, locally and from
    object storage. ``shape`` is (H, W, C) of one image, ``dtype`` ``uint16`` (the bits of bfloat16) or ``float32``.
    """

    uri: str
    shape: tuple[int, int, int]
    dtype: str
    mirrored: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's activations."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def record_bytes(self) -> int:
        """Bytes of one pair."""
        return self.image_bytes * (4 if self.mirrored else 2)

    def file(self, index: int) -> str:
        """Return the URI of one file."""
        return storage.join(self.uri, f"{index:06d}.features")

    def touch(self, pairs: int) -> None:
        """Record that the cache, with this number of pairs, is in use."""
        record = {"bytes": self.record_bytes * pairs, "used_at": time.time()}
        storage.write_json(storage.join(self.uri, INDEX), record)

    def read(
        self, pairs: Sequence[LesionPair], positions: Indices, augmentation: Augmentation | None
    ) -> tuple[Activations, Activations]:
        """Return clinical and dermoscopy activations (B, H, W, C) of pairs at these places in the list.

        Those of images that a pair lacks are not read: they are zeros.

        Raises:
            StorageError: a file cannot be read, or is cut short.
        """
        filesystem, folder = storage.filesystem(self.uri)
        present = images_of(pairs)
        files: list[str] = []
        starts: list[int] = []
        for pair, row, has in zip(pairs, positions.tolist(), present, strict=True):
            for slot, modality in enumerate(Modality):
                if not has[slot]:
                    continue
                files.append(f"{folder}/{row // PAIRS_PER_FILE:06d}.features")
                mirrored = self.mirrored and augmentation is not None and augmentation.mirrors(pair, modality)
                image = slot + 2 * mirrored
                starts.append(row % PAIRS_PER_FILE * self.record_bytes + image * self.image_bytes)
        with storage.translate_errors(self.uri):
            ends = [start + self.image_bytes for start in starts]
            parts = filesystem.cat_ranges(files, starts, ends, on_error="raise")
        if any(len(part) != self.image_bytes for part in parts):
            raise StorageError(f"{self.uri}: its files are truncated. Delete this folder; it will be computed again.")
        images = np.zeros((2, len(pairs), *self.shape), self.dtype)
        images.swapaxes(0, 1)[present] = np.frombuffer(b"".join(parts), self.dtype).reshape(-1, *self.shape)
        return images[0], images[1]


def evict_caches(folder: str, caches: Sequence[tuple[FeatureCache, int]], limit_gib: float) -> None:
    """Remove a folder's least recently used caches until these, each with its number of pairs, fit; mark these as used.

    Raises:
        ConfigError: they do not fit alone.
    """
    sizes = {cache.uri: cache.record_bytes * pairs for cache, pairs in caches}
    needed = sum(sizes.values())
    if needed > limit_gib * GIB:
        raise ConfigError(
            f"{folder}: the activations need {needed / GIB:.1f} GiB, the limit is {limit_gib:g} GiB. Raise "
            "--cache-limit."
        )
    others = {}
    found = storage.list_files(folder)
    for uri in {storage.parent(file) for file in found if file.endswith((".features", f"/{INDEX}"))} - sizes.keys():
        if storage.join(uri, INDEX) in found:
            others[uri] = storage.read_json(storage.join(uri, INDEX))
        else:
            storage.remove_tree(uri)  # left over from an interrupted removal
    by_age = sorted(others, key=lambda uri: float(others[uri]["used_at"]))
    while by_age and needed + sum(others[uri]["bytes"] for uri in by_age) > limit_gib * GIB:
        storage.remove_tree(by_age.pop(0))
    for cache, pairs in caches:
        cache.touch(pairs)
