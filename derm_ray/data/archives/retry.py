"""Retrying storage requests."""

import errno
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from derm_ray.credentials import redact
from derm_ray.errors import ImageError, ImageErrorCode, StorageError
from derm_ray.observability import WORK

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Number of attempts and waits between them: doubling from ``first_s`` to ``most_s``, with jitter.

    There is no retry after ``patience_s``: client libraries have then retried many times already.
    """

    attempts: int = 3
    first_s: float = 0.2
    most_s: float = 5.0
    patience_s: float = 60.0

    def waits(self) -> Iterator[float]:
        """Yield the seconds to wait after each failure but the last."""
        for attempt in range(self.attempts - 1):
            yield random.uniform(0.5, 1) * min(self.most_s, self.first_s * 2**attempt)  # noqa: S311


BACKOFF = Backoff()
_FINAL = {
    FileNotFoundError: ImageErrorCode.MISSING,
    NotADirectoryError: ImageErrorCode.MISSING,
    IsADirectoryError: ImageErrorCode.MISSING,
    PermissionError: ImageErrorCode.FORBIDDEN,
    ValueError: ImageErrorCode.UNSUPPORTED,  # of storage.filesystem: an unknown scheme
    ImportError: ImageErrorCode.UNSUPPORTED,
}


def persistently(work: Callable[[], T]) -> T:
    """Run a storage operation, with retries if it may succeed later; see :data:`BACKOFF`.

    Raises:
        StorageError: of the last attempt.
    """
    began = time.monotonic()
    for wait in BACKOFF.waits():
        try:
            return work()
        except StorageError as error:
            patient = time.monotonic() - began < BACKOFF.patience_s
            if not patient or error.__cause__ is None or _final(error) is not None:
                raise
        WORK.add("retries")
        time.sleep(wait)
    return work()


def image_error(uri: str, error: StorageError) -> ImageError:
    """Return a storage failure as the error of one image, which the message names."""
    message = str(error) if str(error).startswith(redact(uri)) else f"{uri}: {error}"
    code = _final(error)
    if code is None and error.__cause__ is None:
        code = ImageErrorCode.UNSUPPORTED
    if code is None:
        code = ImageErrorCode.TIMEOUT if any(map(_is_timeout, _causes(error))) else ImageErrorCode.STORAGE
    return ImageError(code, message)


def _final(error: StorageError) -> ImageErrorCode | None:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return ImageErrorCode.MISSING
    if type(cause).__name__ == "ParamValidationError":  # of botocore: no name that a bucket or key may have
        return ImageErrorCode.UNSUPPORTED
    return next((code for kind, code in _FINAL.items() if isinstance(cause, kind)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__.endswith("TimeoutError")
