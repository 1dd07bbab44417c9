"""Layouts that Pillow reads wrongly or calls damaged: each is read right, or refused by its name."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ImageCms

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode

ORANGE = [200, 100, 20]
DEEP_ORANGE = np.full((16, 16, 3), np.array(ORANGE, np.uint16) << 8 | 0x55)
GRAY = np.full((16, 16), 90, np.uint8)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def bmp(pixels: bytes, bits: int, *masks: int, size: int = 40) -> bytes:
    """A BMP of 2 x 2 pixels with bit fields."""
    fields = struct.pack(f"<{len(masks)}I", *masks)
    info = struct.pack("<IiiHHIIiiII", size, 2, 2, 1, bits, 3 if masks else 0, 0, 0, 0, 0, 0)
    start = 14 + len(info) + len(fields)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + fields + pixels


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data).image)


@pytest.mark.parametrize("level", [0, 60])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_white_of_a_deep_jpeg_2000_is_white(bits: int, level: int) -> None:
    pixels = np.full((32, 64, 3), 2 ** (bits - 1), np.uint16)
    pixels[:, 32:] = 2**bits - 1
    shown = decoded(imagecodecs.jpeg2k_encode(pixels, level=level, bitspersample=bits, codecformat="jp2"))
    assert (shown[:, 34:] == 255).all()
    assert np.abs(shown[:, :30].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("alpha", [False, True])
def test_tiffs_of_sixteen_bits_keep_their_upper_eight(
    alpha: bool, planar: str, compression: str | None, byteorder: str
) -> None:
    pixels = np.dstack([DEEP_ORANGE, np.full((16, 16), 65535, np.uint16)]) if alpha else DEEP_ORANGE
    pixels = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    data = tiff(pixels, byteorder=byteorder, photometric="rgb", planarconfig=planar, compression=compression, **extra)
    assert (decoded(data) == ORANGE).all()


@pytest.mark.parametrize("shift", [0, 8])
def test_a_palette_of_eight_bit_values_is_read_as_such(shift: int) -> None:
    colors = np.zeros((3, 256), np.uint16)
    colors[:, 5] = np.array(ORANGE) << shift
    assert (decoded(tiff(np.full((64, 64), 5, np.uint8), photometric="palette", colormap=colors)) == ORANGE).all()


UNSUPPORTED = {
    "12-bit JPEG": lambda: imagecodecs.jpeg_encode(GRAY.astype(np.uint16) * 16, bitspersample=12),
    "JPEG-LS": lambda: imagecodecs.jpegls_encode(GRAY),
    "lossless JPEG": lambda: imagecodecs.ljpeg_encode(GRAY),
    "TIFF with 32-bit floating-point pixels": lambda: tiff(np.ones((16, 16, 3), np.float32), photometric="rgb"),
    "TIFF with 32 bits per channel": lambda: tiff(np.ones((16, 16, 3), np.uint32), photometric="rgb"),
    "TIFF with 16-bit signed": lambda: tiff(np.ones((16, 16), np.int16)),
    "TIFF with 10 bits per channel": lambda: tiff(GRAY.astype(np.uint16), bitspersample=10),
    "TIFF compressed with an unknown method (number 34712)": lambda: tiff(
        DEEP_ORANGE, photometric="rgb", compression="jpeg2000"
    ),
    "TIFF compressed with webp": lambda: tiff(np.dstack([GRAY] * 3), photometric="rgb", compression="webp"),
    "TIFF compressed with 12-bit JPEG": lambda: tiff(GRAY.astype(np.uint16), compression="jpeg", bitspersample=12),
    "TIFF with other inks": lambda: tiff(
        np.dstack([GRAY] * 4), photometric="separated", extratags=[(332, 3, 1, 2, True)], metadata=None
    ),
    "TIFF with another black and white": lambda: tiff(
        np.dstack([GRAY] * 3), photometric="rgb", extratags=[(532, 5, 6, (16, 1, 235, 1) * 3, True)], metadata=None
    ),
    "TIFF compressed with an unknown method (number 50002)": lambda: tiff(
        np.dstack([GRAY] * 3), photometric="rgb", compression="jpegxl"
    ),
    "32-bit BMP with the masks 3FF00000": lambda: bmp(bytes(16), 32, 0x3FF00000, 0xFFC00, 0x3FF, 0, size=56),
    "16-bit BMP with the masks F00, F0, F, F000": lambda: bmp(bytes(8), 16, 0xF00, 0xF0, 0xF, 0xF000, size=56),
    "HEIC, as iPhones save photos,": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
    "AVIF": lambda: imagecodecs.avif_encode(np.dstack([GRAY] * 3)),
    "JPEG XL": lambda: imagecodecs.jpegxl_encode(GRAY),
    "JPEG XR": lambda: imagecodecs.jpegxr_encode(GRAY),
    "SVG": lambda: b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": lambda: b"%PDF-1.7\n",
    "JPEG 2000 with signed": lambda: imagecodecs.jpeg2k_encode(GRAY.astype(np.int16), codecformat="jp2"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_read_is_called_by_its_name(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(UNSUPPORTED[name]())
    assert caught.value.code is ImageErrorCode.UNSUPPORTED
    assert caught.value.message.startswith(name)
    assert "Export the image as 8-bit PNG or JPEG" in caught.value.message


def jp2(pixels: np.ndarray, color: bytes) -> bytes:
    """A JP2 file whose color specification box has the content given."""
    stream = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0)
    height, width, channels = pixels.shape
    boxes = [(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, 7, 7, 0, 0)), (b"colr", color)]
    header = b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in boxes)
    start = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    return start + struct.pack(">I4s", 8 + len(header), b"jp2h") + header + b"\0\0\0\0jp2c" + stream


def test_a_color_profile_of_a_jpeg_2000_is_applied() -> None:
    pixels = np.full((16, 16, 3), (180, 120, 100), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (decoded(jp2(pixels, b"\2\0\0" + srgb)) == pixels).all()
    # The primaries of red and green exchanged.
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    shown = decoded(jp2(pixels, b"\2\0\0" + swapped)).astype(int)
    assert np.abs(shown - (120, 180, 100)).max() <= 2


def test_components_of_a_jpeg_2000_with_other_sizes_are_named() -> None:
    data = bytearray(jp2(np.dstack([GRAY] * 3), struct.pack(">BBBI", 1, 0, 0, 16)))
    data[data.index(b"\xff\x51") + 44] = 2
    with pytest.raises(ImageError, match="unequal depth or size") as caught:
        decode(bytes(data))
    assert caught.value.code is ImageErrorCode.UNSUPPORTED
