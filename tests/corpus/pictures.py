"""Source pixels of test images, and what they look like in 8 bits."""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
SIZES = ((16, 24), (17, 33), (31, 19), (32, 32))


def picture(rng: np.random.Generator, channels: int, bits: int) -> Pixels:
    """Return (height, width, channels) of full-range gradients with patches of black, white, saturation and noise."""
    height, width = SIZES[rng.integers(len(SIZES))]
    y, x = np.mgrid[:height, :width]
    turns = rng.uniform(0, 2 * np.pi, channels)
    slopes = np.stack([np.cos(t) * x / width + np.sin(t) * y / height for t in turns], -1)
    values = (slopes - slopes.min()) / np.ptp(slopes)
    values[:4, :4], values[:4, 4:8] = 0, 1
    values[4:8, :4], values[4:8, :4, rng.integers(channels)] = 0, 1
    values[-8:, -8:] = rng.uniform(0, 1, (8, 8, channels))
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def levels(values: Pixels, bits: int) -> npt.NDArray[np.float64]:
    """Return values of a depth as levels of 0..255."""
    return values * (255 / (2**bits - 1))


def on_white(colors: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return levels laid on white: (height, width, n), and (height, width) of 0..255."""
    share = alpha[..., None] / 255
    return colors * share + 255 * (1 - share)


def rgb(shown: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return levels of one or three channels as an RGB image."""
    if shown.ndim == 2:
        shown = shown[..., None]
    return np.broadcast_to(np.clip(np.rint(shown), 0, 255).astype(np.uint8), (*shown.shape[:2], 3))


def of_inks(inks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the colors of cyan, magenta, yellow and black, in levels of 0..255."""
    return (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255


def of_ycc(ycc: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the colors of JFIF's YCbCr, in levels of 0..255."""
    y, cb, cr = np.moveaxis(ycc - [0, 128, 128], -1, 0)
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
