"""One line of an examination."""

from dataclasses import dataclass

from derm_ray.credentials import redact


@dataclass(frozen=True)
class Finding:
    """What was found; credentials in it are replaced by ``***``.

    Attributes:
        subject: what was looked at.
        found: how it is.
        mend: what to do about it; empty where all is well.
    """

    subject: str
    found: str
    mend: str = ""

    def __post_init__(self) -> None:
        for name in ("subject", "found", "mend"):  # another library's text may be in it
            object.__setattr__(self, name, redact(getattr(self, name)))
