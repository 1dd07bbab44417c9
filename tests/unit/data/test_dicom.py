"""Pixels of DICOM files, shown as the standard displays them."""

import re

import imagecodecs
import numpy as np
import pydicom.uid as uids
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space

from derm_ray.data import image_errors
from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode

from .dicom_files import CLINICAL, DERMOSCOPY, PICTURE, RAMP, SECONDARY, dicom, encoded, gray, refused, shown


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian])
@pytest.mark.parametrize("sop_class", [DERMOSCOPY, CLINICAL, SECONDARY, "1.2.840.10008.5.1.4.1.1.7.4"])
def test_native_pixels_are_shown_as_they_are(syntax: str, sop_class: str) -> None:
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), syntax, sop_class)), PICTURE)


def test_native_planes_and_other_color_spaces_become_rgb() -> None:
    planes = np.moveaxis(PICTURE, 2, 0)
    assert np.array_equal(shown(dicom(planes.tobytes(), PlanarConfiguration=1)), PICTURE)
    ybr = convert_color_space(PICTURE, "RGB", "YBR_FULL")
    full = shown(dicom(ybr.tobytes(), PhotometricInterpretation="YBR_FULL"))
    assert np.abs(full.astype(int) - PICTURE).max() <= 2
    halved = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], -1)
    subsampled = shown(dicom(halved.tobytes(), PhotometricInterpretation="YBR_FULL_422"))
    assert np.abs(subsampled.astype(int) - PICTURE).max() <= 2
    deep = dicom((PICTURE.astype(np.uint16) << 4).tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11)
    assert np.array_equal(shown(deep), PICTURE)


def test_grays_keep_their_brightness_and_polarity() -> None:
    expected = np.rint(RAMP / 4095 * 255)
    assert np.array_equal(shown(gray(RAMP, 12))[..., 0], expected)
    assert np.array_equal(shown(gray(RAMP, 12, PhotometricInterpretation="MONOCHROME1"))[..., 0], 255 - expected)
    signed = (RAMP.astype(np.int16) - 2048) & np.int16(0x0FFF)
    assert np.array_equal(shown(gray(signed, 12, PixelRepresentation=1))[..., 0], expected)
    eight = (RAMP >> 4).astype(np.uint8)
    assert np.array_equal(shown(gray(eight, 8))[..., 1], eight)


def test_a_window_stretches_what_it_shows() -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 1000}
    middle = shown(gray(RAMP, 12, **window))[0, :, 0]
    assert middle[0] == 0
    assert middle[-1] == 255
    assert abs(int(middle[6]) - round((1020 - 500) / 999 * 255)) <= 1
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), **window)), PICTURE), "colors have no window"
    rescaled = gray(RAMP, 12, WindowCenter=[900, 5], WindowWidth=[1000, 5], RescaleSlope=1, RescaleIntercept=-100)
    assert np.array_equal(shown(rescaled)[0, :, 0], middle)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("odd", [0, 1])
def test_bytes_in_big_endian_words_are_swapped(frames: int, odd: int) -> None:
    picture = PICTURE[: 16 - odd, : 24 - odd]
    every = np.concatenate([picture.ravel()] + [255 - picture.ravel()] * (frames - 1))
    elements = {"NumberOfFrames": frames, "Rows": picture.shape[0], "Columns": picture.shape[1]}
    every = np.append(every, np.zeros(every.size % 2, np.uint8))
    for vr, data in (("OB", every.tobytes()), ("OW", every.view("<u2").astype(">u2").tobytes())):
        file = dicom(data, uids.ExplicitVRBigEndian, **elements)
        assert np.array_equal(shown(file.replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10" + vr.encode())), picture)


def test_an_element_without_a_value_counts_as_absent() -> None:
    eight = (RAMP >> 4).astype(np.uint8)
    for names in (("WindowCenter", "WindowWidth"), ("RescaleSlope", "RescaleIntercept"), ("VOILUTFunction", "HighBit")):
        assert np.array_equal(shown(gray(eight, 8, **dict.fromkeys(names)))[..., 0], eight)
    assert np.array_equal(shown(gray(eight, 8, VOILUTSequence=[], ModalityLUTSequence=[]))[..., 0], eight)
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), NumberOfFrames=None, ICCProfile=None)), PICTURE)
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), PixelRepresentation=None)), PICTURE), "colors have no sign"
    missing = refused(dicom(PICTURE.tobytes(), BitsStored=None, Rows=None))
    assert (missing.code, missing.message) == (
        ImageErrorCode.CORRUPT,
        "the DICOM header has no value for Rows, BitsStored",
    )


def test_names_in_small_letters_and_odd_depths_are_read() -> None:
    small = dicom(PICTURE.tobytes()).replace(b"CS\4\0RGB ", b"CS\4\0rgb ")
    assert np.array_equal(shown(small), PICTURE)
    seven = shown(dicom((PICTURE >> 1).tobytes(), BitsStored=7, HighBit=6))
    assert np.array_equal(seven, np.rint((PICTURE >> 1) * (255 / 127)))


def test_a_profile_of_the_data_set_is_honored() -> None:
    from tests.unit.data.image_files import WIDE_GAMUT

    plain = dicom(PICTURE.tobytes())
    profiled = dicom(PICTURE.tobytes(), ICCProfile=WIDE_GAMUT)
    frame = encapsulate([encoded("JPEG", quality=95)])
    assert (shown(profiled)[0, 0].astype(int) - shown(plain)[0, 0])[0] > 20
    assert shown(dicom(frame, uids.JPEGBaseline8Bit, ICCProfile=WIDE_GAMUT))[0, 0, 0] > 220
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), ICCProfile=b"garbage!")), PICTURE)


def test_the_first_of_several_frames_is_taken_and_flagged() -> None:
    two = PICTURE.tobytes() + bytes(PICTURE.nbytes)
    decoded = decode(dicom(two, NumberOfFrames=2))
    assert decoded.flags == ("animated",)
    assert np.array_equal(np.asarray(decoded.image), PICTURE)
    frames = encapsulate([encoded("JPEG", quality=95), encoded("JPEG", Image.new("RGB", (24, 16)))])
    packed = decode(dicom(frames, uids.JPEGBaseline8Bit, NumberOfFrames=2, BurnedInAnnotation="YES"))
    assert packed.flags == ("animated", "burned_in_annotation")
    assert np.abs(np.asarray(packed.image).astype(int) - PICTURE).mean() < 3
    assert decode(dicom(PICTURE.tobytes(), BurnedInAnnotation="NO")).flags == ()


def test_what_is_not_supported_is_named() -> None:
    error = refused(dicom(PICTURE.tobytes(), sop_class=uids.CTImageStorage))
    assert error.code is ImageErrorCode.UNSUPPORTED
    assert "CT Image Storage (1.2.840.10008.5.1.4.1.1.2)" in error.message
    for syntax in (uids.RLELossless, uids.JPEGLSLossless, uids.DeflatedExplicitVRLittleEndian):
        pixels = encapsulate([bytes(64)]) if syntax.is_encapsulated else PICTURE.tobytes()
        error = refused(dicom(pixels, syntax))
        assert error.code is ImageErrorCode.UNSUPPORTED
        assert syntax.name in error.message
    deep = np.zeros((16, 24, 3), np.uint32).tobytes()
    twelve = imagecodecs.jpeg8_encode(RAMP, level=95, bitspersample=12)
    wide = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    gray_jpeg = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    for data, named in (
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="HSV"), "HSV"),
        (dicom(bytes(384), SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
        (dicom(deep, BitsAllocated=32, BitsStored=32, HighBit=31), "32 of 32 bits"),
        (dicom(deep, BitsAllocated=16, BitsStored=16, PhotometricInterpretation="YBR_FULL"), "YBR_FULL, 16 of 16"),
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="YBR_RCT"), "uncompressed.*YBR_RCT"),
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="YBR_FULL_422"), "YBR_FULL_422 that is planar"),
        (dicom(PICTURE.tobytes(), PixelRepresentation=1), "signed"),
        (gray(RAMP, 12, HighBit=15), "high bit 15"),
        (gray(RAMP, 12, WindowCenter=5, WindowWidth=0), "Window Width"),
        (gray(RAMP, 12, WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBIC"), "CUBIC"),
        (gray(RAMP, 12, RescaleSlope=0, RescaleIntercept=1), "slope of 0"),
        (
            dicom(encapsulate([twelve]), uids.JPEGExtended12Bit, **gray_jpeg, **wide),
            "JPEG frames that do not have 8 unsigned bits.*12 of 16 bits",
        ),
        (dicom(encapsulate([twelve]), uids.JPEGExtended12Bit, **gray_jpeg), "12-bit"),
        (dicom(PICTURE.tobytes()).replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x08\0OF"), "floating-point"),
    ):
        error = refused(data)
        assert error.code is ImageErrorCode.UNSUPPORTED
        assert re.search(named, error.message)
        assert error.message.endswith("is not supported. Export the image as 8-bit PNG or JPEG")


def test_the_pixel_cap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_errors, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="at most") as caught:
        decode(dicom(PICTURE.tobytes()))
    assert caught.value.code is ImageErrorCode.TOO_MANY_PIXELS
