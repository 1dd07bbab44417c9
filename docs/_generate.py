"""MkDocs hook: reference pages hold ``<!-- generated: NAME -->`` where a table made from the code stands.

A sentence before it (``_NOTE``) says where the table is, for those who read the file itself; the site leaves it out.

A meaning that is written here must have its column or code, and the other way round: else the build fails.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
_NOTE = "_Generated from the code: run `make docs` and open this page in `build/site`._"
_MARKER = re.compile(rf"^(?:{re.escape(_NOTE)}\n\n)?<!-- generated: (\w+) -->$", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?([\w.]+)`")

MANIFEST_COLUMNS = {
    "pair_id": "Id of the row, unique. Default: `lesion_id`; one of the two is required.",
    "lesion_id": "Id of the lesion. A lesion may have several pairs. Default: `pair_id`.",
    "patient_id": "Id of the patient. All lesions of a patient go to the same split.",
    "clinical_uri": "Clinical photo. A relative URI starts at the manifest's folder.",
    "dermoscopy_uri": "Dermoscopy image, likewise.",
    "diagnosis": "A class of the label set. Training and evaluation need it.",
    "split": "`train`, `val` or `test`; written by `derm-ray data split`.",
    "age_years": "Age of the patient.",
    "sex": "Sex of the patient.",
    "site": "Part of the body.",
    "skin_tone": "Number on the scale of `skin_tone_scale`.",
    "skin_tone_scale": "`milk` (0 very dark to 5 very light), `fitzpatrick` (1 light to 6 dark) or `monk` (1 light to 10 dark).",
}

SCORE_COLUMNS = (
    (r"pair_id|lesion_id", None, "Ids of the input's row."),
    (r"status", None, "`ok` or `error`."),
    (r"error_code", None, "Why there is no score; see [errors](errors.md#image-errors)."),
    (r"error_message", None, "The same in words."),
    (r"modality", None, "Images that the score rests on: `both`, `clinical` or `dermoscopy`."),
    (
        r"flags",
        None,
        "What is unusual about an image: `clinical:animated` (only the first frame is scored), `dermoscopy:burned_in_annotation` (DICOM).",
    ),
    (r"diagnosis", None, "The most probable class."),
    (r"confidence", None, "Its probability, 0 to 1."),
    (r"p_(cancer|melanoma)", None, "Probability of a task: the sum over its positive classes."),
    (r"p_\w+", "p_<class>", "Probability of a class."),
    (
        r"\w+_at_\d+_sensitivity",
        "<task>_at_<n>_sensitivity",
        "Whether the task's probability reaches the operating point; null where the model has none.",
    ),
    (r"(clinical|dermoscopy)_saliency", "<modality>_saliency", "With `--saliency`: path of the overlay in the output."),
    (
        r"(clinical|dermoscopy|cross)_\w+",
        "<kind>_<class>",
        "With the option for per-input predictions: probability of a class by one image alone, or by both (`cross`).",
    ),
    (r"model_digest", None, "The model."),
    (r"engine", None, "The engine that computed the score."),
    (r"derm_ray_version", None, "The version that wrote the row."),
    (r"scored_at", None, "When."),
)

IMAGE_ERRORS = {
    "missing": "Storage has no such file.",
    "forbidden": "Storage does not allow reading it.",
    "storage": "Storage failed, also when asked again with growing pauses.",
    "timeout": "Storage did not answer in time, also when asked again.",
    "too_large": "More than 100 MB encoded.",
    "bomb": "A packed member that expands far beyond its size.",
    "empty": "The file has no bytes.",
    "not_an_image": "The bytes are no image.",
    "too_many_pixels": "More than 50 megapixels, by its header.",
    "corrupt": "The image is damaged.",
    "unsupported": "A format (HEIC, AVIF, JPEG XL, PDF, SVG ...), layout, transfer syntax or address that is not read. The message names it.",
    "crash": "The process died each time it worked on this pair.",
}

HTTP_ERRORS = {
    "bad_request": "The request cannot be read.",
    "busy": "The answer would probably take longer than 5 s to begin, or could not come within 10 s; or 512 pairs, or 500 MB of bodies, are in progress at the replica. See `Retry-After`.",
    "internal_error": "The server failed.",
    "invalid_request": "A field is unknown, repeated or has a wrong value. The message names it.",
    "no_image": "Neither `clinical` nor `dermoscopy` was sent.",
    "no_saliency": "The model's head is not `cam_bp`, so there are no overlays.",
    "replica_lost": "The replica that worked on the request died. See `Retry-After`.",
    "request_timeout": "The body took longer than 20 s.",
    "stopping": "The endpoint is being stopped. See `Retry-After`.",
    "too_large": "An image above 25 MB, or a request above 50.1 MB.",
    "too_many_requests": "A token asked more often than `--rate` allows. See `Retry-After`.",
    "unauthorized": "No token, or an unknown one.",
    "not_found": "Unknown path.",
    "method_not_allowed": "The path does not take this method.",
}
FRAMEWORK_ERRORS = {"not_found": 404, "method_not_allowed": 405}


ENGINES = {
    "auto": (
        "the fastest of the others, but `compiled`, in a measurement of seconds; decided once per run and recorded",
        "by default",
    ),
    "torch": ("eager PyTorch, fp32, channels last", "the reference"),
    "torch-bf16": ("the same under autocast", "AVX512-BF16, AMX, GPUs"),
    "compiled": (
        "PyTorch's compiler with frozen weights, bf16 where the hardware has it; needs a C++ compiler on CPUs, and about "
        "a minute to start per process",
        "archives that take an hour, where int8 is not wanted",
    ),
    "openvino-int8": ("convolutions in 8 bits, the rest fp32; CPUs only", "archives and endpoints on CPUs"),
}

ARCHIVES = {
    "tar": "patterns on the member's name; members are read by range",
    "zip": "the same",
    "tar.gz": "the same, but read in order, as one unit of work: its pairs are one part, however many",
    "parquet": "columns `clinical`, `dermoscopy`, and `lesion_id` or `pair_id`; images are bytes in the table",
}


class DocumentationError(Exception):
    """Text and code disagree."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the markers of one page."""
    return _MARKER.sub(lambda found: GENERATORS[found[1]](), markdown)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def agree(what: str, documented: Iterable[str], found: Iterable[str]) -> None:
    """Fail where the documented names are not those of the code."""
    if different := set(documented) ^ set(found):
        raise DocumentationError(f"docs/_generate.py and the code differ in {what}: {', '.join(sorted(different))}")


def attributes(of: object) -> dict[str, str]:
    """Return the ``Attributes`` (or ``Args``) of a docstring: name -> meaning; references to classes are followed."""
    text = inspect.getdoc(of) or ""
    section = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", section[1].rstrip() if section else ""):
        names, _, meaning = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            target = re.fullmatch(r"see :class:`([\w.]+)`\.", meaning)
            if target:
                module, _, cls = target[1].rpartition(".")
                found[name] = attributes(getattr(importlib.import_module(module), cls))[name]
            else:
                found[name] = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", meaning).replace("``", "`")
    return found


def cli() -> str:
    """Every command with its options, from Typer."""
    import typer
    from typer.cli import get_docs_for_click

    from derm_ray.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="derm-ray")
    return text.partition("\n")[2]


def _values(schema: Mapping[str, Any]) -> str:
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    (one,) = options
    if "enum" in one or "const" in one:
        text = ", ".join(f"`{value}`" for value in one.get("enum", [one.get("const")]))
    else:
        text = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}[
            one["type"]
        ]
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {one[name]:g}" for name, sign in bounds.items() if name in one]
    return ", ".join([text, *limits]) + (", or none" if len(schema.get("anyOf", [])) > 1 else "")


def _shown(value: object) -> str:
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def settings() -> str:
    """The recipe's settings, from the training configuration."""
    from pydantic import TypeAdapter

    from derm_ray.training.config import PRESETS, TrainConfig

    known = TypeAdapter(TrainConfig).json_schema()["properties"]
    meanings = attributes(TrainConfig)
    agree("settings", meanings, known)
    presets = {name: make().to_json() for name, make in PRESETS.items()}
    return table(
        ["setting", "values", *(f"`{name}`" for name in presets), "meaning"],
        (
            [
                f"`{name}`",
                _values(schema),
                *(_shown(values[name]) for values in presets.values()),
                _sentence(meanings[name]),
            ]
            for name, schema in known.items()
        ),
    )


def _first_line(of: object) -> str:
    text = (inspect.getdoc(of) or "").partition("\n\n")[0].replace("\n", " ")
    return _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)


def _names(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def trunks() -> str:
    """The trunks, from their registry."""
    from derm_ray.models.trunks import TRUNKS

    return table(
        ["`trunk`", "taps", "freeze points", "channels", "ImageNet weights"],
        (
            [f"`{name}`", _names(of.taps), _names(of.freezes), of.channels, "yes" if of.pretrained else "no"]
            for name, of in TRUNKS.items()
        ),
    )


def heads() -> str:
    """The heads, from their registry."""
    from derm_ray.models.heads import HEADS

    return table(
        ["`head`", "meaning", "needs `--cam`", "takes `rank`"],
        (
            [f"`{name}`", _first_line(of), "yes" if of.needs_map else "no", "yes" if of.takes_rank else "no"]
            for name, of in HEADS.items()
        ),
    )


def importers() -> str:
    """The importers, from their registry."""
    from derm_ray.data.importers import IMPORTERS

    rows = (
        [f"`derm-ray data import {name}`", of.help, of.source, _names(of.label_sets) or "any"]
        for name, of in IMPORTERS.items()
    )
    return table(["command", "meaning", "source", "label sets"], rows)


def archives() -> str:
    """What can be indexed: the containers of the registry, and folders."""
    from derm_ray.data.archives.containers import CONTAINERS

    agree("archive formats", ARCHIVES, CONTAINERS)
    rows = [["folder tree", "patterns on the path"]]
    rows += [[_names(CONTAINERS[name].suffixes), how] for name, how in ARCHIVES.items()]
    rows += [
        ["folder of `.parquet` files", "the same, as one table, as Spark, Dask and Ray write it"],
        [
            "DICOM files",
            "patient and tracking id of the header (Dermoscopic Photography, VL Photographic), or patterns",
        ],
    ]
    return table(["input", "how pairs are found"], rows)


def engines() -> str:
    """The engines of the registry, and ``auto``."""
    from derm_ray.inference import engines as package
    from derm_ray.inference.engines.selection import AUTO

    agree("engines", ENGINES, (AUTO, *package.ENGINES))
    return table(["`--engine`", "what it is", "when"], ([f"`{name}`", *texts] for name, texts in ENGINES.items()))


def evaluation_metrics() -> str:
    """The metrics of evaluations, from their registry."""
    from derm_ray.evaluation.metrics import METRICS

    rows = []
    for name, of in METRICS.items():
        if of.of_classes is not None:
            rows.append([f"`{name}`", of.title, _first_line(of.of_classes)])
        if of.of_task is not None:
            names = [f"<task>/{name}", *([f"{name}/<class>"] if of.per_class else [])]
            rows.append([_names(names), _sentence(of.task_title or of.title), _first_line(of.of_task)])
    return table(["metric", "title", "meaning"], ([*row[:2], row[2].replace("Return the ", "The ")] for row in rows))


def manifest() -> str:
    """The manifest's known columns."""
    from derm_ray.data.manifest import SCHEMA

    agree("columns of manifests", MANIFEST_COLUMNS, SCHEMA.names)
    rows = ([f"`{of.name}`", of.type, MANIFEST_COLUMNS[of.name]] for of in SCHEMA)
    return table(["column", "type", "meaning"], rows)


def labels() -> str:
    """The label sets."""
    from derm_ray.domain import LABEL_SETS, CancerDefinition

    text = []
    for name, of in LABEL_SETS.items():
        if of.collapses:
            continue
        rows = [
            [
                f"`{one.name}`",
                one.title,
                "yes" if CancerDefinition.PAPER in one.cancer else "ISIC only" if one.cancer else "",
                "yes" if one.melanoma else "",
            ]
            for one in of.diagnoses
        ]
        derived = ", ".join(f"`{other}`" for other in LABEL_SETS if other.startswith(f"{name}_"))
        text += [f"## {name}", table(["class", "name", "cancer", "melanoma"], rows), f"Tasks as label sets: {derived}."]
    return "\n\n".join(text)


def scores() -> str:
    """The columns that bulk scoring writes."""
    from derm_ray.domain import PAPER15
    from derm_ray.scoring.schema import score_schema

    options = [p.name for p in inspect.signature(score_schema).parameters.values() if p.kind is p.KEYWORD_ONLY]
    rows: dict[str, list[str]] = {}
    used = set()
    for column in score_schema(PAPER15, **dict.fromkeys(options, True)):
        for pattern, shown, meaning in SCORE_COLUMNS:
            if re.fullmatch(pattern, column.name):
                rows[shown or column.name] = [f"`{shown or column.name}`", str(column.type), meaning]
                used.add(pattern)
                break
        else:
            raise DocumentationError(f"docs/_generate.py: the score column {column.name!r} has no meaning")
    agree("columns of scores", (pattern for pattern, _, _ in SCORE_COLUMNS), used)
    return table(["column", "type", "meaning"], rows.values())


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
                rows.append([status, _type(schema), _sentence(answer["description"])])
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
    from derm_ray.operations.ports import ALLOWED, Reach

    reach = {Reach.LOOPBACK: "127.0.0.1", Reach.NODE: "the node's address, 127.0.0.1", Reach.ALL: "all"}
    rows = ([one.what, one.role, one.port, reach[one.reach], one.why, one.guard] for one in ALLOWED)
    return table(["what", "process", "port", "bound to", "for", "guarded by"], rows)


def python() -> str:
    """The public API, for mkdocstrings."""
    import derm_ray

    return "\n\n".join(f"::: {module}.{name}" for name, module in sorted(derm_ray._MODULES.items()))


GENERATORS: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        cli, settings, trunks, heads, importers, archives, engines, evaluation_metrics, manifest, labels, scores, http, exit_codes, image_errors, http_errors, metrics, ports, python
    )
}  # fmt: skip
