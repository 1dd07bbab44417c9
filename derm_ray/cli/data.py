"""``derm-ray data``: manifests."""

from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray.cli.options import ClinicalOption, DermoscopyOption, JsonOption, LabelSetOption, emit, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from derm_ray.data.importers import Importer

app = typer.Typer(help="Create, check, split and prepare manifests of lesion pairs.", no_args_is_help=True)
importers = typer.Typer(help="Import a data set as a manifest.", no_args_is_help=True)
app.add_typer(importers, name="import")

ManifestArgument = Annotated[str, typer.Argument(help="Manifest file (Parquet, CSV or JSONL): a path or URI.")]
OutOption = Annotated[str, typer.Option("--out", help="Manifest to write (.parquet, .csv or .jsonl).")]


@importers.command("milk10k")
def import_milk10k(
    source: Annotated[str, typer.Argument(help="Folder with the MILK10k_Training_* files.")],
    out: OutOption,
    label_set: Annotated[str, typer.Option("--label-set", help="Label set: paper15 or milk10k.")] = "paper15",
    as_json: JsonOption = False,
) -> None:
    """Import MILK10k (doi:10.34970/648456) in its official layout."""
    from derm_ray.data.importers.milk10k import import_milk10k as read

    _import(read, source, out, label_set, as_json=as_json)


@importers.command("derm7pt")
def import_derm7pt(
    source: Annotated[str, typer.Argument(help="Folder with meta/ and images/.")],
    out: OutOption,
    label_set: Annotated[str, typer.Option("--label-set", help="Label set: derm7pt or paper15.")] = "derm7pt",
    as_json: JsonOption = False,
) -> None:
    """Import the 7-point checklist data set (doi:10.1109/JBHI.2018.2824327) with its own splits."""
    from derm_ray.data.importers.derm7pt import import_derm7pt as read

    _import(read, source, out, label_set, as_json=as_json)


@importers.command("folder")
def import_folder(
    source: Annotated[str, typer.Argument(help="CSV with lesion_id, clinical, dermoscopy and any manifest column.")],
    out: OutOption,
    label_set: LabelSetOption = "paper15",
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=HEADER",
            help="Map a manifest column to a CSV header, such as clinical=img_path or patient_id=pat. Repeatable.",
        ),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="Delimiter of the cells, such as ';' or tab. Default: detected.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding", help="Text encoding, such as cp1252. Default: UTF-8, or that of the byte order mark."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import images listed in a CSV; paths are relative to the CSV."""
    from functools import partial

    from derm_ray.data.csv_reader import CsvFormat
    from derm_ray.data.importers.folder import import_folder as read
    from derm_ray.errors import ConfigError

    columns: dict[str, str] = {}
    for entry in column or ():
        name, equals, header = (part.strip() for part in entry.partition("="))
        if not (name and equals and header) or name in columns:
            raise ConfigError(f"--column {entry!r}: write NAME=HEADER, each NAME once, such as clinical=img_path.")
        columns[name] = header
    tab = delimiter is not None and delimiter.lower() in ("tab", r"\t")
    csv_format = CsvFormat("\t" if tab else delimiter, encoding)
    _import(
        partial(read, csv_format=csv_format, columns=columns), source, out, label_set, as_json=as_json, rows_of=source
    )


def _import(
    read: "Importer", source: str, out: str, label_set: str, *, as_json: bool, rows_of: str | None = None
) -> None:
    """Import, check and write; ``rows_of`` is the file to name in messages about rows."""
    from dataclasses import replace

    from derm_ray.data.manifest import write_manifest
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings, validate
    from derm_ray.domain import label_set as find

    result = read(source, find(label_set), out)
    validate(replace(result.manifest, uri=rows_of or out), find(label_set))
    write_manifest(result.manifest, out)
    warnings = list(find_warnings(result.manifest))
    _warn(warnings)
    skipped = sum(result.skipped.values())
    lines = [f"{len(result.manifest)} of {result.found} lesions imported as {label_set} to {out}"]
    if skipped:
        lines.append(f"{skipped} lesions skipped: their diagnosis is not in {label_set}:")
        lines += [f"  {count:>5}  {reason}" for reason, count in result.skipped.items()]
    summary = summarize(result.manifest)
    lines += summary.missing_lines()
    lines += result.notes
    values = {"manifest": out, "imported": len(result.manifest), "found": result.found, "skipped": result.skipped}
    values |= {"missing": summary.missing, "missing_words": summary.missing_words}
    values |= {"notes": result.notes, "warnings": warnings}
    emit(values, "\n".join(lines), as_json=as_json)


def _warn(warnings: "Iterable[str]") -> None:
    for warning in warnings:
        typer.echo(f"warning: {printable(warning)}", err=True)


@app.command()
def index(
    source: Annotated[
        str,
        typer.Argument(help="A .tar, .zip, .tar.gz, .parquet, or a folder of images, DICOM files or such archives."),
    ],
    out: OutOption,
    clinical: ClinicalOption = None,
    dermoscopy: DermoscopyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a manifest that refers to the images inside an archive; nothing is unpacked.

    Default layout: LESION/clinical.jpg and LESION/dermoscopy.jpg, or LESION.clinical.jpg and LESION.dermoscopy.jpg.
    DICOM files are paired by their headers.
    """
    from derm_ray.data.archives.index import index_archive, write_index
    from derm_ray.data.archives.names import shown
    from derm_ray.data.archives.pairing import DEFAULT_RULE, PairingRule
    from derm_ray.data.archives.writer import require_manifest_name

    require_manifest_name(out)
    rule = PairingRule(clinical or (), dermoscopy or ()) if clinical or dermoscopy else DEFAULT_RULE
    result = index_archive(source, rule)
    write_index(result, out)
    lines = [f"{result.pairs} pairs indexed to {out}, {result.single} of them with one image only"]
    if skipped := result.skipped.most_common():
        lines.append(f"{result.skipped.total()} of {result.found} files skipped:")
        lines += [f"  {count:>5}  {reason}" for reason, count in skipped]
    if columns := result.skipped_columns:
        lines.append(f"columns skipped: {', '.join(f'{shown(name)} ({kind})' for name, kind in columns.items())}")
    values = {"manifest": out, "pairs": result.pairs, "single_image": result.single, "found": result.found}
    values |= {"skipped": dict(skipped), "skipped_columns": columns}
    emit(values, "\n".join(lines), as_json=as_json)


@app.command()
def validate(
    manifest: ManifestArgument,
    label_set: Annotated[
        str | None, typer.Option("--label-set", help="Also check that all diagnoses belong to this label set.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Also require both images and a diagnosis in every row.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a manifest and list all problems."""
    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings
    from derm_ray.data.validation import validate as check
    from derm_ray.domain import Split
    from derm_ray.domain import label_set as find
    from derm_ray.errors import ManifestError

    read = read_manifest(manifest)
    try:
        check(read, find(label_set) if label_set else None, complete=(*Split, None) if training else ())
    except ManifestError as error:
        if not as_json:
            error.shown = len(error.problems)
            raise
        emit({"manifest": manifest, "pairs": len(read), "valid": False, "problems": error.problems}, "", as_json=True)
        raise typer.Exit(error.exit_code) from error
    warnings = list(find_warnings(read))
    _warn(warnings)
    emit(
        {"manifest": manifest, "pairs": len(read), "valid": True, "warnings": warnings},
        "\n".join([f"{manifest}: {len(read)} pairs, valid", *summarize(read).missing_lines()]),
        as_json=as_json,
    )


@app.command()
def split(
    manifest: ManifestArgument,
    out: Annotated[str | None, typer.Option("--out", help="Manifest to write. Default: overwrite the input.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Assign the splits: 70% train and 30% test, then 15% of train as val.

    Lesions of one patient stay together; without a patient id, pairs of one lesion do.
    """
    from dataclasses import replace

    from derm_ray import storage
    from derm_ray.data.manifest import read_manifest, write_manifest
    from derm_ray.data.splits import split_manifest
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings
    from derm_ray.data.validation import validate as check

    target = out or manifest
    result = split_manifest(read_manifest(manifest), seed)
    check(result.manifest)
    moved = storage.parent(target) != storage.parent(manifest)
    written = replace(result.manifest.absolute(), uri=storage.absolute(target)) if moved else result.manifest
    write_manifest(written, target)
    warnings = [*result.warnings, *find_warnings(written)]
    _warn(warnings)
    summary = summarize(written)
    values = {"manifest": target, "seed": seed, "warnings": warnings, "diagnoses": summary.diagnoses}
    values |= {"missing": summary.missing, "missing_words": summary.missing_words}
    emit(values, summary.text(), as_json=as_json)


@app.command()
def prepare(
    manifest: ManifestArgument,
    out: Annotated[
        str, typer.Option("--out", help="Output folder for the images and manifest.parquet: a path or URI.")
    ],
    size: Annotated[int, typer.Option("--size", min=32, help="Side of the model's input in pixels.")] = 224,
    as_json: JsonOption = False,
) -> None:
    """Write all images at a model's input size, so that training does not decode large photos in every epoch.

    Use the folder's manifest.parquet instead of the original manifest: train, evaluate and score load the same pixels.
    Recipes and models of another input size refuse it. The same command resumes an interrupted run.
    """
    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.prepared import prepare as run
    from derm_ray.data.preprocessing import Preprocessing

    result = run(read_manifest(manifest), out, Preprocessing(size))
    pairs = len(result.manifest)
    text = f"{pairs} pairs at {size} px in {result.tars} tar{'s' * (result.tars != 1)}, {result.manifest.uri}"
    if result.reused:
        text += f"\n{result.reused} of the tars existed already"
    values = {"manifest": result.manifest.uri, "pairs": pairs, "size": size}
    emit(values | {"tars": result.tars, "reused_tars": result.reused}, text, as_json=as_json)


@app.command()
def describe(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Summarize a manifest."""
    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.summary import summarize

    summary = summarize(read_manifest(manifest))
    emit(summary.to_json(), summary.text(), as_json=as_json)


@app.command()
def synthesize(
    out: Annotated[str, typer.Option("--out", help="Folder for images and manifest.parquet.")],
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Number of lesion pairs.")] = 480,
    label_set: LabelSetOption = "paper15",
    seed: Annotated[int, typer.Option("--seed", help="Random seed; the same seed gives the same bytes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Generate synthetic lesion pairs; the diagnosis can be determined from both images only."""
    from derm_ray.data.synthetic import synthesize as draw
    from derm_ray.domain import label_set as find

    manifest = draw(out, pairs, find(label_set), seed=seed)
    emit({"manifest": manifest.uri, "pairs": len(manifest)}, f"{pairs} pairs, {manifest.uri}", as_json=as_json)
