"""Images of every layout that files have, with what an independent decoder makes of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Specimen:
    """An encoded image.

    Attributes:
        name: its layout, in words.
        data: the file's bytes.
        reference: returns upright sRGB pixels, (height, width, 3) uint8, decoded without derm_ray or Pillow.
        required: whether it has to be read; the others may be refused as ``unsupported``.
    """

    name: str
    data: bytes
    reference: Callable[[], npt.NDArray[np.uint8]]
    required: bool = True
