"""JSON Lines as tables, in bounded memory."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from derm_ray.errors import ManifestError


def jsonl_tables(file: BinaryIO, uri: str, rows: int) -> Iterator[pa.Table]:
    """Yield JSON Lines as tables of at most ``rows`` rows; a key that a row lacks is null there.

    Raises:
        ManifestError: a line is not a JSON object or repeats a key, or a column mixes types; with the row's number.
    """
    lines = enumerate((line for line in file if line.strip()), 1)
    while chunk := [_json_row(line, row, uri) for row, line in islice(lines, rows)]:
        names = dict.fromkeys(name for row in chunk for name in row)
        columns = {}
        for name in names:
            try:
                columns[name] = pa.array([row.get(name) for row in chunk])
            except (ValueError, OverflowError, pa.ArrowException) as error:
                raise ManifestError(uri, [f"column {name!r} cannot be parsed as jsonl: {error}"]) from error
        yield pa.table(columns)


def _json_row(line: bytes, row: int, uri: str) -> dict[str, Any]:
    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, count in Counter(name for name, _ in items).items() if count > 1]:
            raise ValueError(f"{twice[0]!r} occurs more than once")
        return dict(items)

    try:
        value = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ManifestError(uri, [f"row {row}: cannot be parsed as jsonl: {error}"]) from error
    if not isinstance(value, dict):
        raise ManifestError(uri, [f"row {row}: cannot be parsed as jsonl: every line must be a JSON object"])
    return value
