"""What decoding makes of test images, against their references."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode
from tests.corpus import Specimen

TOLERANCE = 2
"""Levels of 255."""


def compared(specimens: Iterable[Specimen]) -> Counter[str]:
    """Return how many specimens were read and refused, having failed for all that are read wrongly."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for specimen in specimens:
        try:
            image = np.asarray(decode(specimen.data).image, np.int16)
        except ImageError as error:
            counts["refused"] += 1
            if specimen.required or error.code is not ImageErrorCode.UNSUPPORTED:
                wrong.append(f"{specimen.name}: {error.code}: {error.message}")
            continue
        counts["read"] += 1
        expected = specimen.reference()
        if image.shape != expected.shape:
            wrong.append(f"{specimen.name}: {image.shape}, not {expected.shape}")
        elif (off := np.abs(image - expected).max()) > TOLERANCE:
            wrong.append(f"{specimen.name}: off by {off}")
    assert not wrong, f"{len(wrong)} of {counts.total()}:\n" + "\n".join(wrong)
    return counts
