"""Joining manifests of several data sets."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from derm_ray import storage
from derm_ray.data.manifest import DUPLICATE_GROUP, ID_COLUMNS, SOURCE, URI_COLUMNS, Manifest
from derm_ray.diagnoses import agree, find
from derm_ray.domain import image_uris
from derm_ray.errors import ConfigError, ManifestError, counted

_ISIC_ID = re.compile(r"ISIC_\d{7}")
"""Of an image, in the ISIC Archive and all data sets that are taken from it."""


Conflicts = Literal["refuse", "first", "drop"]
"""What happens to an image that two manifests diagnose differently."""


@dataclass(frozen=True)
class Merged:
    """A joined manifest, and sentences on what was done."""

    manifest: Manifest
    notes: tuple[str, ...]


def merge(manifests: Sequence[Manifest], out_uri: str, conflicts: Conflicts = "refuse") -> Merged:
    """Join manifests; image URIs become absolute, and columns that one of them lacks are empty there.

    Where manifests have an id in common, all ids of that column get the name of their manifest in front: lesion 1 of
    one clinic is not lesion 1 of another. Images with the same id of the ISIC Archive are the same all the same: they
    get one ``duplicate_group``, which splits keep together. Each row's ``source`` is its manifest's name, where it has
    none.

    Args:
        manifests: two or more.
        out_uri: URI of the joined manifest.
        conflicts: what to do with such an image where the diagnoses of two manifests exclude each other: refuse,
            take that of the first manifest for all, or drop its rows.

    Raises:
        ManifestError: diagnoses are unknown, or conflict; a column is text here and a number there; all are listed.
        ConfigError: two manifests have the same name, which ids would need.
    """
    names = [_name(manifest) for manifest in manifests]
    tables = [_with_source(manifest.absolute().table, name) for manifest, name in zip(manifests, names, strict=True)]
    isic = [_isic_ids(table) for table in tables]
    notes: list[str] = []
    for column in ID_COLUMNS:
        where = _shared(tables, column)
        if not where:
            continue
        if len({names[at] for at in where}) < len(where):
            raise ConfigError(f"manifests of one name ({names[where[0]]}) have ids in common. Rename one of the files.")
        for at in where:
            tables[at] = _prefixed(tables[at], column, names[at])
        which = " and ".join(names[at] for at in where)
        notes.append(f"{column}: {which} had ids in common; all begin with its name now.")
    _check_columns(tables, names, out_uri)
    joined = pa.concat_tables(tables, promote_options="permissive")
    groups, rows_of = _groups([ids for of in isic for ids in of])
    whole = Manifest(joined.append_column(DUPLICATE_GROUP, pa.array(groups, pa.string())), storage.absolute(out_uri))
    problems = _unknown(whole)
    contradicted = {group: rows for group, rows in rows_of.items() if _contradict(whole, rows)}
    if contradicted and conflicts == "refuse":
        problems += [_conflict(whole, group, rows) for group, rows in contradicted.items()]
        problems.append("choose a rule for images that are diagnosed differently: --conflicts first or drop")
    if problems:
        raise ManifestError(out_uri, problems)
    if rows_of:
        notes.append(
            f"{counted(len(rows_of), 'group')} of rows with the same images, by the ids of the ISIC Archive: splits "
            "keep them together. derm-ray data audit finds those under other ids."
        )
    if contradicted:
        whole = _settled(whole, contradicted, conflicts)
        how = "dropped" if conflicts == "drop" else "diagnosed as in the first manifest"
        notes.append(f"{counted(len(contradicted), 'group')} with diagnoses that exclude each other: {how}.")
    return Merged(whole, tuple(notes))


def _name(manifest: Manifest) -> str:
    return manifest.uri.rpartition("/")[2].rpartition(".")[0]


def _with_source(table: pa.Table, name: str) -> pa.Table:
    table = table.drop_columns([DUPLICATE_GROUP]) if DUPLICATE_GROUP in table.column_names else table
    if SOURCE in table.column_names:
        return table
    return table.append_column(SOURCE, pa.array([name] * len(table), pa.string()))


def _isic_ids(table: pa.Table) -> list[set[str]]:
    """Return the ISIC Archive's ids of each row's images, by their file names."""
    cells = (table[name].to_pylist() for name in URI_COLUMNS)
    return [
        {match[0] for cell in row for uri in image_uris(cell) if (match := _ISIC_ID.match(uri.rpartition("/")[2]))}
        for row in zip(*cells, strict=True)
    ]


def _shared(tables: Sequence[pa.Table], column: str) -> list[int]:
    """Return the places of the tables that have an id in common with another one."""
    ids = [set(table[column].drop_null().to_pylist()) for table in tables]
    pairs = [pair for pair in combinations(range(len(ids)), 2) if not ids[pair[0]].isdisjoint(ids[pair[1]])]
    return sorted({at for pair in pairs for at in pair})


def _prefixed(table: pa.Table, column: str, name: str) -> pa.Table:
    place = table.schema.get_field_index(column)
    ids = [f"{name}:{value}" if value is not None else None for value in table[column].to_pylist()]
    return table.set_column(place, table.schema.field(place), pa.array(ids, pa.string()))


def _check_columns(tables: Sequence[pa.Table], names: Sequence[str], out_uri: str) -> None:
    kinds: dict[str, dict[bool, str]] = defaultdict(dict)
    for table, name in zip(tables, names, strict=True):
        for field in table.schema:
            if not pa.types.is_null(field.type):
                text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
                kinds[field.name].setdefault(text, name)
    problems = [
        f"column {column!r} is text in {of[True]}, and not in {of[False]}; rename one, or drop it"
        for column, of in kinds.items()
        if len(of) > 1
    ]
    if problems:
        raise ManifestError(out_uri, problems)


def _groups(isic: Sequence[set[str]]) -> tuple[list[str | None], dict[str, list[int]]]:
    """Return each row's duplicate group, and the rows of each: those that have images in common, also by others."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, ids in enumerate(isic):
        for name in ids:
            rows_of[name].append(row)
    links = [(rows[0], row) for rows in rows_of.values() for row in rows[1:]]
    shape = (len(isic), len(isic))
    graph = coo_array(([1] * len(links), tuple(zip(*links, strict=True)) or ((), ())), shape)
    _, components = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for row in sorted({row for link in links for row in link}):
        members[components[row]].append(row)
    named = {min(name for row in rows for name in isic[row]): rows for rows in members.values()}
    groups: list[str | None] = [None] * len(isic)
    for name, rows in named.items():
        for row in rows:
            groups[row] = name
    return groups, named


def _unknown(manifest: Manifest) -> list[str]:
    counts = Counter(name for name in manifest.column("diagnosis") if name is not None and find(name) is None)
    return [f"unknown diagnosis {name!r} ({counted(count, 'row')})" for name, count in counts.most_common()]


def _contradict(manifest: Manifest, rows: Sequence[int]) -> bool:
    names = {name for row in rows if (name := manifest.table["diagnosis"][row].as_py()) is not None}
    return any(not agree(first, second) for first, second in combinations(sorted(names), 2))


def _conflict(manifest: Manifest, group: str, rows: Sequence[int]) -> str:
    said = ", ".join(
        f"{manifest.table['diagnosis'][row].as_py()} in {manifest.table[SOURCE][row].as_py()}" for row in rows
    )
    return f"images of {group}: {said}"


def _settled(manifest: Manifest, contradicted: dict[str, list[int]], conflicts: Conflicts) -> Manifest:
    if conflicts == "drop":
        dropped = {row for rows in contradicted.values() for row in rows}
        return manifest.where([row not in dropped for row in range(len(manifest))])
    names = manifest.column("diagnosis")
    for rows in contradicted.values():
        first = next(names[row] for row in rows if names[row] is not None)
        for row in rows:
            names[row] = first
    return manifest.with_column("diagnosis", names)
