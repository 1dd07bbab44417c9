"""A job request: a command with its arguments, code and settings, and an id."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from derm_ray import __version__
from derm_ray.cluster_auth import INSECURE_VARIABLE, USE_NODES, insecure_allowed, refuse_credentials
from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.observability import LOG_FORMAT_VARIABLE
from derm_ray.storage import digest, is_local
from derm_ray.submission.package import Package
from derm_ray.submission.version import VERSION_VARIABLE

COMMANDS = ("train", "tune", "evaluate", "score", "reproduce")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ATTEMPT = re.compile(r"\.\d+$")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class JobRequest:
    """A command for a cluster, checked as far as possible without one.

    Args:
        command: one of :data:`COMMANDS`.
        arguments: as on the command line.
        package: the code it runs; ``None`` runs what the cluster's image contains.
        settings: environment variables of the job; nothing secret.
        name: the job's id; ``None`` derives one from all the above, so that the same request has the same id.

    Raises:
        ConfigError: the command, a setting or the name is invalid, or something looks like a secret.
    """

    command: str
    arguments: tuple[str, ...]
    package: Package | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise ConfigError(unknown_name("command", self.command, COMMANDS))
        if self.name is not None and (_ID.fullmatch(self.name) is None or _ATTEMPT.search(self.name)):
            raise ConfigError(
                f"--id {self.name!r}: use letters, digits, '.', '_' and '-', at most 100, and no number after a dot at "
                "the end; that numbers the attempts."
            )
        refuse_secrets(self.arguments, self.settings)

    @property
    def version(self) -> str:
        """The version of derm_ray the job has to run with."""
        return self.package.version if self.package else __version__

    @property
    def digest(self) -> str:
        """Digest of everything but the name."""
        package = self.package.digest if self.package else None
        return digest([self.command, self.arguments, self.version, package, dict(self.settings)])

    @property
    def id(self) -> str:
        """The id of the first attempt, such as ``score-3f2a9c01d4e5``."""
        return self.name or f"{self.command}-{self.digest[:12]}"

    def attempt(self, number: int) -> str:
        """Return the id of the ``number``-th attempt, from 1 on."""
        return self.id if number == 1 else f"{self.id}.{number}"

    @property
    def entrypoint(self) -> str:
        """The command line on the cluster; its result is one JSON line."""
        as_json = [] if "--json" in self.arguments else ["--json"]
        return shlex.join(["python", "-m", "derm_ray", self.command, *self.arguments, *as_json])

    @property
    def variables(self) -> dict[str, str]:
        """The job's environment variables."""
        inherited = {INSECURE_VARIABLE: "1"} if insecure_allowed() else {}
        if log_format := os.environ.get(LOG_FORMAT_VARIABLE):
            inherited[LOG_FORMAT_VARIABLE] = log_format
        return {**inherited, **self.settings, VERSION_VARIABLE: self.version}

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps beside the job."""
        return {"derm_ray_version": self.version, "derm_ray_digest": self.digest}


def refuse_secrets(arguments: Sequence[str], settings: Mapping[str, str]) -> None:
    """Check that no argument of a job, and none of its environment variables, looks like a secret.

    Raises:
        ConfigError: one does; the message says where, and never repeats the value.
    """
    refuse_credentials(arguments)
    for number, argument in enumerate(arguments, 1):
        name, _, value = argument.partition("=")
        if value and "/" not in name and names_a_secret(name.lstrip("-"), value):
            raise ConfigError(f"argument {number}: {name!r} looks like the name of a secret. {USE_NODES}")
    for name, value in settings.items():
        if names_a_secret(name, value) or find_credential(value):
            raise ConfigError(f"--env {name}: looks like a secret. {USE_NODES}")


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` settings.

    Raises:
        ConfigError: one has no value or no usable name, or looks like a secret.
    """
    found = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        refuse_secrets((), {name: value})
        if not separator or _SETTING.fullmatch(name) is None:
            raise ConfigError(f"--env {name}: give NAME=VALUE, such as AWS_PROFILE=derm-ray, and nothing secret.")
        if name.startswith("RAY_") or name in (VERSION_VARIABLE, "PYTHONPATH", "PYTHONHOME"):
            raise ConfigError(f"--env {name}: Ray or derm_ray sets this itself on a cluster.")
        found[name] = value
    return found


def check_uri(option: str, uri: str) -> bool:
    """Check that a URI in a command can mean the same on a cluster.

    Returns:
        Whether it is a path that every node has to have.

    Raises:
        ConfigError: it is relative to a folder that only this machine has.
    """
    if not is_local(uri):
        return False
    path = uri.split("://", 1)[-1]
    if not path.startswith("/"):
        raise ConfigError(
            f"{option} {uri}: relative to this folder, which the cluster does not have. Give a URI such as "
            "s3://bucket/..., or an absolute path that every node sees."
        )
    return True
