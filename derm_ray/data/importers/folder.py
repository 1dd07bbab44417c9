"""A CSV that lists image paths, next to the images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.importers import ImportResult
from derm_ray.data.manifest import SCHEMA, URI_COLUMNS, conform
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
    try:
        text = dict.fromkeys(("clinical", "dermoscopy", *_text_columns()), "string")
        frame = pd.read_csv(BytesIO(storage.read_bytes(source)), dtype=text)
    except ValueError as error:
        raise ManifestError(source, [f"cannot be parsed as CSV: {error}"]) from error
    frame = frame.rename(columns=RENAMED)
    if not set(URI_COLUMNS) & set(frame.columns):
        raise ManifestError(source, ["no column 'clinical' or 'dermoscopy' with image paths"])
    if "diagnosis" in frame:
        names = {d.title.casefold(): d.name for d in label_set.diagnoses}
        frame["diagnosis"] = frame["diagnosis"].map(lambda v: names.get(v.casefold(), v), na_action="ignore")
    relative = conform(pa.Table.from_pandas(frame, preserve_index=False), storage.absolute(source))
    manifest = relative.absolute()
    uris = [(row + 1, uri) for name in URI_COLUMNS for row, uri in enumerate(manifest.column(name)) if uri]
    with ThreadPoolExecutor(16) as executor:
        there = list(executor.map(storage.exists, (uri for _, uri in uris)))
    missing = [f"row {row}: no image at {uri}" for (row, uri), ok in zip(uris, there, strict=True) if not ok]
    if missing:
        raise ManifestError(source, missing)
    return ImportResult(replace(manifest, uri=storage.absolute(out_uri)), found=len(manifest), left_out={})


def _text_columns() -> list[str]:
    return [field.name for field in SCHEMA if pa.types.is_string(field.type)]
