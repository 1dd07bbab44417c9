"""``derm-ray data import``: one command for each importer in the registry."""

import inspect
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from derm_ray.cli.options import JsonOption, LabelSetOption, ManifestOutOption, emit, warn
from derm_ray.data.importers import IMPORTERS
from derm_ray.domain import LABEL_SETS, LabelSet
from derm_ray.errors import ConfigError, counted, unknown_name

if TYPE_CHECKING:
    from derm_ray.data.importers.importer import Importer


class _Importers(TyperGroup):
    """Commands, created on first use because importers are slow to import."""

    _made: dict[str, Any]

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """The commands by name."""
        if not self._made:
            self._made = {name: _command(name, importer) for name, importer in IMPORTERS.items()}
        return self._made

    @commands.setter
    def commands(self, commands: MutableMapping[str, Any]) -> None:
        self._made = dict(commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Look up a command; an unknown one is refused with the names that there are."""
        if args[0] not in self.commands:
            message = unknown_name("importer", args[0], tuple(IMPORTERS))
            if "/" in args[0] or args[0].lower().endswith((".csv", ".tsv", ".xlsx")):
                message += f" For a CSV: derm-ray data import folder {args[0]} --out m.parquet"
            raise ConfigError(message)
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Importers, help="Import a data set as a manifest.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


def _command(name: str, importer: "Importer") -> Any:
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    one.command(name, help=importer.help)(_with_options(importer))
    return typer.main.get_command(one)


def _with_options(importer: "Importer") -> Callable[..., None]:
    """Return the command's function, with the importer's options in its signature."""
    sets = importer.label_sets
    chosen = typer.Option("--label-set", help=f"Label set: {' or '.join(sets)}.")
    label_set = Annotated[str, chosen] if sets else LabelSetOption
    empty = inspect.Parameter.empty
    arguments: dict[str, tuple[Any, Any]] = {
        "source": (Annotated[str, typer.Argument(help=importer.source)], empty),
        "out": (ManifestOutOption, empty),
        "label_set": (label_set, sets[0] if sets else "paper15"),
    }
    for name, option in importer.options.items():
        shown = typer.Option(f"--{name.replace('_', '-')}", help=option.help, metavar=option.metavar)
        kind: Any = list[str] | None if option.repeatable else str | None
        arguments[name] = (Annotated[kind, shown], None)
    arguments["as_json"] = (JsonOption, False)
    command = partial(_import, importer)
    keyword = inspect.Parameter.KEYWORD_ONLY
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, keyword, default=default, annotation=kind) for n, (kind, default) in arguments.items()]
    )
    command.__annotations__ = {name: kind for name, (kind, _) in arguments.items()}
    return command


def _labels(name: str, importer: "Importer") -> LabelSet:
    """Return a label set that an importer takes."""
    known = importer.label_sets or tuple(labels.name for labels in LABEL_SETS.values() if not labels.collapses)
    if name not in LABEL_SETS:
        raise ConfigError(unknown_name("label set", name, known))
    if name not in known and (base := next((one for one in known if name.startswith(f"{one}_")), None)):
        raise ConfigError(
            f"--label-set {name} is a task, which training derives from the diagnoses. Import with --label-set {base}, "
            f"and train with --set label_set={name}."
        )
    return LABEL_SETS[name]


def _import(importer: "Importer", *, source: str, out: str, label_set: str, as_json: bool, **options: Any) -> None:
    """Import, check and write."""
    from dataclasses import replace

    from derm_ray.data.manifest import check_new, write_manifest
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings, validate

    labels = _labels(label_set, importer)
    check_new(out)
    result = importer.run(source, labels, out, **options)
    validate(replace(result.manifest, uri=result.rows_of or out), labels)
    write_manifest(result.manifest, out)
    warnings = [*result.warnings, *find_warnings(result.manifest)]
    warn(warnings)
    skipped = sum(result.skipped.values())
    lines = [f"{len(result.manifest)} of {counted(result.found, 'lesion')} imported as {label_set} to {out}"]
    if skipped:
        lines.append(f"{counted(skipped, 'lesion')} skipped, with a diagnosis that is not in {label_set}:")
        lines += [f"  {count:>5}  {reason}" for reason, count in result.skipped.items()]
    summary = summarize(result.manifest)
    lines += summary.missing_lines()
    lines += result.notes
    values = {"manifest": out, "imported": len(result.manifest), "found": result.found, "skipped": result.skipped}
    values |= {"missing": summary.missing, "missing_words": summary.missing_words}
    values |= {"notes": result.notes, "warnings": warnings}
    emit(values, "\n".join(lines), as_json=as_json)
