"""A CSV that lists image paths, next to the images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.importers import ImportResult
from derm_ray.data.manifest import URI_COLUMNS, conform, csv_tables
from derm_ray.errors import ManifestError
from derm_ray.vocabulary import LabelSet

RENAMED = {"clinical": "clinical_uri", "dermoscopy": "dermoscopy_uri"}


def import_folder(source: str, label_set: LabelSet, out_uri: str) -> ImportResult:
    """Read a CSV with ``lesion_id`` (or ``pair_id``), ``clinical``, ``dermoscopy`` and any manifest column.

    Paths are relative to the CSV. A diagnosis is a class name of the label set or its title in any case.

    Raises:
        StorageError: the CSV cannot be read.
        ManifestError: columns are missing, or images are not where they should be; all are listed.
    """
    data = storage.read_bytes(source)
    try:
        table = pa.concat_tables(csv_tables(BytesIO(data)))
    except (ValueError, pd.errors.ParserWarning) as error:
        raise ManifestError(source, [f"cannot be parsed as CSV: {error}"]) from error
    names = [RENAMED.get(name, name) for name in table.column_names]
    if not set(URI_COLUMNS) & set(names):
        raise ManifestError(source, ["no column 'clinical' or 'dermoscopy' with image paths"])
    if twice := [name for name in URI_COLUMNS if names.count(name) > 1]:
        raise ManifestError(source, [f"two columns for {name}; keep one" for name in twice])
    manifest = conform(table.rename_columns(names), storage.absolute(source)).absolute()
    titles = {d.title.casefold(): d.name for d in label_set.diagnoses}
    diagnoses = [titles.get(d.casefold(), d) if d else None for d in manifest.column("diagnosis")]
    manifest = manifest.with_column("diagnosis", diagnoses)
    uris = [(row + 1, uri) for name in URI_COLUMNS for row, uri in enumerate(manifest.column(name)) if uri]
    with ThreadPoolExecutor(16) as executor:
        there = list(executor.map(storage.exists, (uri for _, uri in uris)))
    missing = [f"row {row}: no image at {uri}" for (row, uri), ok in zip(uris, there, strict=True) if not ok]
    if missing:
        raise ManifestError(source, missing)
    return ImportResult(replace(manifest, uri=storage.absolute(out_uri)), found=len(manifest), left_out={})
