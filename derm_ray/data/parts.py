"""Folders of Parquet files, as Spark, Dask and Ray write one table."""

import posixpath
import re
from urllib.parse import unquote

import pyarrow as pa

from derm_ray import storage

SUFFIX = ".parquet"
_VALUE = re.compile(r"([^=/]+)=([^/]*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_hidden(path: str) -> bool:
    """Return whether a path is hidden: a part of it begins with ``_`` or ``.``."""
    return any(part.startswith(("_", ".")) and not _VALUE.fullmatch(part) for part in path.split("/"))


def parquet_parts(uri: str) -> list[str]:
    """Return the Parquet files of a folder that holds nothing else but hidden files; empty where it holds more."""
    below = [name for name in storage.list_files(uri) if not name.endswith("/") and not is_hidden(relative(name, uri))]
    return below if all(name.lower().endswith(SUFFIX) for name in below) else []


def relative(name: str, uri: str) -> str:
    """Return the path of a listed file below its folder."""
    fs, path = storage.filesystem(uri)
    root = str(path) if storage.is_local(uri) else str(fs.unstrip_protocol(path))
    return name.removeprefix(root.rstrip("/") + "/")


def values(path: str) -> dict[str, str | None]:
    """Return the columns that a file's folders give, such as ``split=train/part-0.parquet``."""
    found = (_VALUE.fullmatch(part) for part in posixpath.dirname(path).split("/"))
    return {unquote(match[1]): None if match[2] == _NULL else unquote(match[2]) for match in found if match}


def with_values(table: pa.Table, columns: dict[str, str | None]) -> pa.Table:
    """Return a table with columns of one value each; existing values of such columns are kept."""
    for name, value in columns.items():
        if name in table.column_names and table[name].null_count == table.num_rows:
            table = table.drop_columns([name])
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table
