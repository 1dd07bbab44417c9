"""Readers of data sets in their own layouts; each knows one set's column names and returns a manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from derm_ray.data.manifest import Manifest
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
