"""What the audit finds: groups of duplicates and images that are hardly usable."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from derm_ray.audit.fingerprint import MEASURES, Bytes, Fingerprints
from derm_ray.audit.matching import Indices, Mask
from derm_ray.audit.thresholds import MIN_BRIGHTNESS, MIN_SHARPNESS, MIN_SHORTER_SIDE, MIN_SKIN
from derm_ray.data.manifest import SOURCE, URI_COLUMNS, Manifest
from derm_ray.diagnoses import agree
from derm_ray.domain import Modality, image_uris


class Problem(StrEnum):
    """Problems of single images; the list is closed."""

    UNREADABLE = "unreadable"
    NOT_SKIN = "not_skin"
    BLURRED = "blurred"
    DARK = "dark"
    TINY = "tiny"


LIMITS = {
    Problem.NOT_SKIN: ("skin", MIN_SKIN),
    Problem.BLURRED: ("sharpness", MIN_SHARPNESS),
    Problem.DARK: ("brightness", MIN_BRIGHTNESS),
    Problem.TINY: ("shorter_side", MIN_SHORTER_SIDE),
}
"""Problem -> measure, and the value below which an image has it."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a manifest: M uses of N different URIs.

    Attributes:
        uris: of the images (N,).
        rows: the row of each use, from 0 (M,).
        dermoscopy: whether a use is as dermoscopy image (M,).
        image: index into ``uris`` of each use (M,).
    """

    uris: list[str]
    rows: Indices
    dermoscopy: Mask
    image: Indices

    @classmethod
    def of(cls, manifest: Manifest) -> "Images":
        """Return those of a manifest."""
        table = manifest.absolute().table
        uses = [
            (row, number, uri)
            for number, name in enumerate(URI_COLUMNS)
            for row, cell in enumerate(table[name].to_pylist())
            for uri in image_uris(cell)
        ]
        places: dict[str, int] = {}
        image = [places.setdefault(uri, len(places)) for _, _, uri in uses]
        rows, numbers = (np.array([use[i] for use in uses], np.int64) for i in range(2))
        return cls(list(places), rows, numbers == 1, np.array(image, np.int64))

    def modality(self, use: int) -> Modality:
        """Return as what an image is used."""
        return Modality.DERMOSCOPY if self.dermoscopy[use] else Modality.CLINICAL


@dataclass(frozen=True)
class DuplicateGroup:
    """Images of several lesions that show the same photo.

    Attributes:
        uses: indices into :class:`Images`.
        rows: of the manifest, from 0, each once.
        exact: their files have the same bytes.
        splits, diagnoses, sources: of these rows, each once; what is missing is left out.
    """

    uses: tuple[int, ...]
    rows: tuple[int, ...]
    exact: bool
    splits: tuple[str, ...]
    diagnoses: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def leak(self) -> bool:
        """Whether they are in several splits."""
        return len(self.splits) > 1

    @property
    def conflict(self) -> bool:
        """Whether some of their diagnoses exclude each other."""
        return not all(agree(first, second) for first, second in combinations(self.diagnoses, 2))


def distinct(digests: Bytes, readable: Mask) -> tuple[Indices, Indices]:
    """Return the images of different bytes, and for each image the place of its own among these.

    Images that are not readable are different from all others.
    """
    keys = np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1])))[:, 0]
    _, first, of_image = np.unique(keys[readable], return_index=True, return_inverse=True)
    rest = np.flatnonzero(~readable)
    place = np.empty(len(digests), np.int64)
    place[readable], place[rest] = of_image, len(first) + np.arange(len(rest))
    return np.concatenate([np.flatnonzero(readable)[first], rest]), place


def lesion_codes(manifest: Manifest, images: Images, place: Indices, count: int) -> Indices:
    """Return for each distinct image a number of its lesion, or -1 where several lesions have it (count,)."""
    lesions = manifest.table["lesion_id"].combine_chunks().dictionary_encode()
    codes = lesions.indices.to_numpy().astype(np.int64)[images.rows]
    of_use = place[images.image]
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, of_use, codes)
    np.maximum.at(high, of_use, codes)
    return np.where(low == high, low, -1)


def duplicate_groups(
    manifest: Manifest, images: Images, place: Indices, first: Indices, second: Indices
) -> list[DuplicateGroup]:
    """Return the groups of duplicates that involve more than one lesion, those across splits first.

    Args:
        manifest: all rows.
        images: of it.
        place: of each image among the distinct ones; see :func:`distinct`.
        first, second: distinct images that are near duplicates.
    """
    count = int(place.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    of_use = component[place[images.image]]
    order = np.argsort(of_use, kind="stable")
    starts = np.flatnonzero(np.diff(of_use[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    names = ("lesion_id", "split", "diagnosis", *([SOURCE] if SOURCE in manifest.table.column_names else []))
    columns = {name: manifest.table[name] for name in names}
    groups = []
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        uses = np.sort(order[start : start + size])
        rows = np.unique(images.rows[uses])
        values = {name: _values(column, rows) for name, column in columns.items()}
        if len(values["lesion_id"]) > 1:
            exact = len(np.unique(place[images.image[uses]])) == 1
            found = (values["split"], values["diagnosis"], values.get(SOURCE, ()))
            groups.append(DuplicateGroup(tuple(uses.tolist()), tuple(rows.tolist()), exact, *found))
    return sorted(groups, key=lambda group: (not group.leak, not group.conflict, group.rows))


def _values(column: pa.ChunkedArray, rows: Indices) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in column.take(pa.array(rows)).to_pylist() if value is not None}))


def problem_images(found: Fingerprints, *, prepared: bool) -> dict[Problem, Indices]:
    """Return the images with each problem; sizes are not judged where images were ``prepared`` at one size."""
    problems = {Problem.UNREADABLE: np.array(sorted(found.errors), np.int64)}
    for problem, (measure, limit) in LIMITS.items():
        if not (prepared and problem is Problem.TINY):
            problems[problem] = np.flatnonzero(found.measures[:, MEASURES.index(measure)] < limit)
    return problems
