"""Image bytes to upright RGB pixels."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from derm_ray import storage
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000")
"""What is accepted; untrusted bytes reach no other decoder."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image.

    The pixel count is read from the header and checked before any pixel is decoded; EXIF orientation is
    applied; other modes are converted.

    Args:
        data: an encoded image of one of :data:`FORMATS`; of an animation the first frame counts.
        max_pixels: largest width x height accepted.

    Returns:
        An upright image of mode RGB (8 bits a channel, 0..255).

    Raises:
        ImageError: with the code ``empty``, ``not_an_image``, ``too_many_pixels``, ``unsupported`` or ``corrupt``.
    """
    if not data:
        raise ImageError(ImageErrorCode.EMPTY, "the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow's own limits only warn below twice their size; ours is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, "not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(ImageErrorCode.TOO_MANY_PIXELS, f"{error}") from error
    except Exception as error:
        raise ImageError(ImageErrorCode.CORRUPT, f"unreadable header: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            ImageErrorCode.TOO_MANY_PIXELS,
            f"{width} x {height} = {width * height / 1e6:.1f} megapixels, at most {max_pixels / 1e6:g} are accepted",
        )
    try:
        # Decoders raise anything from OSError to SyntaxError and struct.error on damaged files.
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise ImageError(ImageErrorCode.CORRUPT, f"damaged or truncated: {error}") from error
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif upright.mode in ("I", "F"):
        raise ImageError(ImageErrorCode.UNSUPPORTED, f"32-bit pixels (mode {upright.mode}) have no known range")
    return upright.convert("RGB")


def read_image(uri: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read and decode the image at a URI.

    Raises:
        ImageError: it cannot be read or decoded; the message names the URI.
    """
    try:
        data = storage.read_bytes(uri)
    except StorageError as error:
        raise ImageError(_storage_code(error), str(error)) from error
    try:
        return decode(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.code, f"{uri}: {error.message}") from error


def _storage_code(error: StorageError) -> ImageErrorCode:
    if isinstance(error.__cause__, FileNotFoundError):
        return ImageErrorCode.MISSING
    if isinstance(error.__cause__, PermissionError):
        return ImageErrorCode.FORBIDDEN
    return ImageErrorCode.STORAGE
