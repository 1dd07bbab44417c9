"""``derm-ray data audit``."""

from typing import Annotated

import typer

from derm_ray.cli.options import AddressOption, JsonOption, ManifestArgument, emit, warn
from derm_ray.errors import ConfigError, counted

LEAK_EXIT_CODE = 1


def audit(
    manifest: ManifestArgument,
    out: Annotated[str, typer.Option(help="Folder for audit.html, audit.json and findings.parquet: a path or URI.")],
    predictions: Annotated[
        str | None,
        typer.Option(help="out_of_fold.parquet of a run of train --folds, to look for label errors."),
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(metavar="MANIFEST", help="Also write a manifest without duplicates across splits."),
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show thumbnails in the page.")] = True,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for duplicates, leaks between splits, unusable images and likely label errors.

    Exit code 1 where a leak is found: a duplicate, a patient or a lesion in several splits. With --fix, of duplicates
    the rows in test stay, else those in val; the others get one duplicate_group, which data split keeps together.
    """
    from derm_ray import storage
    from derm_ray.audit.audit import audit as look
    from derm_ray.audit.fix import grouped, rows_to_drop, without
    from derm_ray.audit.report import summary_text, write_audit
    from derm_ray.data.manifest import check_new, read_manifest, write_manifest

    if storage.kind(out) == "file":
        raise ConfigError(f"--out {out}: a file is there. Give a folder.")
    if fix:
        check_new(fix)
    read = read_manifest(manifest)
    found = look(read, predictions=predictions, address=address)
    uris = write_audit(found, out, images=images)
    values = {"manifest": manifest, "pairs": len(read), "images": len(found.images.uris), "leak": found.leak}
    values |= {"counts": found.counts, **uris}
    lines = [summary_text(found), *uris.values()]
    if fix:
        dropped = rows_to_drop(read, found.duplicates)
        write_manifest(without(grouped(read.absolute(), found.duplicates), dropped), fix)
        ids = read.column("pair_id")
        values |= {"fixed": fix, "dropped": [ids[row] for row in dropped]}
        lines.append(f"{fix}: {counted(len(read) - len(dropped), 'pair')}, {len(dropped):,} dropped")
        lines += [f"  row {row + 1}: pair {ids[row]}" for row in dropped]
    if unreadable := found.counts["unreadable"]:
        warn([f"{counted(unreadable, 'image')} could not be used; of these, only equal files are found."])
    if found.group_leaks:
        several = counted(len(found.group_leaks), "patient or lesion id")
        warn([f"{several} in several splits; --fix leaves these. Run `derm-ray data split`."])
    emit(values, "\n".join(lines), as_json=as_json)
    if found.leak:
        raise typer.Exit(LEAK_EXIT_CODE)
