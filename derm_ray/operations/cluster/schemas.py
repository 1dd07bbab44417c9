"""Schemas: those of Kubernetes come with ``kubernetes-validate``, those of custom resources from a folder."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import jsonschema.exceptions
import yaml
from kubernetes_validate.utils import latest_version, schema_contents
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from derm_ray.errors import ConfigError, unknown_name
from derm_ray.operations.cluster.documents import Document

CRDS_VARIABLE = "DERM_RAY_KUBERAY_CRDS"
"""Names the folder of definitions where ``--crds`` does not."""
RAY_GROUP = "ray.io"
MAX_FIELDS_LISTED = 12
MAX_VALUE_SHOWN = 160
_KIND = re.compile(r"[A-Za-z]+")
_API = re.compile(r"([a-z0-9][a-z0-9.-]*/)?v[a-z0-9]+")
_OBJECT_META = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def check_schema(document: Document, crds: str | None) -> str:
    """Report where a Kubernetes object differs from its schema.

    Args:
        document: with a text as its ``kind``.
        crds: folder of definitions of custom resources, named as KubeRay names its own: ``ray.io_rayjobs.yaml``.

    Returns:
        Why its fields were not checked; empty where they were.

    Raises:
        ConfigError: the folder lacks a definition of KubeRay, or holds a file that is not a definition.
    """
    kind, api = document.value["kind"], document.value.get("apiVersion")
    if not isinstance(api, str) or not _API.fullmatch(api) or not _KIND.fullmatch(kind):
        document.refuse(("apiVersion",), f"{api!r} has no kind {kind!r}", "see `kubectl api-resources`")
        return ""
    group, _, version = api.rpartition("/")
    schema = _kubernetes_schema(kind, group, version)
    if schema is None and "." not in group:
        problem = f"Kubernetes {latest_version()} has no {kind} in {api}"
        document.refuse(("kind",), problem, "see `kubectl api-resources`")
        return ""
    if schema is None:
        name = f"{group}_{kind.lower()}s.yaml"
        if crds is None:
            return f"name a folder that holds {name} with --crds or {CRDS_VARIABLE}"
        if not (path := Path(crds) / name).is_file():
            if group == RAY_GROUP:
                raise ConfigError(f"{crds}: there is no {name}. Name the folder of KubeRay's definitions (--crds).")
            return f"{crds} holds no {name}"
        schema = _custom_schema(path, version)
    validator = jsonschema.Draft202012Validator(schema, registry=_kubernetes_definitions())
    for error in validator.iter_errors(document.value):
        # Of alternatives that all fail, report the one that fits best.
        refuse_error(document, jsonschema.exceptions.best_match([error]) or error)
    return ""


def refuse_error(document: Document, error: jsonschema.exceptions.ValidationError) -> None:
    """Report what a schema refuses, in plain words.

    Args:
        document: that was validated.
        error: jsonschema's.
    """
    path, rule, wanted = tuple(error.absolute_path), str(error.validator), cast(Any, error.validator_value)
    found = error.instance
    if rule == "additionalProperties" and isinstance(found, dict):
        known = list(cast(dict[str, Any], error.schema).get("properties", {}))
        fix = f"fields here: {', '.join(known)}" if len(known) <= MAX_FIELDS_LISTED else "rename or remove it"
        for key in (key for key in found if key not in known):
            document.refuse((*path, key), unknown_field(key, known), fix)
    elif rule == "required" and isinstance(found, dict):
        for key in (key for key in wanted if key not in found):
            document.refuse((*path, key), "is missing", "fill it in")
    elif rule == "type":
        types = " or ".join(one for one in ([wanted] if isinstance(wanted, str) else wanted) if one != "null")
        scalar = types == "string" and not isinstance(found, (dict, list))
        problem = f"is empty, not {types}" if found is None else f"{_shortened(repr(found))} is not {types}"
        document.refuse(path, problem, "write it in quotes" if scalar else f"give {types}")
    elif rule == "enum":
        problem = f"{_shortened(repr(found))} is not allowed"
        document.refuse(path, problem, f"choose one of: {', '.join(map(str, wanted))}")
    else:
        document.refuse(path, _shortened(error.message), "correct the value")


def unknown_field(key: str, known: Sequence[str]) -> str:
    """Return the message for a key that is not in a closed list, with the nearest known one."""
    return unknown_name("field", key, known).split(" Known: ")[0].rstrip(".")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}..."


def _kubernetes_file(name: str) -> Any:
    version = latest_version()
    return schema_contents(f"kubernetes-json-schema/v{version}-local-strict/{name}.json", version)


@cache
def _kubernetes_definitions() -> Registry[Any]:
    contents = _kubernetes_file("_definitions")
    resources = [(contents["$id"], DRAFT202012.create_resource(contents))]
    return Registry[Any]().with_resources(resources)


@cache
def _kubernetes_schema(kind: str, group: str, version: str) -> dict[str, Any] | None:
    """Return the schema of a kind of Kubernetes; the package names its files by kind and the group's first word."""
    try:
        schema: dict[str, Any] = _kubernetes_file("-".join(filter(None, (kind.lower(), group.split(".")[0], version))))
    except FileNotFoundError:
        return None
    kinds = schema.get("x-kubernetes-group-version-kind", [])
    return schema if {"group": group, "kind": kind, "version": version} in kinds else None


@cache
def _custom_schema(path: Path, version: str) -> dict[str, Any]:
    """Return the schema of a custom resource, made strict: Kubernetes drops unknown fields without a warning."""
    try:
        definition = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        versions = {one["name"]: one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"]}
        schema: dict[str, Any] = _strict(versions[version])
        schema["properties"]["metadata"] = {"$ref": _OBJECT_META}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is not a CustomResourceDefinition with the version {version}.") from error
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata", "spec"})
    return schema


def _strict(schema: Any) -> Any:
    """Refuse fields that are not named, and require none that has a default."""
    if not isinstance(schema, dict):
        return schema
    strict = dict(schema)
    if properties := schema.get("properties"):
        strict["properties"] = {name: _strict(one) for name, one in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
        strict["required"] = [name for name in schema.get("required", []) if "default" not in properties.get(name, {})]
    for key in ("items", "additionalProperties"):
        if key in strict:
            strict[key] = _strict(strict[key])
    if schema.get("nullable") and "type" in schema:
        strict["type"] = [schema["type"], "null"]
    return strict
