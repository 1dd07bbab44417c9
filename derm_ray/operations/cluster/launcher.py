"""Files of Ray's cluster launcher (``ray up``): by Ray's own schema and checks, and ours. No cloud is asked."""

import copy
import json
import logging
import re
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.resources import files
from io import StringIO
from typing import Any

import jsonschema

from derm_ray import __version__
from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.schema import refuse_error
from derm_ray.operations.cluster.versions import check_image

TOKEN = "~/.ray/auth_token"  # noqa: S105
"""Where Ray looks for the cluster's token (ray/_private/authentication)."""
_MODE = re.compile(r"\b(?:export +)?RAY_AUTH_MODE=token\b")
_LITERAL = re.compile(r"\b(?:RAY_AUTH_TOKEN|\w*(?:SECRET|PASSWORD|ACCESS_KEY)\w*)=(?![\"']?\$)\S")
_PIP = re.compile(r"\bpip3? install\b(?P<words>[^;&|]*)")
_WHEEL = re.compile(r"(?:.*/)?(?P<name>ray|derm_ray)-(?P<version>[\w.]+)-(cp|py)\d.*")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z][\w.-]*)(\[[\w,-]*\])?(?P<rest>[=<>~!@ ].*)?")
_CONSTRAINT = re.compile(r"(?:^|\s)(?:-c|--constraint)[ =]")
_GROUPS = ("SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate")
"""Where a machine of AWS gets its security groups from (ray/autoscaler/_private/aws/config.py)."""
_LOCAL_ONLY = ("head_node", "worker_nodes", "available_node_types", "head_node_type")


def is_launcher(value: Any) -> bool:
    """Return whether a file is meant for ``ray up``."""
    return isinstance(value, dict) and "cluster_name" in value and "provider" in value


def check_launcher(document: Document) -> None:
    """Note what Ray's launcher, or we, refuse."""
    root = document.root
    schema = json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())
    asked = dict(document.value)
    if root.at("provider", "type").value == "local":
        asked.pop("min_workers", None)  # the launcher takes it there, and out, before it looks at the schema
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(asked))
    for error in errors:
        refuse_error(document, error)
    complete = _check_provider(root)
    if not errors and complete:
        _check_by_ray(root)
    _check_token(root)
    for name in ("image", "head_image", "worker_image"):
        if root.at("docker", name).text:
            check_image(root.at("docker", name))
    _check_installs(root)


def _check_provider(root: Part) -> bool:
    """Check what Ray would end the process for; return whether it would not."""
    provider = root.at("provider")
    if provider.at("type").value != "local":
        if not root.at("available_node_types").exists:
            root.at("available_node_types").refuse("is missing; Ray's own default machines would hold", "describe them")
        if provider.at("type").value == "aws":
            _check_groups(root)
        return True
    refused = [root.at(name) for name in _LOCAL_ONLY if root.at(name).exists]
    for part in refused:
        part.refuse("bare machines have no types", "leave it out; provider lists the machines")
    if provider.at("coordinator_address").exists:
        if not root.at("max_workers").exists:
            root.at("max_workers").refuse("is missing; a coordinator needs it", "say how many workers")
        return not refused and root.at("max_workers").exists
    for name in ("head_ip", "worker_ips"):
        if not provider.at(name).exists:
            provider.at(name).refuse("is missing", "give the machines' addresses")
    workers = provider.items("worker_ips")
    addresses = [part.value for part in workers]
    for part in workers:
        if addresses.count(part.value) > 1 or part.value == provider.at("head_ip").value:
            part.refuse("the machine stands twice", "leave one of them out")
    return not refused and provider.at("head_ip").exists and provider.at("worker_ips").exists


def _check_groups(root: Part) -> None:
    for kind in root.entries("available_node_types").values():
        config = kind.at("node_config")
        if not any(config.at(name).exists for name in _GROUPS):
            config.at("SecurityGroupIds").refuse(
                "is missing; Ray makes a group that lets everybody ssh", "make the group yourself, and name it"
            )


def _check_by_ray(root: Part) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it tells the terminal what it assumes
            validate_config(prepare_config(copy.deepcopy(root.value)))
    except Exception as error:  # it raises several kinds, click's among them
        root.refuse((str(error).splitlines() or [type(error).__name__])[0].rstrip("."), "mend the file")


def _check_token(root: Part) -> None:
    mounts, synced = root.at("file_mounts"), root.at("cluster_synced_files")
    if TOKEN not in mounts.entries() and TOKEN not in [part.value for part in synced.items()]:
        mounts.at(TOKEN).refuse("the cluster's token reaches no node", f'say file_mounts: {{"{TOKEN}": "{TOKEN}"}}')
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = root.items(name)
        if not any("ray start" in command.text for command in commands):
            root.at(name).refuse(
                "is missing; Ray's own commands start an open cluster", "say RAY_AUTH_MODE=token ray start ..."
            )
        for command in commands:
            if "ray start" in command.text and not _MODE.search(command.text):
                command.refuse("whoever reaches the node runs code on it", "say RAY_AUTH_MODE=token ray start ...")
            if "ray start" in command.text and name.startswith("head") and "--head" not in command.text:
                command.refuse("starts no head", "say ray start --head")


def _check_installs(root: Part) -> None:
    """Check that what the machines install is what this derm_ray is."""
    lists = [
        root.at(name)
        for name in ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    ]
    lists += [kind.at("worker_setup_commands") for kind in root.entries("available_node_types").values()]
    starts = [root.at(name) for name in ("head_start_ray_commands", "worker_start_ray_commands")]
    if not root.at("setup_commands").exists and not root.at("docker", "image").exists:
        root.at("setup_commands").refuse(
            "is missing; a cloud's machines would get Ray's nightly", "install pinned versions"
        )
    for command in (command for part in (*lists, *starts) for command in part.items()):
        if _LITERAL.search(command.text):
            command.refuse("a secret stands in the file", "mount a file, or give the machines a role")
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
            command.refuse(f"installs {name} {given or 'of any version'}", f"say {name}=={wanted[name]}")
        pinned = pinned and (wheel is not None or (found["rest"] or "").startswith("=="))
    if not pinned and not _CONSTRAINT.search(text):
        command.refuse("installs versions of the day", "say --constraint constraints.txt, or pin each by ==")
