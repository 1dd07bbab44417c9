"""ICC profiles of images become sRGB."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode

from .image_files import RAMP, WIDE_GAMUT, decoded, encoded, gradient, matrix_profile


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_wide_gamut_profile_moves_the_colors(kind: str) -> None:
    picture = Image.new("RGB", (16, 16), (180, 120, 100))
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    plain = decoded(encoded(picture, kind, **options)).astype(int)
    profiled = decoded(encoded(picture, kind, icc_profile=WIDE_GAMUT, **options)).astype(int)
    red, _, blue = (profiled - plain)[8, 8]
    assert red > 20, "the same numbers mean a stronger red in a wider gamut"
    assert blue < 0
    white = decoded(encoded(Image.new("RGB", (16, 16), "white"), kind, icc_profile=WIDE_GAMUT, **options))
    assert white.min() >= 254


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_linear_bits_are_too_dark_for_eight(kind: str) -> None:
    linear = matrix_profile(1.0, [(0.6484, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660)])
    deep = Image.fromarray(RAMP)
    gray = linear.replace(b"mntrRGB ", b"mntrGRAY").replace(b"rTRC", b"kTRC")
    with pytest.raises(ImageError, match="16-bit image with a linear color profile") as caught:
        decode(encoded(deep, kind, icc_profile=gray))
    assert caught.value.code is ImageErrorCode.UNSUPPORTED
    shown = decoded(encoded(deep.point(lambda level: level / 256).convert("L"), kind, icc_profile=gray))
    assert shown[0, 8, 0] > 80, "of 32 linear levels"
    # Of a usual gamma, the upper 8 bits are enough.
    usual = (
        matrix_profile(1.8, [(0.6484, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660)])
        .replace(b"mntrRGB ", b"mntrGRAY")
        .replace(b"rTRC", b"kTRC")
    )
    assert decoded(encoded(deep, kind, icc_profile=usual)).shape == (8, 64, 3)


def test_an_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decoded(encoded(gradient(), "PNG", icc_profile=srgb)), np.asarray(gradient()))
    same = matrix_profile(1.0, [(0.6484, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660)])
    assert not np.array_equal(decoded(encoded(gradient(), "PNG", icc_profile=same)), np.asarray(gradient()))


@pytest.mark.parametrize("profile", [b"no profile", WIDE_GAMUT[:200], WIDE_GAMUT[:-1], b"\0" * 400])
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    shown = decoded(encoded(gradient(), "PNG", icc_profile=profile))
    assert shown.shape == (20, 40, 3)
    if profile != WIDE_GAMUT[:-1]:
        assert np.array_equal(shown, np.asarray(gradient()))


def test_a_profile_for_other_pixels_is_ignored() -> None:
    gray = gradient().convert("L")
    shown = decoded(encoded(gray, "PNG", icc_profile=WIDE_GAMUT))
    assert np.array_equal(shown[..., 0], np.asarray(gray))
