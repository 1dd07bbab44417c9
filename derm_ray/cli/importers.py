"""``derm-ray data import``: one command for each importer in the registry."""

import inspect
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from derm_ray.cli.options import JsonOption, LabelSetOption, ManifestOutOption, emit, warn
from derm_ray.data.importers import IMPORTERS
from derm_ray.errors import ConfigError, ManifestError, counted, unknown_name

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


StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse unknown diagnoses. Default: count them and skip their pairs.")
]

app = typer.Typer(cls=_Importers, help="Import a data set as a manifest.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


def _command(name: str, importer: "Importer") -> Any:
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    one.command(name, help=importer.help)(_with_options(importer))
    return typer.main.get_command(one)


def _with_options(importer: "Importer") -> Callable[..., None]:
    """Return the command's function, with the importer's options in its signature."""
    empty = inspect.Parameter.empty
    arguments: dict[str, tuple[Any, Any]] = {
        "source": (Annotated[str, typer.Argument(help=importer.source)], empty),
        "out": (ManifestOutOption, empty),
        "label_set": (LabelSetOption, importer.label_set),
        "strict": (StrictOption, False),
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


def _import(
    importer: "Importer", *, source: str, out: str, label_set: str, strict: bool, as_json: bool, **options: Any
) -> None:
    """Import, check and write."""
    from dataclasses import replace

    from derm_ray.data.importers.importer import NO_DIAGNOSIS
    from derm_ray.data.manifest import check_new, write_manifest
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings, validate
    from derm_ray.domain import label_set as find

    labels = find(label_set)
    check_new(out)
    result = importer.read(source, labels, out, **options)
    unknown = {word: count for word, count in result.unknown.items() if word != NO_DIAGNOSIS}
    if unknown and (strict or not len(result.manifest)):
        problems = [f"unknown diagnosis {word!r} ({counted(count, 'pair')})" for word, count in unknown.items()]
        raise ManifestError(source, problems)
    if not len(result.manifest):
        skipped = [f"skipped: {word} ({count})" for word, count in {**result.outside, **result.unknown}.items()]
        raise ManifestError(source, ["there is no pair to import", *skipped, *result.notes])
    validate(replace(result.manifest, uri=result.rows_of or out), labels)
    write_manifest(result.manifest, out)
    warnings = [*result.warnings, *find_warnings(result.manifest)]
    warn(warnings)
    lines = [f"{len(result.manifest):,} of {counted(result.found, 'pair')} imported as {label_set} to {out}"]
    for counts, reason in (
        (result.outside, f"with a diagnosis that is not in {label_set}"),
        (result.unknown, "with no diagnosis, or one that is unknown"),
    ):
        if counts:
            lines.append(f"{counted(sum(counts.values()), 'pair')} skipped, {reason}:")
            lines += [f"  {count:>5}  {word}" for word, count in counts.items()]
    summary = summarize(result.manifest)
    lines += summary.missing_lines()
    lines += result.notes
    values = {"manifest": out, "imported": len(result.manifest), "found": result.found}
    values |= {"outside": result.outside, "unknown": result.unknown}
    values |= {"missing": summary.missing, "missing_words": summary.missing_words}
    values |= {"notes": result.notes, "warnings": warnings}
    emit(values, "\n".join(lines), as_json=as_json)
