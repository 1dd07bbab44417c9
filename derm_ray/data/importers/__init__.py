"""Readers of data sets in their own layouts; each knows one set's column names and returns a manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import pandas as pd

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.errors import ManifestError
from derm_ray.vocabulary import LabelSet


@dataclass(frozen=True)
class ImportResult:
    """An imported manifest and what did not make it.

    Attributes:
        manifest: the pairs that were imported.
        found: lesions in the source.
        left_out: reason -> number of lesions left out for it.
    """

    manifest: Manifest
    found: int
    left_out: Mapping[str, int]


Importer = Callable[[str, LabelSet, str], ImportResult]
"""(source URI, label set, URI of the manifest to be) -> what was imported."""


def read_columns(uri: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV that must have some columns.

    Raises:
        StorageError: it cannot be read.
        ManifestError: it is no CSV, or columns are missing; all are named.
    """
    data = storage.read_bytes(uri)
    try:
        frame = pd.read_csv(BytesIO(data))
    except ValueError as error:
        raise ManifestError(uri, [f"cannot be parsed as CSV: {error}"]) from error
    if absent := [column for column in columns if column not in frame]:
        raise ManifestError(uri, [f"column {column!r} is missing" for column in absent])
    return frame
