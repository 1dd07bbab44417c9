import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 20) -> Image.Image:
    x = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[: height // 2, :, 2] = x, 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that undoes each orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turn[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, "PNG", exif=exif))
    assert decoded.size == upright.size
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode(encoded(gradient().convert(mode), kind))
    assert decoded.mode == "RGB"
    assert decoded.size == (40, 20)


def test_the_pixel_cap_is_checked_on_the_header() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")
    started = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        decode(bomb)
    assert caught.value.code is ImageErrorCode.TOO_MANY_PIXELS
    assert time.perf_counter() - started < 1
    with pytest.raises(ImageError, match="megapixels, at most"):
        decode(encoded(gradient()), max_pixels=100)


def test_sixteen_bits_keep_their_brightness() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (8, 1))
    decoded = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")))
    assert np.array_equal(decoded[0, :, 0], ramp[0] >> 8)
    with pytest.raises(ImageError) as caught:
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    assert caught.value.code is ImageErrorCode.UNSUPPORTED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ImageErrorCode.EMPTY),
        (b"hello, this is text", ImageErrorCode.NOT_AN_IMAGE),
        (encoded(gradient(200, 200), quality=95)[:2000], ImageErrorCode.CORRUPT),
        (encoded(gradient(200, 200), "PNG")[:300], ImageErrorCode.CORRUPT),
    ],
)
def test_bad_bytes_have_a_code(data: bytes, code: ImageErrorCode) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.code is code
