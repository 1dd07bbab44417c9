"""Errors of image bytes that several decoders raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from derm_ray.errors import ImageError, ImageErrorCode

MAX_PIXELS = 50_000_000
"""Largest width x height accepted."""
EXPORT = "Export the image as 8-bit PNG or JPEG"
AGAIN = "Export or copy the image again"


def unsupported(what: str, fix: str = EXPORT) -> ImageError:
    """Return the error for an unsupported format or layout."""
    return ImageError(ImageErrorCode.UNSUPPORTED, f"{what} is not supported. {fix}")


def require_size(width: int, height: int) -> None:
    """Refuse an image of more than :data:`MAX_PIXELS`, before any pixel is decoded."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            ImageErrorCode.TOO_MANY_PIXELS,
            f"{width} x {height} = {width * height / 1e6:.1f} megapixels, at most {MAX_PIXELS / 1e6:g} are accepted. "
            "Shrink or crop the image",
        )


@contextmanager
def damage_reported(what: str = "") -> Iterator[None]:
    """Turn whatever decoders raise on damaged files (from ``OSError`` to ``struct.error``) into ``corrupt``."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        reason = f": {error}" if type(error) is ValueError else ""  # ours; those of libraries are about their insides
        raise ImageError(ImageErrorCode.CORRUPT, f"damaged or truncated{what}{reason}. {AGAIN}") from error
