"""Retrying storage requests."""

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from derm_ray.credentials import redact
from derm_ray.errors import ImageError, ImageErrorCode, StorageError
from derm_ray.observability import WORK

T = TypeVar("T")

ATTEMPTS = 3
FIRST_WAIT_S = 0.2
"""Before the second attempt; then doubling, with jitter."""
PATIENCE_S = 60.0
"""After this time there is no further attempt: client libraries have then retried many times already."""
OUTAGES = (ImageErrorCode.STORAGE, ImageErrorCode.TIMEOUT)
"""What another attempt may get past."""


def persistently(work: Callable[[], T]) -> T:
    """Run a storage operation, :data:`ATTEMPTS` times if it may succeed later."""
    began = time.monotonic()
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except StorageError as error:
            if time.monotonic() - began >= PATIENCE_S or _code(error) not in OUTAGES:
                raise
        WORK.add("retries")
        time.sleep(random.uniform(0.5, 1) * FIRST_WAIT_S * 2**attempt)  # noqa: S311
    return work()


def image_error(uri: str, error: StorageError) -> ImageError:
    """Return a storage failure as the error of one image, which the message names."""
    message = str(error) if str(error).startswith(redact(uri)) else f"{uri}: {error}"
    return ImageError(_code(error), message)


def _code(error: StorageError) -> ImageErrorCode:
    cause = error.__cause__
    if isinstance(cause, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return ImageErrorCode.MISSING
    if isinstance(cause, OSError) and cause.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return ImageErrorCode.MISSING
    if isinstance(cause, PermissionError):
        return ImageErrorCode.FORBIDDEN
    # An unknown scheme or a pipe; for botocore, no name that a bucket or key may have.
    if cause is None or isinstance(cause, (ValueError, ImportError)) or type(cause).__name__ == "ParamValidationError":
        return ImageErrorCode.UNSUPPORTED
    return ImageErrorCode.TIMEOUT if any(map(_is_timeout, _causes(error))) else ImageErrorCode.STORAGE


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__.endswith("TimeoutError")
