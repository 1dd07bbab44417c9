"""Recipes as YAML files."""

import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml

from derm_ray import storage
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.training.config import TrainConfig, make_config, parse_settings

PRESET = "preset"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(uri: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: it is not YAML, or holds something else.
        StorageError: it cannot be read.
    """
    try:
        content = yaml.load(storage.read_bytes(uri), _Loader)  # noqa: S506 -- a safe loader's child
    except yaml.MarkedYAMLError as error:
        at = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{uri}{at}: {error.problem}. Correct the YAML.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: not a YAML file. Give one with lines such as 'epochs: 10'.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{uri}: not a mapping of settings. Write lines such as 'epochs: 10'.")
    return content


def make_recipe(preset: str | None, recipe_uri: str | None, assignments: Sequence[str]) -> TrainConfig:
    """Return the recipe that a preset, a file and ``key=value`` texts describe; later ones win.

    Args:
        preset: a name in :data:`derm_ray.training.PRESETS`; ``None`` is the file's, or ``paper``.
        recipe_uri: a YAML file of settings, and ``preset`` to start from.
        assignments: as of ``--set``.

    Raises:
        ConfigError: a part is unknown or out of range, or two presets are given.
        StorageError: the file cannot be read.
    """
    settings: dict[str, Any] = {}
    if recipe_uri is not None:
        settings = read_mapping(recipe_uri)
        if (named := settings.pop(PRESET, None)) is not None:
            if preset is not None:
                raise ConfigError(f"{recipe_uri} starts from preset {named}. Remove it there, or --preset {preset}.")
            preset = _text(recipe_uri, named)
        settings = checked_settings(recipe_uri, settings)
    try:
        return make_config(preset or "paper", {**settings, **parse_settings(assignments)})
    except ConfigError as error:
        if recipe_uri is None or assignments:
            raise
        raise ConfigError(f"{recipe_uri}: {error}") from error


def checked_settings(uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a file whose names are known and whose values are single ones.

    ``true`` and ``false`` are of switches only: they would otherwise pass as the numbers 1 and 0.

    Raises:
        ConfigError: one is not; it is named.
    """
    known = {field.name: field.default for field in fields(TrainConfig)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{uri}: {unknown_name('setting', name, tuple(known))}")
        if isinstance(value, (dict, list)) or (isinstance(value, bool) and not isinstance(known[name], bool)):
            raise ConfigError(
                f"{uri}: {name}: {reprlib.repr(value)} is not a value of this setting. See derm_ray's settings."
            )
    return dict(settings)


def _text(uri: str, preset: Any) -> str:
    if not isinstance(preset, str):
        raise ConfigError(f"{uri}: preset: {reprlib.repr(preset)} is not a name.")
    return preset


def write_recipe(config: TrainConfig) -> str:
    """Return a recipe as a YAML file of all its settings."""
    return yaml.safe_dump(config.to_json(), sort_keys=False)
