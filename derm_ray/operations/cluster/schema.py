"""Schemas of Kubernetes objects: a small subset of our own, or KubeRay's definitions; both strict."""

import copy
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import jsonschema.exceptions
import yaml

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.operations.cluster.documents import Document

CRDS_VARIABLE = "DERM_RAY_KUBERAY_CRDS"
"""Names a folder with KubeRay's ``ray.io_*.yaml``, which then stand in for our subset."""
RAY_API = "ray.io/v1"
RAY_KINDS = ("RayCluster", "RayJob", "RayService", "RayCronJob")
MANY = 12
SHOWN = 160


def check_schema(document: Document, kind: str) -> None:
    """Note where a document differs from its kind's schema.

    Args:
        document: of one of our schemas' kinds.
        kind: of it.

    Raises:
        ConfigError: :data:`CRDS_VARIABLE` names a folder without that kind's definition.
    """
    folder = os.environ.get(CRDS_VARIABLE)
    foreign = bool(folder) and kind in RAY_KINDS
    schema = _kuberay_schema(str(folder), kind) if foreign else _own_schema(kind)
    value = copy.deepcopy(document.value)
    _fill_in(value, schema, schema)
    hint = ""
    if kind in RAY_KINDS and not foreign:
        hint = f" (our subset of the schema; {CRDS_VARIABLE} names a folder with KubeRay's own)"
    validator = jsonschema.Draft202012Validator(schema)
    for error in validator.iter_errors(value):
        # Of alternatives that all fail, the one that fits best tells what is wrong.
        refuse_error(document, jsonschema.exceptions.best_match([error]) or error, hint)


def own_kinds() -> dict[str, str]:
    """Return the kinds that we know, each with its ``apiVersion``."""
    found = {}
    for kind, schema in _definitions().items():
        version = schema.get("properties", {}).get("apiVersion", {}).get("const")
        if version:
            found[kind] = version
    return found


def refuse_error(document: Document, error: jsonschema.exceptions.ValidationError, hint: str = "") -> None:
    """Note what a schema refuses, in words of ours.

    Args:
        document: that was validated.
        error: jsonschema's.
        hint: told beside the mend of a field that the schema does not know.
    """
    path, rule, wanted = tuple(error.absolute_path), str(error.validator), cast(Any, error.validator_value)
    found = error.instance
    if rule == "additionalProperties" and isinstance(found, dict):
        known = list(cast(dict[str, Any], error.schema).get("properties", {}))
        mend = f"fields here: {', '.join(known)}" if len(known) <= MANY else "mend its name or leave it out"
        for key in (key for key in found if key not in known):
            document.refuse((*path, key), unknown_field(key, known), mend + hint)
    elif rule == "required" and isinstance(found, dict):
        for key in (key for key in wanted if key not in found):
            document.refuse((*path, key), "is missing", "fill it in")
    elif rule == "type":
        kinds = " or ".join(wanted) if isinstance(wanted, list) else wanted
        plain = kinds == "string" and not isinstance(found, (dict, list))
        what = f"is empty, not {kinds}" if found is None else f"{_shown(repr(found))} is not {kinds}"
        document.refuse(path, what, "write it in quotes" if plain else f"give {kinds}")
    elif rule == "enum":
        choices = ", ".join(map(str, wanted))
        document.refuse(path, f"{_shown(repr(found))} is none of its values", f"choose one of: {choices}")
    else:
        document.refuse(path, _shown(error.message), "mend the value")


def unknown_field(key: str, known: Sequence[str]) -> str:
    """Return what is to be said of a key that is not in a closed list, with the nearest known one."""
    return unknown_name("field", key, known).split(" Known: ")[0].rstrip(".")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _definitions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in sorted((files(__package__) / "schemas").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            found |= yaml.safe_load(entry.read_text())
    return found


@cache
def _own_schema(kind: str) -> dict[str, Any]:
    definitions = {name: _strict(schema) for name, schema in _definitions().items()}
    return {"$ref": f"#/$defs/{kind}", "$defs": definitions}


@cache
def _kuberay_schema(folder: str, kind: str) -> dict[str, Any]:
    path = Path(folder) / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{CRDS_VARIABLE}={folder}: there is no {path.name}. Name the folder of KubeRay's definitions."
        )
    definition = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    version = next(one for one in definition["spec"]["versions"] if f"ray.io/{one['name']}" == RAY_API)
    schema: dict[str, Any] = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"$ref": "#/$defs/ObjectMeta"}
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata", "spec"})
    return schema | {"$defs": _own_schema(kind)["$defs"]}


def _strict(schema: Any) -> Any:
    """Return a structural schema that knows no further properties wherever it names some."""
    if not isinstance(schema, dict):
        return schema
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in strict:
            strict[key] = _strict(strict[key])
    if schema.get("nullable") and "type" in schema:
        strict["type"] = [schema["type"], "null"]
    return strict


def _fill_in(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> None:
    """Put a schema's defaults into a value, as a cluster does before it validates."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict):
        for name, one in schema.get("properties", {}).items():
            if name not in value and "default" in one:
                value[name] = copy.deepcopy(one["default"])
        further = schema.get("additionalProperties")
        for name, child in value.items():
            one = schema.get("properties", {}).get(name, further)
            if isinstance(one, dict):
                _fill_in(child, one, root)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for child in value:
            _fill_in(child, schema["items"], root)
