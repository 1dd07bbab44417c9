import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

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


def decoded(data: bytes) -> np.ndarray:
    image = decode(data).image
    assert image.mode == "RGB"
    return np.asarray(image)


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


def matrix_profile(gamma: float, primaries: list[tuple[float, float]]) -> bytes:
    """A minimal ICC v2 matrix profile with one gamma and three primaries (CIE xy), white D50."""
    white = np.array([0.9642, 1.0, 0.8249])
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    columns = xyz * np.linalg.solve(xyz, white)

    def fixed(values: np.ndarray) -> bytes:
        return struct.pack(">3i", *(round(v * 65536) for v in values))

    def point(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = [(b"desc", name), (b"wtpt", point(white)), (b"cprt", b"text\0\0\0\0none\0\0\0\0")]
    tags += [(f"{c}XYZ".encode(), point(columns[:, i])) for i, c in enumerate("rgb")]
    tags += [(f"{c}TRC".encode(), curve) for c in "rgb"]
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, data in tags:
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4s", offset + len(body), b"\0" * 4) + b"\x02\x10\0\0mntrRGB XYZ " + b"\0" * 12 + b"acsp"
    head = head.ljust(68, b"\0") + fixed(white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


WIDE_GAMUT = matrix_profile(2.2, [(0.7347, 0.2653), (0.1152, 0.8264), (0.1566, 0.0177)])


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


RAMP = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (8, 1))


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


def photo(width: int, height: int) -> Image.Image:
    """Smooth, as skin is, with an edge."""
    y, x = np.mgrid[:height, :width]
    spot = np.hypot(x / width - 0.4, y / height - 0.6) < 0.2
    pixels = np.stack([200 - 40 * x / width, 140 - 30 * y / height, 110 + 20 * x / width], -1)
    pixels[spot] *= 0.5
    return Image.fromarray(pixels.astype(np.uint8))


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
