"""Image bytes to upright RGB pixels: orientation, modes, depths and transparency."""

import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError, ImageErrorCode

from .image_files import RAMP, decoded, encoded, gradient


def png(width: int, height: int, depth: int, color: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG of any depth; ``rows`` without filter bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + b"".join(chunk(name.encode(), data) for name, data in chunks.items())
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, photometric: int, bits: int = 16) -> bytes:
    """An uncompressed little-endian TIFF of unsigned samples; 12 bits are packed by the caller."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.tobytes()
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits if channels == 1 else 8 + 2 + 12 * 9 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4 + 8),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + b"\0" * 4 + struct.pack("<4H", *[bits] * 4) + data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = gradient()
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that undoes each orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turn[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decoded(encoded(stored, kind, exif=exif, **options)), np.asarray(upright))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("BMP", {}),
        ("JPEG2000", {}),
    ],
)
def test_every_format_shows_the_same_picture(kind: str, options: dict[str, object]) -> None:
    picture = Image.new("RGB", (64, 64), (200, 120, 90))
    picture.paste((60, 40, 30), (16, 16, 48, 48))
    difference = np.abs(decoded(encoded(picture, kind, **options)).astype(int) - np.asarray(picture).astype(int))
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("PNG", "TIFF") for mode in ("L", "LA", "RGBA", "P", "1")] + [("TIFF", "CMYK")],
)
def test_every_mode_shows_the_same_picture(kind: str, mode: str) -> None:
    black_and_white = Image.new("RGB", (40, 20), "white")
    black_and_white.paste("black", (0, 0, 20, 20))
    assert np.array_equal(decoded(encoded(black_and_white.convert(mode), kind)), np.asarray(black_and_white))


def test_inks_of_a_jpeg_become_their_colors() -> None:
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    cmyk = encoded(red, quality=95)
    assert np.abs(decoded(cmyk).astype(int) - (255, 0, 0)).max() < 6
    # Adobe's YCCK: the inks C, M, Y as if they were RGB, in YCbCr. Pillow writes planes as they are, inverted.
    y, cb, cr = Image.new("RGB", (1, 1), (0, 255, 255)).convert("YCbCr").getpixel((0, 0))
    planes = encoded(Image.new("CMYK", (32, 32), (255 - y, 255 - cb, 255 - cr, 0)), quality=95, subsampling=0)
    place = planes.index(b"Adobe") + 11
    ycck = planes[:place] + b"\x02" + planes[place + 1 :]
    assert np.abs(decoded(ycck).astype(int) - (255, 0, 0)).max() < 6


def test_transparent_pixels_are_white_whatever_lies_below() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    noise[:8, :, 3], noise[8:, :, 3] = 0, 255
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        shown = decoded(encoded(Image.fromarray(noise), kind, **options))
        assert (shown[:8] == 255).all()
        assert np.array_equal(shown[8:], noise[8:, :, :3])
    half = decoded(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_a_transparent_color_is_white_in_palettes_and_in_grays() -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.paste(0, (0, 0, 4, 8))
    for kind in ("PNG", "GIF"):
        shown = decoded(encoded(picture, kind, transparency=0))
        assert shown[0, 0].tolist() == [255, 255, 255]
        assert shown[0, 7].tolist() == [10, 20, 30]
    several = decoded(encoded(picture, "PNG", transparency=bytes([255, 0])))
    assert several[0, 0].tolist() == [0, 0, 0]
    assert several[0, 7].tolist() == [255, 255, 255]
    gray = decoded(png(2, 1, 8, 0, bytes([7, 9]), tRNS=struct.pack(">H", 7)))
    assert gray[0, :, 0].tolist() == [255, 9]
    deep = decoded(png(2, 1, 16, 0, struct.pack(">HH", 700, 25_700), tRNS=struct.pack(">H", 700)))
    assert deep[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_gray_bits_keep_their_brightness(kind: str) -> None:
    ramp = np.tile(RAMP, (8, 1))
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    assert np.array_equal(decoded(encoded(Image.fromarray(ramp), kind, **options))[..., 1], ramp >> 8)


def test_sixteen_bits_of_each_color_keep_their_brightness() -> None:
    colors = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], axis=-1)
    expected = (colors >> 8).astype(np.uint8)
    assert np.array_equal(decoded(png(64, 8, 16, 2, colors.astype(">u2").tobytes())), expected)
    assert np.array_equal(decoded(tiff(colors, 2)), expected)


def test_gray_tiffs_of_other_depths_and_polarity_keep_their_brightness() -> None:
    expected = (RAMP >> 8).astype(np.uint8)
    assert np.array_equal(decoded(tiff(RAMP, 1))[..., 0], expected)
    assert np.array_equal(decoded(tiff(RAMP, 0))[..., 0], 255 - expected)
    high, low = RAMP[:, ::2] >> 4, RAMP[:, 1::2] >> 4
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], -1).astype(np.uint8).reshape(8, 96)
    twelve = tiff(packed, 1, bits=12).replace(struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 64))
    assert np.array_equal(decoded(twelve)[..., 0], expected)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_unsupported(kind: type) -> None:
    with pytest.raises(ImageError) as caught:
        decode(encoded(Image.fromarray(np.ones((4, 4), kind)), "TIFF"))
    assert caught.value.code is ImageErrorCode.UNSUPPORTED


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_flagged(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    several = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert several.flags == ("animated",)
    assert np.asarray(several.image)[8, 8].tolist() == [255, 0, 0]
    assert decode(encoded(frames[0], kind, **options)).flags == ()


def test_previews_of_a_phone_photo_are_no_animation() -> None:
    photo = encoded(gradient(), "MPO", save_all=True, append_images=[gradient(20, 10)])
    assert decode(photo).flags == ()
    assert decode(photo).image.size == (40, 20)


def test_the_pixel_cap_is_checked_on_the_header() -> None:
    started = time.process_time()
    with pytest.raises(ImageError) as caught:
        decode(png(50_000, 50_000, 8, 2, b""))
    assert caught.value.code is ImageErrorCode.TOO_MANY_PIXELS
    assert time.process_time() - started < 1


def test_remarks_of_libraries_stay_silent_in_many_threads(capfd: pytest.CaptureFixture[str]) -> None:
    remarkable = encoded(gradient(), "TIFF").replace(
        struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 9, 3)
    )
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as executor:
        warnings.simplefilter("always")
        errors = list(executor.map(_outcome, [remarkable, encoded(gradient())] * 20))
    assert len(errors) == 40
    assert not caught
    assert capfd.readouterr().err == ""


def _outcome(data: bytes) -> str:
    try:
        return decode(data).image.mode
    except ImageError as error:
        return error.code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ImageErrorCode.EMPTY),
        (b"hello, this is text", ImageErrorCode.NOT_AN_IMAGE),
        (encoded(gradient(200, 200), quality=95)[:2000], ImageErrorCode.CORRUPT),
        (encoded(gradient(200, 200), quality=95)[:20], ImageErrorCode.CORRUPT),
        (encoded(gradient(200, 200), "PNG")[:300], ImageErrorCode.CORRUPT),
    ],
)
def test_bad_bytes_have_a_code(data: bytes, code: ImageErrorCode) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.code is code
    _, _, fix = caught.value.message.partition(". ")
    assert fix.startswith("Export "), "a fix, and nothing of the library"
