"""One line of an examination."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        subject: what was looked at.
        found: how it is.
        mend: what to do about it; empty where all is well.
    """

    subject: str
    found: str
    mend: str = ""
