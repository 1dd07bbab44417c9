"""Writing and reading Parquet files with images."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.data.archives.index import ArchiveIndex, index_archive
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.inputs import open_input
from derm_ray.errors import ManifestError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def rows(index: ArchiveIndex) -> list[dict[str, Any]]:
    return pa.concat_tables(index.tables()).to_pylist()


def read(uri: str) -> bytes:
    with ImageReader() as reader:
        return reader.read(uri)


def refused(uri: str) -> str:
    """Return the message with which a file is refused, the same by ``data index`` and ``score``."""
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    with pytest.raises(ManifestError) as scored:
        list(open_input(uri).pieces())
    told = error.value.problems[0].removeprefix(f"{uri}: ")
    assert told == scored.value.problems[0].removeprefix(f"{uri}: ")
    assert told.isprintable()
    return told
