"""Strict reading of Serve config files; Serve itself ignores unknown keys."""

from collections.abc import Mapping
from typing import Any

import jsonschema
import jsonschema.exceptions
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from derm_ray import storage
from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.errors import ConfigError
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.deployment import DEPLOYMENT, application

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
"""Where a value is, and what is wrong with it."""
IMPORT_PATH = f"{application.__module__}:{application.__name__}"


def read_config(uri: str) -> ServeDeploySchema:
    """Read a Serve config file that has one application of derm_ray, and maybe others.

    Args:
        uri: YAML as in https://docs.ray.io/en/latest/serve/production-guide/config.html.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is not YAML, or has unknown keys, wrong values or no application of derm_ray; all problems are
            listed.
    """
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(f"{uri}:{where} not valid YAML ({getattr(error, 'problem', error)}).") from None
    problems = check_config(values)
    if problems:
        lines = (f"{'.'.join(map(str, path)) or 'the file'}: {what}" for path, what in problems)
        raise ConfigError("\n  ".join([f"{uri} cannot be served:", *lines]))
    return ServeDeploySchema.model_validate(values)


def check_config(values: object) -> list[Problem]:
    """Return the problems of a Serve config file."""
    validator = jsonschema.Draft202012Validator(_strict(ServeDeploySchema.model_json_schema()))
    # If all alternatives fail, the best match explains the problem.
    errors = [jsonschema.exceptions.best_match([error]) for error in validator.iter_errors(values)]
    problems: list[Problem] = [(tuple(error.absolute_path), error.message) for error in errors]
    if problems:
        return sorted(problems, key=str)
    assert isinstance(values, Mapping)
    ours = {row: app for row, app in enumerate(values["applications"]) if app["import_path"] == IMPORT_PATH}
    if len(ours) != 1:
        return [(("applications",), f"expected exactly one with `import_path: {IMPORT_PATH}`, found {len(ours)}")]
    try:
        ServeDeploySchema.model_validate(values)
    except ValidationError as error:
        problems += _validation_problems(error, ())
    for row, app in ours.items():
        try:
            ServeArguments.model_validate(app.get("args", {}))
        except ValidationError as error:
            problems += _validation_problems(error, ("applications", row, "args"))
        names = [deployment["name"] for deployment in app.get("deployments", [])]
        problems += [
            (("applications", row, "deployments"), f"{name!r} is unknown; the deployment is {DEPLOYMENT}")
            for name in names
            if name != DEPLOYMENT
        ]
    return [*problems, *_secrets(values, ())]


def _secrets(part: object, path: Path) -> list[Problem]:
    """Return secrets in a file, which Ray's dashboard would show to everyone."""
    hint = "which Ray's dashboard would show. Provide credentials on the nodes instead"
    if isinstance(part, Mapping):
        named = path[-1:] == ("env_vars",)
        secrets = {name for name, value in part.items() if named and names_a_secret(str(name), str(value))}
        found = [((*path, name), f"looks like a secret, {hint}") for name in part if name in secrets]
        return found + [
            one for name, value in part.items() if name not in secrets for one in _secrets(value, (*path, name))
        ]
    if isinstance(part, list):
        return [one for row, value in enumerate(part) for one in _secrets(value, (*path, row))]
    if isinstance(part, str) and (kind := find_credential(part)):
        return [(path, f"contains {kind}, {hint}")]
    return []


def _validation_problems(error: ValidationError, before: Path) -> list[Problem]:
    return [((*before, *problem["loc"]), problem["msg"]) for problem in error.errors()]


def _strict(schema: Any) -> Any:
    """Return a JSON schema that forbids additional properties wherever it lists some."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema:
        strict["additionalProperties"] = False
    # Beside a described object, an arbitrary one would let everything pass.
    choices = strict.get("anyOf", [])
    if any("$ref" in choice for choice in choices):
        strict["anyOf"] = [choice for choice in choices if choice.get("additionalProperties") is not True]
    return strict
