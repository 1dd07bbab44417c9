"""Command lines in cluster files, checked as their shell and derm-ray will read them."""

import re
import shlex
from collections.abc import Callable, Sequence

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.operations.cluster.documents import Part
from derm_ray.submission.request import refuse_secrets

CommandCheck = Callable[[Sequence[str]], object]
"""Checks the words after ``derm-ray``, or raises :class:`derm_ray.errors.ConfigError`. The command line passes it in:
it is a higher layer."""
JOBS = {
    "benchmark": "bench",
    "evaluate": "evaluate",
    "reproduce": "reproduce",
    "score": "score",
    "train": "train",
    "tune": "tune",
}  # fmt: skip
"""Modules of ``jobs`` -> their commands."""
_NOT_JOBS = {
    "serve": "use a RayService or a Serve config file",
    "submit": "give the command itself: the job is on the cluster already",
}
_DATE = re.compile(r"\$\(date( -u| -d [a-z]+)* \+[-%A-Za-z0-9_.]+\)")
_VARIABLE = re.compile(r"\$(\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)")
_SENTENCE = re.compile(r"; |\. (?=[A-Z])")
_SHELL = re.compile(r"[;&|<>`\n]|\$[({]")


def check_entrypoint(entrypoint: Part, check: CommandCheck) -> None:
    """Report what the command line would refuse.

    A word may contain a variable or ``$(date +FORMAT)``; any other shell syntax cannot be checked and is refused.

    Args:
        entrypoint: of a job.
        check: see :data:`CommandCheck`.
    """
    if not entrypoint.text.strip():
        entrypoint.refuse("there is no command", "give derm-ray COMMAND ARGUMENTS")
        return
    text = _VARIABLE.sub("VALUE", _DATE.sub("DATE", entrypoint.text.strip()))
    if _SHELL.search(text):
        entrypoint.refuse("is more than one command to a shell", "give one command; `>-` joins lines")
        return
    try:
        words = _after_program(shlex.split(text))
        if words and words[0] in _NOT_JOBS:
            raise ConfigError(f"{words[0]} is not a job; {_NOT_JOBS[words[0]]}")
        refuse_secrets(words, {})
        check(words)
    except ValueError as error:
        entrypoint.refuse(f"cannot be split into words ({error})", "close its quotes")
    except ConfigError as error:
        what, *fix = _SENTENCE.split(str(error), maxsplit=1)
        entrypoint.refuse(what.rstrip("."), fix[0].rstrip(".") if fix else "correct the command")


def _after_program(words: Sequence[str]) -> list[str]:
    """Return the words after ``derm-ray``, however that is called."""
    if words[0] == "derm-ray":
        return list(words[1:])
    if words[0] in ("python", "python3") and words[1:2] == ["-m"] and len(words) > 2:
        package, _, name = words[2].partition(".")
        if words[2] == "derm_ray":
            return list(words[3:])
        if package == "jobs" and name:
            if name not in JOBS:
                raise ConfigError(unknown_name("job", name, tuple(JOBS)))
            return [JOBS[name], *words[3:], "--json"]
    raise ConfigError(f"{words[0]!r} does not start derm_ray; give derm-ray COMMAND, or python -m jobs.COMMAND")
