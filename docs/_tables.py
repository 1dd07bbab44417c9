"""Tables of commands, settings, registries and columns, made from the code; meanings are in ``docs/_meanings.yaml``."""

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
_ROLE = re.compile(r":\w+:`~?([\w.]+)`")

MEANINGS = yaml.safe_load((ROOT / "docs" / "_meanings.yaml").read_text(encoding="utf-8"))
MANIFEST_COLUMNS: dict[str, str] = MEANINGS["manifest_columns"]
SCORE_COLUMNS: list[dict[str, str]] = MEANINGS["score_columns"]
ENGINES: dict[str, list[str]] = MEANINGS["engines"]
ARCHIVES: dict[str, str] = MEANINGS["archives"]


class DocumentationError(Exception):
    """Text and code disagree."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def agree(what: str, documented: Iterable[str], found: Iterable[str]) -> None:
    """Fail where the documented names are not those of the code."""
    if different := set(documented) ^ set(found):
        raise DocumentationError(f"docs/_meanings.yaml and the code differ in {what}: {', '.join(sorted(different))}")


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


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def settings() -> str:
    """The recipe's settings, from the training configuration."""
    from pydantic import TypeAdapter

    from derm_ray.training import PRESETS
    from derm_ray.training.config import TrainConfig

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
                sentence(meanings[name]),
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
            [
                f"`{name}`",
                _names(of.taps),
                _names(of.freezes),
                of.channels,
                "download" if of.pretrained else "none" if of.from_scratch else "file",
            ]
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
        [f"`derm-ray data import {name}`", of.help, of.source, f"`{of.label_set}`"] for name, of in IMPORTERS.items()
    )
    return table(["command", "meaning", "source", "default `--label-set`"], rows)


def diagnoses() -> str:
    """The vocabulary, and what each of it is in the detailed label sets."""
    from derm_ray.diagnoses import concepts, decided_class, possible_classes
    from derm_ray.domain import LABEL_SETS

    detailed = [labels for labels in LABEL_SETS.values() if not labels.collapses]

    def class_of(name: str, labels: Any) -> str:
        one = decided_class(name, labels)
        several = possible_classes(name, labels)
        return f"`{one}`" if one else f"one of {_names(several)}" if several else "outside"

    rows = (
        [
            f"`{name}`",
            ", ".join(dict.fromkeys((of.title, *of.aliases))),
            "; ".join(of.covers),
            of.icd11 or "",
            *(class_of(name, labels) for labels in detailed),
        ]
        for name, of in concepts().items()
    )
    columns = ["diagnosis", "also written", "covers, in the ISIC Archive's tree", "ICD-11"]
    return table([*columns, *(f"`{labels.name}`" for labels in detailed)], rows)


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
            rows.append([_names(names), sentence(of.task_title or of.title), _first_line(of.of_task)])
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
        for of in SCORE_COLUMNS:
            if re.fullmatch(of["pattern"], column.name):
                shown = of.get("shown", column.name)
                rows[shown] = [f"`{shown}`", str(column.type), of["meaning"]]
                used.add(of["pattern"])
                break
        else:
            raise DocumentationError(f"docs/_meanings.yaml: the score column {column.name!r} has no meaning")
    agree("columns of scores", (of["pattern"] for of in SCORE_COLUMNS), used)
    return table(["column", "type", "meaning"], rows.values())
