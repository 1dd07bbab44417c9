"""Every error derm_ray raises on purpose.

    DermRayError                      exit code 1
    ├── InputError                    exit code 2: invalid input
    │   ├── ConfigError               an unknown or contradictory setting
    │   ├── ManifestError             rows that break the manifest's rules, all listed
    │   ├── StorageError              a URI that is missing, forbidden or unreachable
    │   ├── ImageError                one image that cannot be decoded, with a closed ``code``
    │   ├── BundleError               a model bundle that is incomplete, altered or unknown
    │   └── OutputExistsError         an output folder that contains another run
    └── WorkError                     exit code 1: the work itself failed
        ├── TrainingError             a training run stopped
        ├── ScoringError              a bulk scoring run stopped or does not reconcile
        ├── ServingError              the endpoint could not start
        └── SubmissionError           a cluster rejected a job

Messages state the problem, its place and the fix. Credentials in them, such as those of signed URIs, become ``***``.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from enum import StrEnum

from derm_ray.credentials import redact


class DermRayError(Exception):
    """Base of all errors that derm_ray raises on purpose.

    Attributes:
        run_id: of the run that it ended, where it ended one.
    """

    exit_code = 1
    run_id: str | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(DermRayError):
    """Bad arguments or bad input."""

    exit_code = 2


class ConfigError(InputError):
    """An unknown or contradictory setting."""


class ManifestError(InputError):
    """A manifest, or a data set that becomes one, that breaks its rules.

    Args:
        uri: of the manifest or data set.
        problems: one line each; all of them, not only the first.
    """

    shown = 20

    def __init__(self, uri: str, problems: Sequence[str]) -> None:
        self.uri = uri
        self.problems = tuple(problems)
        super().__init__(uri, self.problems)

    def __str__(self) -> str:
        lines = [f"  - {problem}" for problem in self.problems[: self.shown]]
        if hidden := len(self.problems[self.shown :]):
            lines.append(f"  - ... and {hidden} more")
        return redact(f"{self.uri}: {counted(len(self.problems), 'problem')}:\n" + "\n".join(lines))


class StorageError(InputError):
    """A URI that is missing, forbidden or unreachable."""


class BundleError(InputError):
    """A model bundle that is incomplete, altered or of an unknown format."""


class OutputExistsError(InputError):
    """An output folder that contains something else."""


class ImageErrorCode(StrEnum):
    """Why an image could not be used; written to ``error_code`` of the scores. The list is closed.

    ``missing``, ``forbidden``: storage has no such file, or does not show it. ``storage``, ``timeout``: storage failed
    or did not answer in time, also when asked again. ``too_large``: more bytes than an image may have. ``bomb``: a
    packed member that expands far beyond its size. ``empty``, ``not_an_image``, ``too_many_pixels``, ``corrupt``,
    ``unsupported`` (a format or layout that is not read): the bytes themselves. ``crash``: the process that worked on
    it died, more than once.
    """

    MISSING = "missing"
    FORBIDDEN = "forbidden"
    STORAGE = "storage"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    BOMB = "bomb"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    CRASH = "crash"


class ImageError(InputError):
    """One image that cannot be used."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        self.code = code
        self.message = redact(message)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type["ImageError"], tuple[ImageErrorCode, str]]:
        return type(self), (self.code, self.message)


class WorkError(DermRayError):
    """The work itself failed."""


class TrainingError(WorkError):
    """A training run stopped before its end."""


class ScoringError(WorkError):
    """A bulk scoring run stopped or does not reconcile."""


class ServingError(WorkError):
    """The endpoint could not start."""


class SubmissionError(WorkError):
    """A cluster rejected a job."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question with the nearest known name, after a blank; nothing where none is near."""
    near = get_close_matches(name, known, n=1) or get_close_matches(name.lower(), known, n=1)
    return f" Did you mean {str(near[0])!r}?" if near else ""


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """Return the message for a name that is not in a closed list, with the nearest known one."""
    return f"unknown {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 pair``, ``1,200 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
