"""Refuses secrets in jobs: everyone who reaches a cluster can read their commands and settings."""

from collections.abc import Mapping, Sequence

from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.errors import ConfigError

_FIX = (
    "The command and settings of a job can be read by everyone who reaches the cluster. Give the nodes the "
    "credentials instead: an IAM role, AWS_PROFILE, or a secret file mounted on them (AWS_SHARED_CREDENTIALS_FILE)."
)


def refuse_secrets(arguments: Sequence[str], settings: Mapping[str, str]) -> None:
    """Check that nothing that becomes readable on the cluster looks like a secret.

    Args:
        arguments: of the command.
        settings: environment variables of the job.

    Raises:
        ConfigError: something does; the message says where, and never repeats the value.
    """
    for number, argument in enumerate(arguments, 1):
        name, separator, value = argument.partition("=")
        option = arguments[number - 2] if number > 1 and arguments[number - 2].startswith("--") else ""
        where = f"argument {number}" + (f" (of {option})" if option else "")
        if separator and value and "/" not in name and names_a_secret(name.lstrip("-"), value):
            raise ConfigError(f"{where}: {name!r} looks like the name of a secret. {_FIX}")
        _refuse_value(where, argument)
    for name, value in settings.items():
        if names_a_secret(name, value):
            raise ConfigError(f"--env {name}: looks like a secret. {_FIX}")
        _refuse_value(f"--env {name}", value)


def _refuse_value(where: str, text: str) -> None:
    if kind := find_credential(text):
        raise ConfigError(f"{where}: holds {kind}. {_FIX}")
