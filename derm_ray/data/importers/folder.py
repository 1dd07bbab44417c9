"""Import of a CSV that lists image paths."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from derm_ray import storage
from derm_ray.data.csv_reader import CsvTables
from derm_ray.data.importers.importer import Importer, ImportResult, Option, with_diagnosis
from derm_ray.data.manifest import BATCH_ROWS, SCHEMA, URI_COLUMNS, listed, normalize_schema
from derm_ray.data.normalization import column_key
from derm_ray.domain import LabelSet, image_cell, image_uris
from derm_ray.errors import ConfigError, ManifestError, did_you_mean, unknown_name

RENAMED = {"clinical": "clinical_uri", "dermoscopy": "dermoscopy_uri"}
_KNOWN = RENAMED | {column_key(name): name for name in SCHEMA.names}
_LACKS = dict.fromkeys(RENAMED, "no pair has this image") | {
    "diagnosis": "no pair has a diagnosis, which training and evaluation need"
}


def import_folder(
    source: str,
    label_set: LabelSet,
    out_uri: str,
    *,
    column: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> ImportResult:
    """Read a CSV with ``lesion_id`` (or ``pair_id``), ``clinical``, ``dermoscopy`` and any manifest column.

    Paths are relative to the CSV. One that differs from the name on disk only in Unicode form (NFC or NFD, which look
    the same) means that file. Diagnoses are written in any spelling that
    :func:`derm_ray.diagnoses.find` knows.

    Args:
        source, label_set, out_uri: see :class:`derm_ray.data.importers.importer.Importer`.
        column: ``NAME=HEADER``: a manifest column, or ``clinical`` or ``dermoscopy``, and the CSV's name for it. A
            column that already has that name is skipped.
        delimiter, encoding: see :class:`derm_ray.data.csv_reader.CsvTables`.

    Raises:
        ConfigError: an option is wrong, such as a column that a manifest does not know.
        StorageError: the CSV cannot be read.
        ManifestError: columns are missing, or images are not where they should be; all are listed.
    """
    headers = _headers(column or ())
    with storage.open_read(source) as file, storage.translate_errors(source):
        reader = CsvTables(file, source, BATCH_ROWS, delimiter, encoding)
        table = pa.concat_tables(reader)
    table, notes, warnings = _renamed(table, source, headers)
    if reader.empty_rows:
        notes.append(f"Empty rows skipped: {reader.empty_rows}.")
    manifest = normalize_schema(table, storage.absolute(source))
    base, names = storage.parent(source), lru_cache(256)(_names)
    problems: list[tuple[int, str]] = []
    other_forms = 0
    for name in URI_COLUMNS:
        paths = [(row, path) for row, cell in enumerate(manifest.column(name), 1) for path in image_uris(cell)]
        with ThreadPoolExecutor(16) as executor:
            found = list(executor.map(lambda of: _find(of[1], base, names), paths))
        cells: list[list[str]] = [[] for _ in range(len(manifest))]
        for (row, path), (uri, why) in zip(paths, found, strict=True):
            if uri is None:
                problems.append((row, f"row {row}, {name.removesuffix('_uri')}: {why}"))
            else:
                cells[row - 1].append(uri)
                other_forms += uri != storage.resolve(path, base)
        manifest = manifest.with_column(name, [image_cell(uris) for uris in cells])
    if problems:
        raise ManifestError(source, [text for _, text in sorted(problems)])
    if other_forms:
        notes.append(f"Image paths that differ from the names on disk in Unicode form only: {other_forms}.")
    result = with_diagnosis(manifest.table, label_set, out_uri, required=False)
    manifest = replace(result.manifest, missing_words=manifest.missing_words)
    return replace(result, manifest=manifest, notes=(*notes, *result.notes), warnings=tuple(warnings), rows_of=source)


def _headers(column: Sequence[str]) -> dict[str, str]:
    """Return the known name -> header of ``NAME=HEADER``, each name once."""
    headers: dict[str, str] = {}
    for entry in column:
        name, _, header = (part.strip() for part in entry.partition("="))
        if not (name and header) or name in headers:
            raise ConfigError(f"--column {entry!r}: write NAME=HEADER, each NAME once, such as clinical=img_path.")
        if RENAMED.get(name, name) not in SCHEMA.names:
            raise ConfigError("--column: " + unknown_name("column", name, (*RENAMED, *SCHEMA.names)))
        headers[name] = header
    return headers


def _renamed(table: pa.Table, source: str, headers: Mapping[str, str]) -> tuple[pa.Table, list[str], list[str]]:
    """Return the table with a manifest's names, paths without blanks at their ends, and notes and warnings about it."""
    taken: dict[str, list[str]] = defaultdict(list)
    for name, header in headers.items():
        taken[RENAMED.get(name, name)].append(header)
    asked_for = set(taken)
    replaced: list[str] = []
    further: list[str] = []
    for header in table.column_names:
        known = _KNOWN.get(column_key(header), "")
        if header not in headers.values():
            (replaced if known in asked_for else taken[known] if known else further).append(header)
    found = f"Columns found: {listed(table.column_names)}."
    problems = [
        f"no column {name!r} (--column). {found}" for name in headers.values() if name not in table.column_names
    ]
    problems += [
        f"columns {' and '.join(map(repr, same))} both map to {known}; keep one"
        for known, same in taken.items()
        if len(same) > 1
    ]
    hint = " Is there another delimiter? Specify it: --delimiter." if len(table.column_names) == 1 else ""
    for needed, what, example in (
        (URI_COLUMNS, "'clinical' or 'dermoscopy' with image paths", "clinical"),
        (("pair_id", "lesion_id"), "'lesion_id' or 'pair_id'", "lesion_id"),
    ):
        if not set(needed) & set(taken):
            problems.append(f"no column {what}. {found} Specify the column with --column {example}=NAME.{hint}")
    if problems:
        raise ManifestError(source, problems)
    chosen = {known: table[same[0]] for known, same in taken.items()}
    chosen |= {name: pc.utf8_trim_whitespace(chosen[name]) for name in URI_COLUMNS if name in chosen}
    notes = [f"Skipped, replaced by --column: {listed(replaced)}."] if replaced else []
    if further:
        notes.append(f"Kept unchanged, not manifest columns: {listed(further)}.")
    warnings = [
        f"no column {name!r}: {lacks}.{did_you_mean(name, further)} If it has another name: --column {name}=NAME."
        for name, lacks in _LACKS.items()
        if RENAMED.get(name, name) not in chosen
    ]
    return pa.table(chosen | {name: table[name] for name in further}), notes, warnings


def _find(path: str, base: str, names: Callable[[str], list[str]]) -> tuple[str | None, str]:
    """Return an image's absolute URI, and the problem with it or an empty string."""
    if storage.is_windows_path(path):
        return None, f"{path} is a Windows path. Write it relative to the CSV, with '/'"
    uri = storage.resolve(path, base)
    kind = storage.kind(uri)
    if kind is None and not path.isascii():
        forms = {storage.resolve(unicodedata.normalize(form, path), base) for form in ("NFC", "NFD")}
        kinds = {form: kind for form in forms if (kind := storage.kind(form))}
        if len(kinds) > 1:
            others = ", ".join(map(ascii, kinds))
            return None, f"{path!a}: several files differ from it in Unicode form only: {others}. Rename one"
        if kinds:
            ((uri, kind),) = kinds.items()
    if kind is None:
        folder, _, name = uri.rpartition("/")
        near = [other for other in names(folder) if other.casefold() == name.casefold()]
        hint = f": {near[0]!r} exists (different case)" if near else ""
        if "\\" in path:
            hint = r": write it with '/', not '\'"
        return None, f"no image at {uri}. Correct the path{hint}"
    if kind != "file":
        return None, f"{uri} is a {'folder' if kind == 'directory' else 'pipe or device'}, not an image"
    return uri, ""


def _names(folder: str) -> list[str]:
    try:
        return [path.name for path in Path(folder).iterdir()] if storage.is_local(folder) else []
    except OSError:
        return []


FOLDER = Importer(
    import_folder,
    "Import images listed in a CSV; paths are relative to the CSV.",
    "CSV with lesion_id, clinical, dermoscopy and any manifest column.",
    "paper15",
    options={
        "column": Option(
            "Map a manifest column to a CSV header, such as clinical=img_path or patient_id=pat. Repeatable.",
            "NAME=HEADER",
            repeatable=True,
        ),
        "delimiter": Option("Delimiter of the cells, such as ';' or tab. Default: detected."),
        "encoding": Option("Text encoding, such as cp1252. Default: UTF-8, or that of the byte order mark."),
    },
)
