import io
from collections.abc import Callable

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing, image_from_bytes
from derm_ray.data.statistics import ImageStatistics, measure
from derm_ray.domain import Modality
from derm_ray.storage import read_bytes

ORIENTATION = 0x0112


@pytest.fixture
def photo(pairs: Manifest) -> Image.Image:
    return Image.open(io.BytesIO(read_bytes(str(pairs.pairs()[0].dermoscopy_uri))))


def measured(image: Image.Image, **options: object) -> ImageStatistics:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95, **options)
    return measure(image_from_bytes(Modality.DERMOSCOPY, sink.getvalue(), Preprocessing(96)))


def test_of_one_color() -> None:
    gray = measured(Image.new("RGB", (300, 200), (100, 100, 100)))
    assert gray == ImageStatistics(pytest.approx(100, abs=1), pytest.approx(0, abs=1e-9), 200)


@pytest.mark.parametrize(
    ("change", "brightness", "sharpness"),
    [
        (lambda image: ImageEnhance.Brightness(image).enhance(0.5), 0.5, 0.25),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1.0, 1.0),
    ],
)
def test_light_and_mirroring(
    photo: Image.Image, change: Callable[[Image.Image], Image.Image], brightness: float, sharpness: float
) -> None:
    before, after = measured(photo), measured(change(photo))
    assert after.brightness == pytest.approx(brightness * before.brightness, rel=0.02)
    assert after.sharpness == pytest.approx(sharpness * before.sharpness, rel=0.1)


def test_blur_takes_sharpness_and_leaves_the_light(photo: Image.Image) -> None:
    before, after = measured(photo), measured(photo.filter(ImageFilter.GaussianBlur(3)))
    assert after.brightness == pytest.approx(before.brightness, rel=0.02)
    assert after.sharpness < 0.2 * before.sharpness


def test_the_resolution_is_that_of_the_file_however_it_is_decoded(photo: Image.Image) -> None:
    large = photo.resize((1000, 800))
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    assert measured(large).resolution == measured(large, exif=turned).resolution == 800
    assert measured(photo.resize((50, 40))).resolution == 40
