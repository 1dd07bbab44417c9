"""DICOM files of every layout against the formulas of the standard."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import numpy as np
import pytest

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode
from tests.corpus import Specimen
from tests.corpus.dicoms import dicom_specimens

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


def test_a_sample_is_shown_as_the_standard_says() -> None:
    counts = compared(islice(dicom_specimens(19), 100))
    assert counts["read"] >= 90


@pytest.mark.slow
def test_all_are_shown_as_the_standard_says() -> None:
    counts = compared(dicom_specimens(1))
    assert counts.total() >= 900
    assert counts["read"] >= 0.97 * counts.total()
