"""JPEG photos are decoded at the smallest scale that suffices."""

import numpy as np
import pytest
from PIL import Image

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode

from .image_files import WIDE_GAMUT, encoded, photo


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1600, 1200, (400, 300)),  # a quarter; an eighth would be 150 high
        (1795, 1801, (225, 226)),  # an eighth, rounded up
        (448, 900, (224, 450)),
        (447, 900, (447, 900)),
        (100, 80, (100, 80)),
    ],
)
def test_a_photo_is_decoded_no_larger_than_needed(width: int, height: int, size: tuple[int, int]) -> None:
    data = encoded(photo(width, height), quality=92)
    image = decode(data, side=224).image
    assert image.size == size
    squares = [np.asarray(i.resize((224, 224), Image.Resampling.BILINEAR), int) for i in (image, decode(data).image)]
    difference = np.abs(squares[0] - squares[1])
    assert difference.mean() < 1
    assert np.percentile(difference, 99) < 16  # at the edge


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_other_formats_are_decoded_in_full(kind: str) -> None:
    assert decode(encoded(photo(640, 480), kind), side=32).image.size == (640, 480)


def test_scaled_photos_are_turned_and_recolored_as_full_ones() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(800, 600), quality=92, exif=exif, icc_profile=WIDE_GAMUT)
    scaled, full = decode(data, side=100).image, decode(data).image
    assert (scaled.size, full.size) == ((150, 200), (600, 800))
    difference = np.asarray(scaled, int) - np.asarray(full.resize((150, 200), Image.Resampling.BOX), int)
    assert np.abs(difference).mean() < 1


def test_a_truncated_photo_is_damaged_at_any_scale() -> None:
    data = encoded(photo(800, 600))
    with pytest.raises(ImageError) as error:
        decode(data[: len(data) // 2], side=64)
    assert error.value.code is ImageErrorCode.CORRUPT
