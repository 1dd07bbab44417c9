"""The space of recipes that a search draws from."""

import itertools
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from ray import tune

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.training.config import TrainConfig, config_from_json, typed
from derm_ray.training.recipe import read_mapping

FIXED = ("label_set", "monitor")
"""Settings that all trials share, since they would not compare."""


_COMBINATIONS = 10_000
"""Most that are checked."""


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, both included, drawn evenly, or evenly on a logarithmic scale."""

    low: float
    high: float
    log: bool


Space = Mapping[str, Range | tuple[Any, ...]]
"""Setting -> its range, or its choices."""


def read_space(uri: str, base: TrainConfig) -> Space:
    """Read a YAML file that gives each searched setting a list of values, or ``{min:, max:, log:}``.

    Args:
        uri: of the file.
        base: the recipe whose settings are searched.

    Raises:
        ConfigError: a setting is unknown, what it is given is no list or range of its values, or some of them do not
            go together.
        StorageError: the file cannot be read.
    """
    given = read_mapping(uri)
    if not given:
        raise ConfigError(f"{uri}: no settings to search. Add lines such as 'learning_rate: {{min: 1e-5, max: 1e-3}}'.")
    space = {name: _read(uri, name, values, base) for name, values in given.items()}
    ends = [(of.low, of.high) if isinstance(of, Range) else of for of in space.values()]
    for values in itertools.islice(itertools.product(*ends), _COMBINATIONS):
        drawn = dict(zip(space, values, strict=True))
        try:
            config_from_json({**asdict(base), **drawn})
        except ConfigError as error:
            together = ", ".join(f"{name}={value}" for name, value in drawn.items())
            raise ConfigError(f"{uri}: a trial could draw {together}: {error} Search them apart.") from error
    return space


def _read(uri: str, name: str, values: Any, base: TrainConfig) -> Range | tuple[Any, ...]:
    known = tuple(field.name for field in fields(TrainConfig))
    if name not in known:
        raise ConfigError(f"{uri}: {unknown_name('setting', name, known)}")
    if name in FIXED:
        raise ConfigError(
            f"{uri}: {name} cannot be searched, since trials would not compare. Give --set {name}=VALUE instead."
        )
    try:
        if isinstance(values, list):
            return _choices(name, values, base)
        if isinstance(values, dict):
            return _range(name, values, base)
    except ConfigError as error:
        raise ConfigError(f"{uri}: {error}") from error
    raise ConfigError(f"{uri}: {name}: {reprlib.repr(values)} is neither a list of values nor {{min: LOW, max: HIGH}}.")


def _choices(name: str, values: list[Any], base: TrainConfig) -> tuple[Any, ...]:
    if not values:
        raise ConfigError(f"{name}: the list is empty. Add values, or remove the setting.")
    return tuple(dict.fromkeys(_value(name, value, base) for value in values))


def _range(name: str, values: dict[str, Any], base: TrainConfig) -> Range:
    if not {"min", "max"} <= values.keys() <= {"min", "max", "log"} or not isinstance(values.get("log", False), bool):
        raise ConfigError(f"{name}: a range is {{min: LOW, max: HIGH}}, and log: true for a logarithmic scale.")
    if not types(name) & {"integer", "number"}:
        raise ConfigError(f"{name}: not a number, so it has no range. Give a list of values.")
    low, high = (_value(name, values[end], base) for end in ("min", "max"))
    if low is None or high is None or low >= high:
        raise ConfigError(f"{name}: min {low} is not below max {high}.")
    log = values.get("log", False)
    if log and low <= 0:
        raise ConfigError(f"{name}: min {low} has no logarithm. Raise it above 0, or remove log.")
    return Range(low, high, log)


def _value(name: str, value: Any, base: TrainConfig) -> Any:
    """Return a value as the recipe has it: YAML reads 1e-4 as text."""
    if isinstance(value, (dict, list)) or (isinstance(value, bool) and "boolean" not in types(name)):
        raise ConfigError(f"{name}: {reprlib.repr(value)} is not a value of this setting.")
    return getattr(typed({**asdict(base), name: value}), name)


def types(name: str) -> set[str]:
    """Return the JSON types of a setting's values, such as ``number``."""
    schema = TypeAdapter(TrainConfig).json_schema()["properties"][name]
    return {option.get("type", "") for option in schema.get("anyOf", [schema])}


def domains(space: Space) -> dict[str, Any]:
    """Return a space as Ray Tune draws from it."""
    return {name: _domain(name, of) for name, of in space.items()}


def _domain(name: str, of: Range | tuple[Any, ...]) -> Any:
    if not isinstance(of, Range):
        return tune.choice(list(of))
    if "integer" in types(name):
        return (tune.lograndint if of.log else tune.randint)(int(of.low), int(of.high) + 1)
    return (tune.loguniform if of.log else tune.uniform)(of.low, of.high)


def most_epochs(space: Space, base: TrainConfig) -> int:
    """Return the epochs of the longest trial."""
    of = space.get("epochs", (base.epochs,))
    return int(of.high if isinstance(of, Range) else max(of))
