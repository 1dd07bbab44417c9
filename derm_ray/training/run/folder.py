"""The folder of a training run: claiming it, and the identity of a run."""

import json
import re
import uuid
from typing import Any

from derm_ray import __version__, bundle, ray_internals, storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ConfigError, OutputExistsError
from derm_ray.training.config import TrainConfig
from derm_ray.training.start import Start

CONFIG = "config.json"
BUNDLE = "bundle"
VAL = "val.parquet"
"""Probabilities of the val pairs, before calibration."""
INVOCATIONS = "invocations"
"""Leases of the processes that worked on the run; the current one holds one."""


def run_folder(out_uri: str, name: str) -> str:
    """Return the folder of a run; a ``ConfigError`` refuses names that would be folders elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ConfigError(f"--name {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit.")
    return storage.join(storage.absolute(out_uri), name)


def describe(
    config: TrainConfig, manifest: Manifest, init_weights: str | None, start: Start, teacher: str | None = None
) -> dict[str, Any]:
    """Return the identity of a run; ``teacher`` is the digest of its model."""
    return {
        "manifest_digest": manifest.digest,
        "init_weights": init_weights,
        "cam_network": start.cam_digest,
        "teacher": teacher,
        "training": config.to_json(),
    }


def claim(run_uri: str, description: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Claim the run's folder: a new one, or an unfinished run of the same recipe; ``overwrite`` removes another one.

    Returns:
        The run's ``run_id``, ``jobs``, the Ray Jobs that have worked on it, and ``derm_ray_versions``, the versions.

    Raises:
        OutputExistsError: the folder holds a finished run, one with other settings, or something else.
    """
    config_uri = storage.join(run_uri, CONFIG)
    if overwrite and storage.exists(config_uri):
        for name in storage.list_folder(run_uri):
            if name not in (CONFIG, f"{INVOCATIONS}/"):
                storage.remove_tree(storage.join(run_uri, name.rstrip("/")))
        storage.remove(config_uri)  # last: it marks the folder as a run
    if storage.exists(storage.join(run_uri, BUNDLE, bundle.INDEX)):
        raise OutputExistsError(f"{run_uri} contains a finished run. Choose another --name, or give --overwrite.")
    started: dict[str, Any] = {"run_id": uuid.uuid4().hex, "jobs": [], "derm_ray_versions": []}
    if storage.exists(config_uri):
        recorded = storage.read_json(config_uri)
        if not recorded.keys() >= started.keys():
            raise OutputExistsError(
                f"{config_uri} is not a training run's. Choose another --name, or give --overwrite."
            )
        started = {name: recorded.pop(name) for name in started}
        if changes := differences(recorded, description):
            raise OutputExistsError(
                f"{run_uri} contains an unfinished run with other settings: {'; '.join(changes)}. "
                "Use the same settings to resume it, another --name, or --overwrite."
            )
    elif any(storage.parent(uri).rpartition("/")[2] != INVOCATIONS for uri in storage.list_files(run_uri)):
        raise OutputExistsError(f"{run_uri} contains files that are not a training run. Choose another --name.")
    if (job := ray_internals.submission_id()) is not None:
        started["jobs"].append(job)
    if __version__ not in started["derm_ray_versions"]:
        started["derm_ray_versions"].append(__version__)
    storage.write_json(config_uri, {**started, **description})
    return started


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return what two identities differ in, one text each, for messages."""
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} was {json.dumps(before)}, now {json.dumps(after)}")
    return changes
