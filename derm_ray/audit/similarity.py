"""Whether two images show the same photo: the correlation of their details, once one is laid on the other."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from derm_ray.audit.fingerprint import SPEC, THREADS
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.preprocessing import Pixels, load_image
from derm_ray.errors import ImageError

SIDE = 64
_STEPS = 4
_MOST_SCALE, _MOST_SHIFT = 0.12, 0.06
"""Shares of the side by which one image may be larger than the other, and moved."""
_BORDER = 2
_FINE, _COARSE = 0.7, 4.0
"""Details are what lies between these scales, in pixels: neither noise nor a dark spot in the middle."""

Gray = npt.NDArray[np.float32]


def similarities(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the similarity of each pair of images by URI, -1..1; -1 where one cannot be read any more."""
    names = sorted({uri for pair in pairs for uri in pair})

    def one(uri: str) -> Gray | None:
        try:
            return thumbnail(load_image(uri, SPEC, reader).pixels)
        except ImageError:
            return None

    with ImageReader(names) as reader, ThreadPoolExecutor(THREADS) as threads:
        images = dict(zip(names, threads.map(one, names), strict=True))
    return [
        -1.0 if (a := images[first]) is None or (b := images[second]) is None else similarity(a, b)
        for first, second in pairs
    ]


def thumbnail(pixels: Pixels) -> Gray:
    """Return an image's luma, (SIDE, SIDE), 0..255."""
    small = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def similarity(first: Gray, second: Gray) -> float:
    """Return the correlation of details of two thumbnails, -1..1, the larger one of either laid on the other.

    0 where one has no details.
    """
    return max(_laid_on(first, second), _laid_on(second, first))


def _laid_on(moving: Gray, fixed: Gray) -> float:
    """Fit scale and shift of each axis by Gauss-Newton, with gain and offset (Lucas & Kanade 1981); correlate."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    down, across = ((axis - (SIDE - 1) / 2) / SIDE for axis in (y, x))
    smooth, target = gaussian_filter(moving, 1), gaussian_filter(fixed, 1)
    slopes = np.gradient(smooth)
    inner = slice(_BORDER, -_BORDER)
    limits = np.array([_MOST_SCALE, _MOST_SHIFT] * 2)
    motion = np.zeros(4)  # scale and shift down, scale and shift across

    def places() -> tuple[Gray, Gray]:
        return (y + SIDE * (motion[0] * down + motion[1]), x + SIDE * (motion[2] * across + motion[3]))

    for _ in range(_STEPS):
        there = places()
        seen, steep, flat = (map_coordinates(v, there, order=1, mode="nearest") for v in (smooth, *slopes))
        columns = [SIDE * steep * down, SIDE * steep, SIDE * flat * across, SIDE * flat, seen, np.ones_like(seen)]
        matrix = np.stack([column[inner, inner].ravel() for column in columns], 1)
        solved = np.linalg.lstsq(matrix, target[inner, inner].ravel(), rcond=None)[0]
        gain = solved[4] if abs(solved[4]) > 0.3 else 1.0
        motion = np.clip(motion + np.clip(solved[:4] / gain, -0.03, 0.03), -limits, limits)
    there = places()
    common = (there[0] >= 0) & (there[0] <= SIDE - 1) & (there[1] >= 0) & (there[1] <= SIDE - 1)
    common[:_BORDER] = common[-_BORDER:] = common[:, :_BORDER] = common[:, -_BORDER:] = False
    laid = map_coordinates(moving, there, order=1, mode="nearest")
    one, other = (gaussian_filter(v, _FINE) - gaussian_filter(v, _COARSE) for v in (laid, fixed))
    if one[common].std() < 1e-3 or other[common].std() < 1e-3:
        return 0.0
    return float(np.corrcoef(one[common], other[common])[0, 1])
