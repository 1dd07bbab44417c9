"""Encapsulated DICOM frames, JPEG and JPEG 2000."""

import imagecodecs
import numpy as np
import pydicom.uid as uids
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from derm_ray.errors import ImageErrorCode

from .dicom_files import PICTURE, RAMP, dicom, encoded, gray, refused, shown


def jpeg_without_marks(bands: Image.Image) -> bytes:
    """A JPEG of three bands stored as they are, without a JFIF or Adobe marker."""
    data = encoded("JPEG", bands, quality=95, subsampling=0, keep_rgb=True)
    mark = data[2:4]
    assert mark in (b"\xff\xe0", b"\xff\xee")
    data = data[:2] + data[(20 if mark == b"\xff\xe0" else 18) :]
    frame = data.index(b"\xff\xc0")
    for band, place in enumerate((frame + 10, frame + 13, frame + 16), 1):
        data = data[:place] + bytes([band]) + data[place + 1 :]
    scan = data.index(b"\xff\xda")
    for band, place in enumerate((scan + 5, scan + 7, scan + 9), 1):
        data = data[:place] + bytes([band]) + data[place + 1 :]
    return data


@pytest.mark.parametrize(
    ("syntax", "photometric", "frame"),
    [
        (uids.JPEGBaseline8Bit, "YBR_FULL_422", encoded("JPEG", quality=95)),
        (uids.JPEGBaseline8Bit, "RGB", encoded("JPEG", quality=95)),  # the header is wrong, JFIF is right
        (uids.JPEGBaseline8Bit, "RGB", encoded("JPEG", quality=95, keep_rgb=True)),
        (uids.JPEGBaseline8Bit, "RGB", jpeg_without_marks(Image.fromarray(PICTURE))),
        (uids.JPEGBaseline8Bit, "YBR_FULL", jpeg_without_marks(Image.fromarray(PICTURE).convert("YCbCr"))),
        (uids.JPEG2000, "YBR_ICT", encoded("JPEG2000", no_jp2=True, irreversible=True)),
        (uids.JPEG2000Lossless, "YBR_RCT", encoded("JPEG2000", no_jp2=True)),
        (uids.JPEG2000Lossless, "RGB", encoded("JPEG2000", no_jp2=True, mct=0)),
    ],
)
def test_encapsulated_frames_show_the_same_picture(syntax: str, photometric: str, frame: bytes) -> None:
    data = dicom(encapsulate([frame]), syntax, PhotometricInterpretation=photometric)
    assert np.abs(shown(data).astype(int) - PICTURE).mean() < 3
    in_pieces = dicom(encapsulate([frame], fragments_per_frame=3), syntax, PhotometricInterpretation=photometric)
    assert np.array_equal(shown(in_pieces), shown(data))


def test_encapsulated_colors_that_were_not_converted_are_converted() -> None:
    bands = Image.merge("RGB", Image.fromarray(PICTURE).convert("YCbCr").split())
    frame = encapsulate([encoded("JPEG2000", bands, no_jp2=True, mct=0)])
    data = dicom(frame, uids.JPEG2000Lossless, PhotometricInterpretation="YBR_FULL")
    assert np.abs(shown(data).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_encapsulated_grays_keep_their_brightness(photometric: str) -> None:
    frame = encapsulate([encoded("JPEG2000", Image.fromarray(RAMP << 4), no_jp2=True)])
    elements = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "SamplesPerPixel": 1}
    data = dicom(frame, uids.JPEG2000Lossless, PhotometricInterpretation=photometric, **elements)
    expected = np.rint((RAMP << 4) / 65535 * 255)
    assert np.array_equal(shown(data)[..., 0], 255 - expected if photometric == "MONOCHROME1" else expected)


def jpeg_2000(values: np.ndarray, bits: int = 8, **options: object) -> bytes:
    """An encapsulated frame without loss."""
    kept = {"codecformat": "j2k", "level": 0, "reversible": True, "bitspersample": bits} | options
    return encapsulate([imagecodecs.jpeg2k_encode(values, **kept)])


def packed_gray(frame: bytes, bits: int, signed: bool = False, **more: object) -> bytes:
    elements = {"BitsAllocated": 16, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    gray = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    return dicom(frame, uids.JPEG2000Lossless, **(elements | gray | more))


def test_jpeg_2000_and_native_values_show_the_same() -> None:
    """Whatever their sign, and whatever bits and sign the codestream says."""
    unsigned = RAMP.astype(np.uint16)
    signed = RAMP.astype(np.int16) - 2048
    expected = shown(gray(unsigned, 12))
    assert np.array_equal(shown(gray(signed, 12, PixelRepresentation=1)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(unsigned, 12), 12)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(unsigned, 16), 12)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(signed, 12), 12, signed=True)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(signed, 16), 12, signed=True)), expected)
    as_unsigned = jpeg_2000((signed & 0xFFF).astype(np.uint16), 12)
    assert np.array_equal(shown(packed_gray(as_unsigned, 12, signed=True)), expected)
    ambiguous = refused(packed_gray(jpeg_2000(unsigned, 16), 12, signed=True))
    assert ambiguous.code is ImageErrorCode.UNSUPPORTED


def test_a_frame_that_contradicts_its_header_is_refused() -> None:
    wide = refused(dicom(jpeg_2000(PICTURE), uids.JPEG2000Lossless, Columns=23))
    assert (wide.code, wide.message) == (ImageErrorCode.CORRUPT, "the frame is 24 x 16, its DICOM header says 23 x 16")
    bands = dicom(jpeg_2000(PICTURE), uids.JPEG2000Lossless, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    deep = dicom(jpeg_2000(PICTURE.astype(np.uint16) << 4, 12), uids.JPEG2000Lossless)
    converted = dicom(jpeg_2000(PICTURE, mct=True), uids.JPEG2000Lossless, PhotometricInterpretation="YBR_FULL")
    signed = dicom(jpeg_2000(PICTURE.astype(np.int8)), uids.JPEG2000Lossless)
    for data in (bands, deep, converted, signed):
        assert refused(data).code is ImageErrorCode.UNSUPPORTED
    whole = encoded("JPEG2000", no_jp2=True, tile_size=(8, 8))
    first_tile = whole[: whole.index(b"\xff\x90", whole.index(b"\xff\x90") + 2)]
    assert np.array_equal(shown(dicom(encapsulate([whole]), uids.JPEG2000Lossless)), PICTURE)
    partly = refused(dicom(encapsulate([first_tile + b"\xff\xd9"]), uids.JPEG2000Lossless))
    assert partly.code is ImageErrorCode.CORRUPT
    assert "1 of 6 tiles" in partly.message


def test_the_marks_of_a_jpeg_frame_tell_its_colors() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jfif = encoded("JPEG", quality=95, exif=exif, subsampling=0)
    length = int.from_bytes(jfif[4:6], "big")
    camera = jfif[:2] + jfif[4 + length :]  # EXIF, no JFIF
    subsampled = encoded("JPEG", quality=95, subsampling=2)
    unmarked = subsampled[:2] + subsampled[4 + int.from_bytes(subsampled[4:6], "big") :]
    for frame in (jfif, camera, subsampled, unmarked):
        colors = shown(dicom(encapsulate([frame]), uids.JPEGBaseline8Bit))
        assert np.abs(colors.astype(int) - PICTURE).mean() < 3, "as it is stored: a DICOM header knows no EXIF"
