"""What the audit keeps of one image: the digest of its file, perceptual hashes and measures."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.decode import decode
from derm_ray.data.preprocessing import LoadedImage, Pixels, Preprocessing
from derm_ray.data.statistics import measure
from derm_ray.errors import ImageError

SPEC = Preprocessing()
THREADS = 8
MEASURES = ("brightness", "sharpness", "shorter_side", "skin")
HASH_BYTES = 32
_BITS_EACH_WAY = 16
_SIDE = 128
_CUT = 4
"""Pixels of :data:`_SIDE`, 3.1%."""
CROPS = ((0, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0), (0, 1, 1, 0), (1, 0, 0, 1), (0, 0, 1, 1))
"""Sides (left, top, right, bottom) that each hash of an image leaves out: none, all, and those at each corner. An
image that was cropped resembles one of these more than the whole."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Of N images.

    Attributes:
        digests: SHA-256 of the file's bytes (N, 32); zeros where it cannot be read.
        hashes: perceptual hashes of the image, whole and cropped (N, len(CROPS), 32).
        measures: see :data:`MEASURES` (N, 4); NaN where the image cannot be decoded.
        errors: image -> its error's code and message.
    """

    digests: Bytes
    hashes: Bytes
    measures: npt.NDArray[np.float32]
    errors: dict[int, tuple[str, str]]

    @classmethod
    def empty(cls, count: int) -> "Fingerprints":
        """Return those of images of which nothing is known yet."""
        return cls(
            np.zeros((count, 32), np.uint8),
            np.zeros((count, len(CROPS), HASH_BYTES), np.uint8),
            np.full((count, len(MEASURES)), np.nan, np.float32),
            {},
        )

    def put(self, start: int, some: "Fingerprints") -> None:
        """Set those of consecutive images."""
        stop = start + len(some.digests)
        self.digests[start:stop], self.hashes[start:stop] = some.digests, some.hashes
        self.measures[start:stop] = some.measures
        self.errors.update({start + index: error for index, error in some.errors.items()})


def fingerprint(uris: Sequence[str]) -> Fingerprints:
    """Read, decode and measure images; those that cannot be used become errors."""
    found = Fingerprints.empty(len(uris))

    def one(index: int) -> None:
        try:
            data = reader.read(uris[index])
            found.digests[index] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
            decoded = decode(data, side=SPEC.size)
            pixels = SPEC.resize(decoded.image)
        except ImageError as error:
            found.errors[index] = (str(error.code), error.message)
            return
        found.hashes[index] = perceptual_hashes(pixels)
        statistics = measure(LoadedImage(pixels, decoded.shorter_side))
        found.measures[index] = (
            statistics.brightness,
            statistics.sharpness,
            statistics.resolution,
            skin_share(pixels),
        )

    with ImageReader(uris) as reader, ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(one, range(len(uris))):
            pass
    return found


def perceptual_hashes(pixels: Pixels) -> Bytes:
    """Return the perceptual hashes (pHash, Zauner 2010) of an image and of its crops (len(CROPS), 32)."""
    import imagehash

    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("L")
    cut = [[side * _CUT for side in crop] for crop in CROPS]
    parts = [small.crop((left, top, _SIDE - right, _SIDE - bottom)) for left, top, right, bottom in cut]
    bits = [imagehash.phash(part, _BITS_EACH_WAY).hash.ravel() for part in parts]
    return np.packbits(np.array(bits), axis=1)


def skin_share(pixels: Pixels) -> float:
    """Return the share of pixels of the color of skin, 0..1: Cb in 77..136 and Cr in 133..173.

    Source: Chai & Ngan 1999, with 136 in place of 127, since dermoscopy images of pink skin are bluer. The rule does
    not depend on brightness, so that it holds for dark skin; wood and sand have such colors too.
    """
    chroma = np.asarray(Image.fromarray(pixels).convert("YCbCr"))[..., 1:]
    inside = (chroma >= (77, 133)) & (chroma <= (136, 173))
    return float(inside.all(-1).mean())
