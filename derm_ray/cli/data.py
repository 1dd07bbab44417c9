"""``derm-ray data``: manifests."""

from typing import Annotated, Literal

import typer

from derm_ray.cli import audit, importers
from derm_ray.cli.options import (
    ClinicalOption,
    DermoscopyOption,
    JsonOption,
    LabelSetOption,
    ManifestArgument,
    ManifestOutOption,
    emit,
    warn,
)
from derm_ray.errors import counted

app = typer.Typer(help="Create, check, split and prepare manifests of lesion pairs.", no_args_is_help=True)
app.add_typer(importers.app, name="import")

app.command("audit")(audit.audit)


@app.command()
def index(
    source: Annotated[
        str,
        typer.Argument(help="A .tar, .zip, .tar.gz, .parquet, or a folder of images, DICOM files or such archives."),
    ],
    out: ManifestOutOption,
    clinical: ClinicalOption = None,
    dermoscopy: DermoscopyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a manifest that refers to the images inside an archive; nothing is unpacked.

    Default layout: LESION/clinical.jpg and LESION/dermoscopy.jpg, or LESION.clinical.jpg and LESION.dermoscopy.jpg.
    DICOM files are paired by their headers.
    """
    from derm_ray.data.archives.index import index_archive
    from derm_ray.data.archives.names import shown
    from derm_ray.data.archives.pairing import DEFAULT_RULE, PairingRule
    from derm_ray.data.manifest import check_new, write_tables

    check_new(out)
    rule = PairingRule(clinical or (), dermoscopy or ()) if clinical or dermoscopy else DEFAULT_RULE
    result = index_archive(source, rule)
    write_tables(result.tables(), out)
    lines = [f"{counted(result.pairs, 'pair')} indexed to {out}, {result.single} of them with one image only"]
    if skipped := result.skipped.most_common():
        lines.append(f"{result.skipped.total()} of {counted(result.found, 'file')} skipped:")
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
        str | None, typer.Option(help="Also check that all diagnoses belong to this label set.")
    ] = None,
    training: Annotated[bool, typer.Option("--training", help="Also require a diagnosis in every row.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Also read and decode every image.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a manifest and list all problems."""
    from derm_ray.data.loading import load_all
    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.preprocessing import Preprocessing
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings
    from derm_ray.data.validation import validate as check
    from derm_ray.domain import Split
    from derm_ray.domain import label_set as find
    from derm_ray.errors import ManifestError

    read = read_manifest(manifest)
    try:
        check(read, find(label_set) if label_set else None, labeled=(*Split, None) if training else ())
        if images:
            for _ in load_all(read.absolute().pairs(), Preprocessing(), manifest):
                pass
    except ManifestError as error:
        if not as_json:
            error.shown = len(error.problems)
            raise
        emit({"manifest": manifest, "pairs": len(read), "valid": False, "problems": error.problems}, "", as_json=True)
        raise typer.Exit(error.exit_code) from error
    warnings = list(find_warnings(read))
    warn(warnings)
    emit(
        {"manifest": manifest, "pairs": len(read), "valid": True, "warnings": warnings},
        "\n".join([f"{manifest}: {counted(len(read), 'pair')}, valid", *summarize(read).missing_lines()]),
        as_json=as_json,
    )


@app.command()
def merge(
    manifests: Annotated[list[str], typer.Argument(help="Two or more manifests: paths or URIs.")],
    out: ManifestOutOption,
    conflicts: Annotated[
        Literal["refuse", "first", "drop"],
        typer.Option(help="What happens to an image whose diagnoses in two manifests exclude each other."),
    ] = "refuse",
    as_json: JsonOption = False,
) -> None:
    """Join manifests: ids that occur in several get their manifest's name in front; groups stay together.

    Diagnoses may be of several label sets. Rows with the same image, by its id of the ISIC Archive, get one
    duplicate_group, which splits keep together.
    """
    from derm_ray.data.manifest import check_new, read_manifest, write_manifest
    from derm_ray.data.merge import merge as join
    from derm_ray.data.summary import summarize
    from derm_ray.data.validation import find_warnings
    from derm_ray.data.validation import validate as check
    from derm_ray.errors import ConfigError

    if len(manifests) < 2:
        raise ConfigError("data merge: give two or more manifests.")
    check_new(out)
    merged = join([read_manifest(uri) for uri in manifests], out, conflicts)
    check(merged.manifest)
    write_manifest(merged.manifest, out)
    warnings = list(find_warnings(merged.manifest))
    warn(warnings)
    summary = summarize(merged.manifest)
    sizes = f"{counted(len(merged.manifest), 'pair')} of {len(manifests)} manifests joined to {out}"
    values = {"manifest": out, "pairs": len(merged.manifest), "notes": merged.notes, "warnings": warnings}
    emit(values, "\n".join([sizes, *merged.notes, *summary.missing_lines()]), as_json=as_json)


@app.command()
def split(
    manifest: ManifestArgument,
    out: Annotated[str | None, typer.Option(help="Manifest to write. Default: overwrite the input.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
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
    warn(warnings)
    summary = summarize(written)
    values = {"manifest": target, "seed": seed, "warnings": warnings, "diagnoses": summary.diagnoses}
    values |= {"missing": summary.missing, "missing_words": summary.missing_words}
    emit(values, summary.text(), as_json=as_json)


@app.command()
def prepare(
    manifest: ManifestArgument,
    out: Annotated[str, typer.Option(help="Output folder for the images and manifest.parquet: a path or URI.")],
    size: Annotated[int, typer.Option(min=32, help="Side of the model's input in pixels.")] = 224,
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
    text = f"{counted(pairs, 'pair')} at {size} px in {counted(result.tars, 'tar')}, {result.manifest.uri}"
    if result.reused:
        text += f"\n{result.reused} of the tars existed already"
    values = {"manifest": result.manifest.uri, "pairs": pairs, "size": size}
    emit(values | {"tars": result.tars, "reused_tars": result.reused}, text, as_json=as_json)


@app.command()
def describe(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Summarize a manifest."""
    from dataclasses import asdict

    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.summary import summarize

    summary = summarize(read_manifest(manifest))
    emit(asdict(summary), summary.text(), as_json=as_json)


@app.command()
def synthesize(
    out: Annotated[str, typer.Option(help="Folder for images and manifest.parquet.")],
    pairs: Annotated[int, typer.Option(min=1, help="Number of lesion pairs.")] = 480,
    label_set: LabelSetOption = "paper15",
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same bytes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Generate synthetic lesion pairs; the diagnosis can be determined from both images only."""
    from derm_ray.data.synthetic import synthesize as draw
    from derm_ray.domain import label_set as find

    manifest = draw(out, pairs, find(label_set), seed=seed)
    emit(
        {"manifest": manifest.uri, "pairs": len(manifest)}, f"{counted(pairs, 'pair')}, {manifest.uri}", as_json=as_json
    )
