"""Command lines in cluster files, checked as their shell and derm-ray will read them."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.kubernetes import gpus
from derm_ray.submission.secrets import refuse_secrets

CommandCheck = Callable[[Sequence[str]], tuple[str, Mapping[str, Any]]]
"""Checks the words after ``derm-ray``; returns the command and its options' values, or raises
:class:`derm_ray.errors.ConfigError`. The command line is a higher layer, so the check is passed in."""
JOBS = {
    "benchmark": "bench",
    "evaluate": "evaluate",
    "reproduce": "reproduce",
    "score": "score",
    "train": "train",
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


def check_entrypoint(entrypoint: Part, check: CommandCheck, cluster: Part) -> None:
    """Report what the command line would refuse, and GPUs that the cluster can never have.

    A word may contain a variable or ``$(date +FORMAT)``; any other shell syntax cannot be checked and is refused.

    Args:
        entrypoint: of a job.
        check: see :data:`CommandCheck`.
        cluster: the RayClusterSpec the job runs on; an empty one where another file describes it.
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
        command, options = check(words)
    except ValueError as error:
        entrypoint.refuse(f"cannot be split into words ({error})", "close its quotes")
    except ConfigError as error:
        what, *fix = _SENTENCE.split(str(error), maxsplit=1)
        entrypoint.refuse(what.rstrip("."), fix[0].rstrip(".") if fix else "correct the command")
    else:
        _check_gpus(entrypoint, command, options, cluster)


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


def _check_gpus(entrypoint: Part, command: str, options: Mapping[str, Any], cluster: Part) -> None:
    if not cluster.exists:
        return
    wanted = 0.0
    if command == "train" and options.get("gpu"):
        wanted = options["max_workers"] or options["workers"]
    elif command == "score":
        wanted = options["gpus"] * (options["replicas"] or 1)
    if wanted > most_gpus(cluster):
        entrypoint.refuse(
            f"asks for {wanted:g} GPUs, the cluster grows to {most_gpus(cluster)}",
            "raise maxReplicas of a group whose limits name nvidia.com/gpu, or ask for fewer",
        )


def most_gpus(cluster: Part) -> int:
    """Return how many GPUs a Ray cluster can grow to.

    Args:
        cluster: a RayClusterSpec.
    """
    return gpus(cluster.at("headGroupSpec", "template", "spec")) + sum(
        (group.at("maxReplicas").number or 0) * gpus(group.at("template", "spec"))
        for group in cluster.items("workerGroupSpecs")
    )
