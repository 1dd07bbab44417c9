"""A manifest without duplicates across splits."""

from collections.abc import Sequence

from derm_ray.audit.findings import DuplicateGroup
from derm_ray.data.manifest import Manifest
from derm_ray.domain import Split

_KEPT_FIRST = (Split.TEST, Split.VAL, Split.TRAIN)


def rows_to_drop(manifest: Manifest, groups: Sequence[DuplicateGroup]) -> list[int]:
    """Return the rows without which no duplicates are across splits.

    Of a group, the rows in ``test`` stay; where it has none, those in ``val``. Of the others the whole lesion goes, as
    far as it is in their split: its other photos show the lesion that is kept elsewhere.
    """
    splits, lesions = manifest.column("split"), manifest.column("lesion_id")
    dropped = set()
    for group in groups:
        if group.leak:
            kept = next(split for split in _KEPT_FIRST if split in group.splits)
            dropped |= {(lesions[row], splits[row]) for row in group.rows if splits[row] not in (kept, None)}
    return [row for row, key in enumerate(zip(lesions, splits, strict=True)) if key in dropped]


def without(manifest: Manifest, rows: Sequence[int]) -> Manifest:
    """Return the other rows."""
    gone = set(rows)
    return manifest.where([row not in gone for row in range(len(manifest))])
