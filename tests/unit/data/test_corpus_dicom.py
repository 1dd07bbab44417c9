"""DICOM files of every layout against the formulas of the standard."""

from itertools import islice

import pytest

from tests.corpus.comparison import compared
from tests.corpus.dicoms import dicom_specimens


def test_a_sample_is_shown_as_the_standard_says() -> None:
    counts = compared(islice(dicom_specimens(19), 100))
    assert counts["read"] >= 90


@pytest.mark.slow
def test_all_are_shown_as_the_standard_says() -> None:
    counts = compared(dicom_specimens(1))
    assert counts.total() >= 900
    assert counts["read"] >= 0.97 * counts.total()
