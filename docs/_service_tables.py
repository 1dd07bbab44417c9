"""Tables of the endpoint, of codes, metrics, ports and the Python API, made from the code."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import yaml
from _tables import MEANINGS, ROOT, agree, sentence, table

IMAGE_ERRORS: dict[str, str] = MEANINGS["image_errors"]
PORTS = yaml.safe_load((ROOT / "docs" / "_ports.yaml").read_text(encoding="utf-8"))
HTTP_ERRORS: dict[str, str] = MEANINGS["http_errors"]
FRAMEWORK_ERRORS = {"not_found": 404, "method_not_allowed": 405}


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(extra := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(extra)}"
    if "contentMediaType" in schema or schema.get("format") in ("binary", "base64"):
        return "base64" if schema.get("format") == "base64" else "file"
    return str(schema.get("type", "any"))


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = (
        [f"`{name}`", _type(of), "yes" if name in required else "no", of.get("description", "")]
        for name, of in schema["properties"].items()
    )
    return table(["field", "type", "required", "meaning"], rows)


def http() -> str:
    """The HTTP API, from its OpenAPI document."""
    from derm_ray.serving.api import create_app

    backend = SimpleNamespace(admission=None, description=SimpleNamespace(model_digest=""))
    document = create_app(backend).openapi()  # type: ignore[arg-type]
    schemas = document["components"]["schemas"]
    text = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text += [f"### {method.upper()} {path}", operation["description"].splitlines()[0]]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                body = content["schema"]
                of = schemas[(body["$ref"] if "$ref" in body else body["allOf"][0]["$ref"]).rpartition("/")[2]]
                text += [f"Body: `{kind}`", _fields(of)]
            rows = []
            for status, answer in operation["responses"].items():
                schema = next(iter(answer.get("content", {"": {"schema": {}}}).values()))["schema"]
                rows.append([status, _type(schema), sentence(answer["description"])])
            text.append(table(["status", "body", "meaning"], rows))
    text.append("## Bodies")
    for name, schema in schemas.items():
        if "properties" in schema and not name.startswith("Body_"):
            text += [f"### {name}", schema.get("description", "").replace("\n", " "), _fields(schema)]
        elif "enum" in schema:
            text += [f"### {name}", schema.get("description", ""), "Values: " + _type({"enum": schema["enum"]}) + "."]
    return "\n\n".join(text)


def exit_codes() -> str:
    """Every error class with its exit code."""
    from derm_ray import errors

    rows = []

    def visit(cls: type[errors.DermRayError]) -> None:
        for kind in cls.__subclasses__():
            if kind.__module__ == errors.__name__:
                rows.append([f"`{kind.__name__}`", kind.exit_code, (inspect.getdoc(kind) or "").splitlines()[0]])
                visit(kind)

    visit(errors.DermRayError)
    return table(["error", "exit code", "meaning"], rows)


def image_errors() -> str:
    """The codes of single images."""
    from derm_ray.errors import ImageErrorCode

    agree("codes of images", IMAGE_ERRORS, ImageErrorCode)
    return table(["code", "meaning"], ([f"`{code}`", IMAGE_ERRORS[code]] for code in ImageErrorCode))


def _http_codes() -> dict[str, set[int]]:
    """Return code -> statuses, of every ``ApiError(status, "code", ...)`` in the endpoint's source."""
    found: dict[str, set[int]] = {}
    for path in sorted((ROOT / "derm_ray" / "serving").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    found.setdefault(str(code.value), set()).add(int(str(status.value)))
    return found


def http_errors() -> str:
    """The codes of problem documents."""
    codes = _http_codes() | {code: {status} for code, status in FRAMEWORK_ERRORS.items()}
    agree("codes of problem documents", HTTP_ERRORS, codes)
    rows = sorted((min(statuses), code) for code, statuses in codes.items())
    return table(["status", "code", "meaning"], ([status, f"`{code}`", HTTP_ERRORS[code]] for status, code in rows))


def metrics() -> str:
    """Every metric of derm_ray, recorded as the code defines it."""
    from ray.util.metrics import Metric

    made: dict[str, list[str]] = {}
    original = Metric.__init__

    def record(self: Metric, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        original(self, name, description, tag_keys)
        kind = type(self).__name__.lower()
        shown = f"ray_{name}{'_total' if kind == 'counter' else ''}"
        made[name] = [f"`{shown}`", kind, ", ".join(f"`{key}`" for key in tag_keys or ()), description]

    with patch.object(Metric, "__init__", record):
        from derm_ray.scoring.metrics import RunMetrics
        from derm_ray.serving.drift import DriftMetrics
        from derm_ray.serving.metrics import ModelMetrics, RequestMetrics
        from derm_ray.serving.recorder import Recorder
        from derm_ray.training.run.metrics import TrainingMetrics

        TrainingMetrics("run", 0)
        RunMetrics("run", 0)
        ModelMetrics(Recorder())
        RequestMetrics(Recorder())
        DriftMetrics((), Recorder())
    return table(["metric", "type", "labels", "meaning"], (made[name] for name in sorted(made)))


def ports() -> str:
    """What may listen."""
    reach = {"loopback": "127.0.0.1", "node": "the node's address, 127.0.0.1", "all": "all"}
    columns = ("what", "process", "port", "reach", "for", "guard")
    rows = ([reach.get(one[name], one[name]) for name in columns] for one in PORTS)
    return table(["what", "process", "port", "bound to", "for", "guarded by"], rows)


def python() -> str:
    """The public API, for mkdocstrings."""
    import derm_ray

    return "\n\n".join(f"::: {module}.{name}" for name, module in sorted(derm_ray._MODULES.items()))
