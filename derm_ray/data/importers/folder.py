"""Import of a CSV that lists image paths."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from derm_ray import storage
from derm_ray.data.csv_reader import CsvFormat, CsvTables
from derm_ray.data.importers.importer import Importer, ImportResult, Option
from derm_ray.data.manifest import BATCH_ROWS, SCHEMA, URI_COLUMNS, listed, normalize_schema
from derm_ray.data.normalization import column_key
from derm_ray.domain import LabelSet
from derm_ray.errors import ConfigError, ManifestError, unknown_name

RENAMED = {"clinical": "clinical_uri", "dermoscopy": "dermoscopy_uri"}
_KNOWN = RENAMED | {column_key(name): name for name in SCHEMA.names}
_AUTOMATIC = CsvFormat()


def import_folder(
    source: str,
    label_set: LabelSet,
    out_uri: str,
    *,
    csv_format: CsvFormat = _AUTOMATIC,
    columns: Mapping[str, str] | None = None,
) -> ImportResult:
    """Read a CSV with ``lesion_id`` (or ``pair_id``), ``clinical``, ``dermoscopy`` and any manifest column.

    Paths are relative to the CSV. One that differs from the name on disk only in Unicode form (NFC or NFD, which look
    the same) means that file. A diagnosis is a class name of the label set or its title in any case.

    Args:
        source: URI of the CSV.
        label_set: of the diagnoses.
        out_uri: URI of the future manifest; image URIs are absolute in any case.
        csv_format: how the CSV is written.
        columns: manifest column, or ``clinical`` or ``dermoscopy`` -> the CSV's name for it. A column that already has
            that name is skipped.

    Raises:
        ConfigError: a column that a manifest does not know.
        StorageError: the CSV cannot be read.
        ManifestError: columns are missing, or images are not where they should be; all are listed.
    """
    with storage.open_read(source) as file, storage.translate_errors(source):
        reader = CsvTables(file, source, BATCH_ROWS, csv_format)
        table = pa.concat_tables(reader)
    table, notes = _renamed(table, source, columns or {})
    if reader.empty_rows:
        notes.append(f"Empty rows skipped: {reader.empty_rows}.")
    manifest = normalize_schema(table, storage.absolute(source))
    titles = {d.title.casefold(): d.name for d in label_set.diagnoses}
    diagnoses = [titles.get(d.casefold(), d) if d else None for d in manifest.column("diagnosis")]
    manifest = manifest.with_column("diagnosis", diagnoses)
    images = _Images(storage.parent(source))
    problems: list[tuple[int, str]] = []
    for name in URI_COLUMNS:
        with ThreadPoolExecutor(16) as executor:
            found = list(executor.map(images.find, manifest.column(name)))
        problems += [
            (row, f"row {row}, {name.removesuffix('_uri')}: {why}") for row, (_, why) in enumerate(found, 1) if why
        ]
        manifest = manifest.with_column(name, [uri for uri, _ in found])
    if problems:
        raise ManifestError(source, [text for _, text in sorted(problems)])
    if images.other_forms:
        notes.append(f"Image paths that differ from the names on disk in Unicode form only: {len(images.other_forms)}.")
    manifest = replace(manifest, uri=storage.absolute(out_uri))
    return ImportResult(manifest, found=len(manifest), skipped={}, notes=tuple(notes), rows_of=source)


def _renamed(table: pa.Table, source: str, columns: Mapping[str, str]) -> tuple[pa.Table, list[str]]:
    """Return the table with a manifest's names, paths without blanks at their ends, and remarks about it."""
    taken: dict[str, list[str]] = defaultdict(list)
    for asked, header in columns.items():
        if (known := RENAMED.get(asked, asked)) not in SCHEMA.names:
            raise ConfigError("--column: " + unknown_name("column", asked, (*RENAMED, *SCHEMA.names)))
        taken[known].append(header)
    found = f"Columns found: {listed(table.column_names)}."
    problems = [
        f"no column {name!r} (--column). {found}" for name in columns.values() if name not in table.column_names
    ]
    asked_for = set(taken)
    replaced: list[str] = []
    further: list[str] = []
    for header in table.column_names:
        known = _KNOWN.get(column_key(header), "")
        if header not in columns.values():
            (replaced if known in asked_for else taken[known] if known else further).append(header)
    problems += [
        f"columns {' and '.join(map(repr, headers))} both map to {known}; keep one"
        for known, headers in taken.items()
        if len(headers) > 1
    ]
    hint = " Is there another delimiter? Specify it: --delimiter." if len(table.column_names) == 1 else ""
    if not set(URI_COLUMNS) & set(taken):
        problems.append(
            f"no column 'clinical' or 'dermoscopy' with image paths. {found} Specify the column with --column "
            f"clinical=NAME.{hint}"
        )
    if not {"pair_id", "lesion_id"} & set(taken):
        problems.append(
            f"no column 'lesion_id' or 'pair_id'. {found} Specify the column with --column lesion_id=NAME.{hint}"
        )
    if problems:
        raise ManifestError(source, problems)
    chosen = {known: table[headers[0]] for known, headers in taken.items()}
    chosen |= {name: pc.utf8_trim_whitespace(chosen[name]) for name in URI_COLUMNS if name in chosen}
    notes = [f"Skipped, replaced by --column: {listed(replaced)}."] if replaced else []
    for name in URI_COLUMNS:
        if name not in chosen:
            short = name.removesuffix("_uri")
            notes.append(f"No column {short!r}: no pair has this image. If it has another name: --column {short}=NAME.")
    if further:
        notes.append(f"Kept unchanged, not manifest columns: {listed(further)}.")
    return pa.table(chosen | {name: table[name] for name in further}), notes


class _Images:
    """Finds the images that a CSV names; thread-safe.

    Attributes:
        other_forms: paths found in another Unicode form.
    """

    def __init__(self, base: str) -> None:
        self.other_forms: list[str] = []
        self._base = base
        self._names = lru_cache(256)(_names)

    def find(self, path: str | None) -> tuple[str | None, str]:
        """Return an image's absolute URI, and the problem with it or an empty string."""
        if path is None:
            return None, ""
        if storage.is_windows_path(path):
            return (
                None,
                f"{path} is a Windows path. Write it relative to the CSV, with '/'",
            )
        uri = storage.resolve(path, self._base)
        kind = storage.kind(uri)
        if kind is None and not path.isascii():
            forms = {storage.resolve(unicodedata.normalize(form, path), self._base) for form in ("NFC", "NFD")}
            kinds = {form: kind for form in forms if (kind := storage.kind(form))}
            if len(kinds) > 1:
                return (
                    None,
                    f"{path!a}: several files differ from it in Unicode form only: {', '.join(map(ascii, kinds))}",
                )
            if kinds:
                ((uri, kind),) = kinds.items()
                self.other_forms.append(path)
        if kind is None:
            return None, f"no image at {uri}{self._hint(path, uri)}"
        if kind != "file":
            return None, f"{uri} is a {'folder' if kind == 'directory' else 'pipe or device'}, not an image"
        return uri, ""

    def _hint(self, path: str, uri: str) -> str:
        if "\\" in path:
            return "; write the path with '/', not '\\'"
        folder, _, name = uri.rpartition("/")
        near = [other for other in self._names(folder) if other.casefold() == name.casefold()]
        return f"; {near[0]!r} exists (different case)" if near else ""


def _names(folder: str) -> list[str]:
    try:
        return [path.name for path in Path(folder).iterdir()] if storage.is_local(folder) else []
    except OSError:
        return []


def _read(
    source: str,
    label_set: LabelSet,
    out_uri: str,
    *,
    column: Sequence[str] | None,
    delimiter: str | None,
    encoding: str | None,
) -> ImportResult:
    columns: dict[str, str] = {}
    for entry in column or ():
        name, equals, header = (part.strip() for part in entry.partition("="))
        if not (name and equals and header) or name in columns:
            raise ConfigError(f"--column {entry!r}: write NAME=HEADER, each NAME once, such as clinical=img_path.")
        columns[name] = header
    tab = delimiter is not None and delimiter.lower() in ("tab", r"\t")
    csv_format = CsvFormat("\t" if tab else delimiter, encoding)
    return import_folder(source, label_set, out_uri, csv_format=csv_format, columns=columns)


FOLDER = Importer(
    _read,
    "Import images listed in a CSV; paths are relative to the CSV.",
    "CSV with lesion_id, clinical, dermoscopy and any manifest column.",
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
