"""One result of an examination."""

from dataclasses import dataclass

from derm_ray.credentials import redact


@dataclass(frozen=True)
class Finding:
    """What was found; credentials in it are replaced by ``***``.

    Attributes:
        subject: what was examined.
        found: its state.
        fix: what to do about it; empty where nothing is wrong.
    """

    subject: str
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        for name in ("subject", "found", "fix"):  # they may quote another library's text
            object.__setattr__(self, name, redact(getattr(self, name)))
