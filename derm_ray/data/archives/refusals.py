"""Image errors that several readers raise."""

from derm_ray.data.archives.address import Address
from derm_ray.errors import ImageError, ImageErrorCode


def changed(address: Address) -> ImageError:
    """Return the error for an archive that does not match the address."""
    return ImageError(
        ImageErrorCode.CORRUPT,
        f"{address}: the archive has no such member there. It is truncated or has changed; index it again",
    )


def too_large(uri: object, size: int | None, most: int) -> ImageError:
    """Return the error for more bytes than an image may have; ``size`` is ``None`` if unknown."""
    has = "more bytes" if size is None else f"{size:,} bytes"
    return ImageError(ImageErrorCode.TOO_LARGE, f"{uri}: the image has {has}, at most {most:,} are accepted")
