"""Options that several commands share, and how results are printed."""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer

from derm_ray.domain import LABEL_SETS
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.inference.engines import ENGINES
from derm_ray.training import PRESETS

ManifestOption = Annotated[
    str, typer.Option("--manifest", help="Manifest file (Parquet, CSV or JSONL): a path or URI.")
]
ManifestArgument = Annotated[str, typer.Argument(help="Manifest file (Parquet, CSV or JSONL): a path or URI.")]
ModelOption = Annotated[str, typer.Option("--model", help="Bundle folder: a path or URI.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray cluster. Default: RAY_ADDRESS, or a local Ray.")
]
EngineOption = Annotated[
    str, typer.Option("--engine", help=f"auto, {ENGINES} (see model quantize); auto measures which is fastest.")
]
ManifestOutOption = Annotated[str, typer.Option("--out", help="Manifest to write (.parquet, .csv or .jsonl).")]
_DETAILED = ", ".join(labels.name for labels in LABEL_SETS.values() if len(labels.class_names) > 2)
LabelSetOption = Annotated[str, typer.Option("--label-set", help=f"Label set: {_DETAILED}.")]
InitWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--init-weights", help="ImageNet weights (safetensors file). Default: timm's or torchvision's download."
    ),
]
PresetOption = Annotated[str | None, typer.Option("--preset", help=f"Preset: {PRESETS}. Default: paper.")]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="FILE", help="YAML file of settings and their preset: a path or URI."),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of preset and file; docs/reference/settings.md lists them. Repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
ClinicalOption = Annotated[
    list[str] | None,
    typer.Option(
        "--clinical",
        metavar="PATTERN",
        help="Path pattern of clinical photos inside an archive, such as 'photos/{lesion}_*.jpg' or "
        "'{patient}/{lesion:path}/c.png'. {lesion}, {pair} and {patient} set the ids, other fields become columns; "
        "* matches any text without '/'. Repeatable.",
    ),
]
DermoscopyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dermoscopy", metavar="PATTERN", help="The same for dermoscopy images, such as 'derm/{lesion}_*.png'."
    ),
]


def one_of(names: type[StrEnum], kind: str) -> Any:
    """Return an option whose values are names of a closed list; others are refused with the nearest."""

    def parse(name: str) -> StrEnum:
        if name not in tuple(names):
            raise ConfigError(f"--{kind.replace(' ', '-')}: {unknown_name(kind, name, tuple(names))}")
        return names(name)

    return {"parser": parse, "metavar": f"[{'|'.join(names)}]"}


def emit(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result: one JSON line, or text."""
    typer.echo(json.dumps(values, ensure_ascii=False) if as_json else text)


def warn(warnings: Iterable[str]) -> None:
    """Print warnings to standard error, one a line."""
    for warning in warnings:
        typer.echo(f"warning: {printable(warning)}", err=True)


def printable(message: str) -> str:
    """Escape control characters: a message may quote names from untrusted archives or files."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
