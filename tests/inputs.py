"""Inputs of bulk scoring for tests."""

from collections.abc import Iterator

from derm_ray.data.inputs import Input
from derm_ray.data.manifest import Manifest
from derm_ray.storage import digest


class MemoryInput(Input):
    """A manifest in memory, as an input of bulk scoring."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest.uri)
        self._manifest = manifest.absolute()

    def pieces(self) -> Iterator[Manifest]:
        yield self._manifest

    def fingerprint(self) -> str:
        return digest(self._manifest.table.to_pylist())
