"""A manifest without duplicates across splits."""

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from derm_ray.audit.findings import DuplicateGroup
from derm_ray.data.manifest import DUPLICATE_GROUP, Manifest
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


def grouped(manifest: Manifest, groups: Sequence[DuplicateGroup]) -> Manifest:
    """Return the manifest with one ``duplicate_group`` for the rows of each group, and of groups with a row in common.

    Groups that the manifest has already, such as those of a merge, are joined with these.
    """
    names = manifest.column(DUPLICATE_GROUP) if DUPLICATE_GROUP in manifest.table.column_names else []
    names = names or [None] * len(manifest)
    ids = manifest.column("pair_id")
    rows_of: dict[str | None, set[int]] = defaultdict(set)
    for row, name in enumerate(names):
        if name is not None:
            rows_of[name].add(row)
    for group in groups:
        before = {names[row] for row in group.rows} - {None}
        rows = set(group.rows).union(*(rows_of.pop(name) for name in before))
        name = min(filter(None, before), default=ids[min(rows)])
        rows_of[name] = rows
        for row in rows:
            names[row] = name
    table = manifest.table
    if DUPLICATE_GROUP in table.column_names:
        table = table.drop_columns([DUPLICATE_GROUP])
    return Manifest(table.append_column(DUPLICATE_GROUP, pa.array(names, pa.string())), manifest.uri)


def without(manifest: Manifest, rows: Sequence[int]) -> Manifest:
    """Return the other rows."""
    gone = set(rows)
    return manifest.where([row not in gone for row in range(len(manifest))])
