"""Test-time augmentation: the views of an image whose predictions are averaged."""

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

TTA = {"none": 1, "flips": 4, "turns": 8}
"""Policy -> number of views: the image alone; mirrored left-right, up-down and both; and each of these turned by 90
degrees as well."""


def views(images_BHWC: Images, policy: str) -> list[Images]:
    """Return the views of square images (B, size, size, 3), the images themselves first."""
    if policy == "none":
        return [images_BHWC]
    flips = [images_BHWC[:, ::down, ::right] for down in (1, -1) for right in (1, -1)]
    turned = [view.swapaxes(1, 2) for view in flips] if policy == "turns" else []
    return [np.ascontiguousarray(view) for view in (*flips, *turned)]
