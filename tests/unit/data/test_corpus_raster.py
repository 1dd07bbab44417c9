"""Images of every layout but DICOM against independent decoders and the formats' own formulas."""

from itertools import islice

import pytest

from tests.corpus.comparison import compared
from tests.corpus.rasters import raster_specimens


def test_a_sample_is_read_right_or_named_as_unsupported() -> None:
    counts = compared(islice(raster_specimens(19), 150))
    assert counts["read"] >= 90


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_are_read_right_or_named_as_unsupported(seed: int) -> None:
    counts = compared(raster_specimens(seed))
    assert counts.total() >= 2_300
    assert counts["read"] >= 0.65 * counts.total()
