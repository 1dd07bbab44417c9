"""Image statistics that do not depend on the content."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from derm_ray.data.preprocessing import LoadedImage


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of one image.

    Attributes:
        brightness: mean luma (ITU-R 601-2) of the square that the model sees, 0..255.
        sharpness: variance of the Laplacian of that luma (Pech-Pacheco et al. 2000); blur lowers it.
        resolution: shorter side of the image as it was stored, in pixels.
    """

    brightness: float
    sharpness: float
    resolution: int


def measure(image: LoadedImage) -> ImageStatistics:
    """Measure one image; see :class:`ImageStatistics`."""
    luma = np.asarray(Image.fromarray(image.pixels).convert("L"), np.int16)
    rows = luma[:-2, 1:-1] + luma[2:, 1:-1]
    columns = luma[1:-1, :-2] + luma[1:-1, 2:]
    laplacian = (rows + columns - 4 * luma[1:-1, 1:-1]).astype(np.float32)
    return ImageStatistics(float(luma.mean()), float(laplacian.var()), image.shorter_side)
