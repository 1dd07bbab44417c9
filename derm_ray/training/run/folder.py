"""The folder of a training run: whose it is, and what makes two runs the same."""

import json
import uuid
from typing import Any

from derm_ray import __version__, bundle, ray_internals, storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import OutputExistsError
from derm_ray.training.config import TrainConfig
from derm_ray.training.start import Start

CONFIG = "config.json"
BUNDLE = "bundle"
INVOCATIONS = "invocations"
"""Leases of those who worked on the run; whoever claims it holds one."""


def describe(config: TrainConfig, manifest: Manifest, init_weights: str | None, start: Start) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "derm_ray_version": __version__,
        "manifest_digest": manifest.digest,
        "init_weights": init_weights,
        "cam_network": start.cam_digest,
        "training": config.to_json(),
    }


def claim(run_uri: str, description: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Make the run's folder ours: a new one, or one that the same recipe has left unfinished.

    Args:
        run_uri: the folder.
        description: see :func:`describe`.
        overwrite: remove a run that is there.

    Returns:
        The run's ``run_id``, and ``jobs``, the Ray Jobs that have worked on it.

    Raises:
        OutputExistsError: the folder holds a finished run, one with other settings, or something else.
    """
    config_uri = storage.join(run_uri, CONFIG)
    if overwrite and storage.exists(config_uri):
        for name in storage.list_folder(run_uri):
            if name not in (CONFIG, f"{INVOCATIONS}/"):
                storage.remove_tree(storage.join(run_uri, name.rstrip("/")))
        storage.remove(config_uri)  # last: without it the folder would be no run
    if storage.exists(storage.join(run_uri, BUNDLE, bundle.INDEX)):
        raise OutputExistsError(f"{run_uri} holds a finished run. Choose another --name, or give --overwrite.")
    if not storage.exists(config_uri):
        if any(storage.parent(uri).rpartition("/")[2] != INVOCATIONS for uri in storage.list_files(run_uri)):
            raise OutputExistsError(f"{run_uri} holds files that are no run of derm_ray. Choose another --name.")
        recorded: dict[str, Any] = {}
    else:
        recorded = storage.read_json(config_uri)
    job = ray_internals.submission_id()
    started = {
        "run_id": recorded.pop("run_id", None) or uuid.uuid4().hex,
        "jobs": [*recorded.pop("jobs", []), *([job] if job else [])],
    }
    if recorded and (changes := _differences(recorded, description)):
        raise OutputExistsError(
            f"{run_uri} holds an unfinished run with other settings: {'; '.join(changes)}. "
            "Give the same settings to resume it, another --name, or --overwrite."
        )
    storage.write_json(config_uri, {**started, **description})
    return started


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} was {json.dumps(before)}, now {json.dumps(after)}")
    return changes
