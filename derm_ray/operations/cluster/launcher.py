"""Files of Ray's cluster launcher (``ray up``): Ray's own schema and checks, and derm_ray's. Contacts no cloud."""

import json
import re
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jsonschema

from derm_ray import __version__, ray_internals
from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.schemas import refuse_error
from derm_ray.operations.cluster.versions import check_image

TOKEN = "~/.ray/auth_token"  # noqa: S105
"""Where Ray looks for the cluster's token."""
_MODE = re.compile(r"\b(?:export +)?RAY_AUTH_MODE=token\b")
_LITERAL = re.compile(r"\b(?:RAY_AUTH_TOKEN|\w*(?:SECRET|PASSWORD|ACCESS_KEY)\w*)=(?![\"']?\$)\S")
_PIP = re.compile(r"\bpip3? install\b(?P<words>[^;&|]*)")
_WHEEL = re.compile(r"(?:.*/)?(?P<name>ray|derm_ray)-(?P<version>[\w.]+)-(cp|py)\d.*")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z][\w.-]*)(\[[\w,-]*\])?(?P<rest>[=<>~!@ ].*)?")
_PINNED = re.compile(r"(?:^|\s)(?:-c|--constraint|--require-hashes)\b")
_GROUPS = ("SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate")
"""What gives a machine of AWS its security groups; without any of them Ray makes one that is open for ssh."""
_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_SETUPS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")


def is_launcher(value: Any) -> bool:
    """Return whether a file is meant for ``ray up``."""
    return isinstance(value, dict) and "cluster_name" in value and "provider" in value


def check_launcher(document: Document) -> None:
    """Report what Ray's launcher or derm_ray refuses."""
    root = document.root
    _check_by_ray(document)
    if root.at("provider", "type").value == "aws":
        _check_groups(root)
    _check_token(root)
    for name in ("image", "head_image", "worker_image"):
        if root.at("docker", name).text:
            check_image(root.at("docker", name))
    _check_installs(root)


def _check_by_ray(document: Document) -> None:
    schema = json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())
    value = dict(document.value)
    if document.root.at("provider", "type").value == "local":
        value.pop("min_workers", None)  # Ray removes it there before it validates
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(value))
    for error in errors:
        refuse_error(document, error)
    if not errors and (problem := ray_internals.find_launcher_problem(document.value)):
        document.refuse((), problem, "see Ray's cluster YAML reference")


def _check_groups(root: Part) -> None:
    for kind in root.entries("available_node_types").values():
        config = kind.at("node_config")
        if not any(config.at(name).exists for name in _GROUPS):
            config.at("SecurityGroupIds").refuse(
                "is missing; Ray creates a group that is open to everyone for ssh", "create the group, and name it"
            )


def _check_token(root: Part) -> None:
    mounts, synced = root.at("file_mounts"), root.at("cluster_synced_files")
    if TOKEN not in mounts.entries() and TOKEN not in [part.value for part in synced.items()]:
        mounts.at(TOKEN).refuse("no node gets the cluster's token", f'set file_mounts: {{"{TOKEN}": "{TOKEN}"}}')
    for name in _STARTS:
        commands = [command for command in root.items(name) if "ray start" in command.text]
        if not commands:
            root.at(name).refuse(
                "is missing; Ray's default commands start an open cluster", "use RAY_AUTH_MODE=token ray start ..."
            )
        for command in commands:
            if not _MODE.search(command.text):
                command.refuse("anyone who reaches the node can run code on it", "use RAY_AUTH_MODE=token ray start")
            if name.startswith("head") and "--head" not in command.text:
                command.refuse("starts no head", "use ray start --head")


def _check_installs(root: Part) -> None:
    """Check that the machines install this derm_ray, its Ray, and pinned versions."""
    lists = [root.at(name) for name in (*_SETUPS, *_STARTS)]
    lists += [kind.at("worker_setup_commands") for kind in root.entries("available_node_types").values()]
    if not root.at("setup_commands").exists and not root.at("docker", "image").exists:
        root.at("setup_commands").refuse(
            "is missing; machines of a cloud would install Ray's nightly build", "install pinned versions"
        )
    for command in (command for part in lists for command in part.items()):
        if _LITERAL.search(command.text):
            command.refuse("the file contains a secret", "mount a file, or give the machines a role")
        for call in _PIP.finditer(command.text):
            _check_install(command, call["words"])


def _check_install(command: Part, text: str) -> None:
    """Check what one call of pip installs."""
    wanted = {"ray": version("ray"), "derm-ray": __version__}
    pinned = True
    for word in text.replace("'", " ").replace('"', " ").split():
        wheel, requirement = _WHEEL.fullmatch(word), _REQUIREMENT.fullmatch(word)
        found = wheel or requirement
        if found is None or (wheel is None and "/" in word):
            continue
        name = found["name"].replace("_", "-")
        given = found["version"] if wheel else (found["rest"] or "").removeprefix("==")
        if name in wanted and given != wanted[name]:
            command.refuse(f"installs {name} {given or 'of any version'}", f"use {name}=={wanted[name]}")
        pinned = pinned and (wheel is not None or (found["rest"] or "").startswith("=="))
    if not pinned and not _PINNED.search(text):
        command.refuse(
            "installs unpinned versions", "pin each by ==, or install requirements.txt with --require-hashes"
        )
