"""Image bytes to upright RGB pixels, the same way in training, bulk scoring and online."""

import ctypes
import io
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, _imaging

from derm_ray.data.dicom import decode_dicom, ignore_warnings_of, is_dicom
from derm_ray.data.image_errors import AGAIN, EXPORT, damage_reported, require_size, unsupported
from derm_ray.data.jpeg2000 import decode_jpeg_2000, is_jpeg_2000
from derm_ray.data.layouts import GAMMA_TOLERANCE, check_layout, other_format
from derm_ray.domain import ImageFlag
from derm_ray.errors import ImageError, ImageErrorCode

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Formats decoded by Pillow. DICOM and JPEG 2000 have their own decoders; no other decoder is used."""
MAX_PROFILE_BYTES = 4_000_000
SRGB_TOLERANCE = 3
"""A color profile that moves no channel by more than this many levels of 255 counts as sRGB."""

MAX_STEP = 4
"""If a color profile separates neighboring levels by more, the upper 8 of 16 bits are not enough."""

logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Pillow's own decoder takes uncompressed planes of 16 bits for 8 bits, and ignores the subsampling of YCbCr.
TiffImagePlugin.READ_LIBTIFF = True


def _silence_libtiff() -> None:
    """Keep libtiff from printing errors; they reach Pillow as well, which turns off its warnings only."""
    with suppress(OSError, AttributeError):
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


_silence_libtiff()


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image: upright, mode RGB, sRGB, 8 bits a channel (0..255).
        shorter_side: of the image as it was stored, in pixels; ``image`` may be a smaller scale of it.
        flags: values of :class:`derm_ray.domain.ImageFlag`, in its order.
    """

    image: Image.Image
    shorter_side: int
    flags: tuple[str, ...] = ()


def decode(data: bytes, *, side: int | None = None) -> Decoded:
    """Decode an image.

    The pixel count is read from the header and checked before any pixel is decoded. EXIF orientation and color
    profile are applied (a profile that is broken or for other pixels is ignored), transparency is laid on white,
    16 bits become the upper 8, CMYK and all other modes RGB.

    Args:
        data: an image of one of :data:`FORMATS`, JPEG 2000 or a DICOM file; its first frame counts.
        side: pixels that are wanted at least, each way: a JPEG photo is decoded at the smallest of 1/8, 1/4, 1/2 and
            all of its size that has them, at a fraction of the cost (libjpeg computes fewer DCT coefficients).

    Raises:
        ImageError: with the code ``empty``, ``not_an_image``, ``too_many_pixels``, ``corrupt`` or ``unsupported``: an
            unsupported format or layout, named in the message.
    """
    if not data:
        raise ImageError(ImageErrorCode.EMPTY, f"the file is empty. {AGAIN}")
    with damage_reported():
        if is_dicom(data):
            image, flags = decode_dicom(data)
            return Decoded(_to_rgb(image), min(image.size), flags)
        if is_jpeg_2000(data):
            image = decode_jpeg_2000(data)
            return Decoded(_to_rgb(image), min(image.size))
        image = _open(data)
        # The further pictures of an MPO, as phones write them, are previews and depth maps of the same photo.
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        shorter_side = min(image.size)
        if side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (side, side))
        image.info["deep"] = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
        _load(image)
        return Decoded(_to_rgb(image), shorter_side, (ImageFlag.ANIMATED,) if animated else ())


def _open(data: bytes) -> Image.Image:
    """Read the header and check the pixel count."""
    ignore_warnings_of("PIL")
    check_layout(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        accepts = [Image.OPEN[name][1] for name in FORMATS]
        if any(accept is not None and accept(data[:16]) for accept in accepts):
            raise ImageError(ImageErrorCode.CORRUPT, f"its header is damaged. {AGAIN}") from error
        if (name := other_format(data)) is not None:
            raise unsupported(name) from error
        known = ", ".join((*FORMATS, "JPEG 2000", "DICOM"))
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, f"not an image in a known format ({known}). {EXPORT}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(ImageErrorCode.TOO_MANY_PIXELS, f"{error}") from error
    if image.format == "GIF" and "transparency" not in image.info and image.tile[0].extents != (0, 0, *image.size):
        raise unsupported("GIF whose first picture does not fill its canvas")
    require_size(*image.size)
    return image


def _load(image: Image.Image) -> None:
    """Decode the pixels in offset, and turn them upright."""
    image.load()
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "P":
        colors = image.tag_v2[TiffImagePlugin.COLORMAP]
        if max(colors) < 256:  # of 8 bits, as libtiff's tools take them, though the standard has 16
            image.putpalette(np.reshape(colors, (3, -1)).T.astype(np.uint8).tobytes())
    with suppress(Exception):  # damaged EXIF has no orientation
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return decoded pixels of any mode as RGB in sRGB."""
    profile, deep = image.info.get("icc_profile"), image.info.get("deep", False)
    gamma = image.info.get("gamma") if not image.info.keys() & {"icc_profile", "srgb"} else None
    if image.mode in ("I", "F", "LAB"):
        raise unsupported(f"an image with 32 bits per channel, or in Lab (Pillow mode {image.mode}),")
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    image = _on_white(image)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if gamma and abs(gamma / 0.45455 - 1) > GAMMA_TOLERANCE:  # PNG's gAMA, as browsers apply it
        image = image.point([round(255 * (v / 255) ** (1 / (2.2 * gamma))) for v in range(256)] * len(image.mode))
    if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES:
        transform = _to_srgb(profile, image.mode)
        if transform is not None and deep and image.mode != "CMYK" and _steepest(transform, image.mode) > MAX_STEP:
            raise unsupported("a 16-bit image with a linear color profile", "Convert the image to sRGB")
        if transform is not None:
            image = transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 gray bits (of 12, where a TIFF holds 12)."""
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        # Pillow leaves 16-bit WhiteIsZero as it is.
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    values = np.asarray(image)
    pixels = (values >> (bits - 8)).astype(np.uint8)
    if inverted:
        pixels = 255 - pixels
    if isinstance(transparent := image.info.get("transparency"), int):
        pixels[values == transparent] = 255
    return Image.fromarray(pixels)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparency on white; others are returned as they are."""
    if not image.has_transparency_data:
        return image
    gray = image.mode in ("1", "L", "LA", "La")
    layer = image.convert("LA" if gray else "RGBA")
    canvas = Image.new("L" if gray else "RGB", image.size, "white")
    canvas.paste(layer, mask=layer)
    return canvas


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings pixels of a profile to sRGB; ``None`` if it is broken, for other pixels, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(mode, mode):
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        probe = _probe(mode)
        moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
        return transform if np.abs(moved).max() > SRGB_TOLERANCE else None
    except Exception:
        # lcms and Pillow raise several kinds on damaged profiles.
        return None


def _steepest(transform: ImageCms.ImageCmsTransform, mode: str) -> int:
    """Return by how many levels neighboring grays come to differ at most."""
    grays = np.asarray(transform.apply(_probe("L").convert(mode)), np.int16).reshape(256, -1)
    return int(np.abs(np.diff(grays, axis=0)).max())


def _probe(mode: str) -> Image.Image:
    """Return an image of all grays, or of 9 x 9 x 9 colors."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))
