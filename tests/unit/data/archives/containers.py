"""Archives of two lesions, and how they are read or refused."""

from pathlib import Path

import pyarrow as pa
import pytest

from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.reader import ImageReader
from derm_ray.errors import ManifestError

FIRST = {"L1/clinical.jpg": b"c1" * 400, "L1/dermoscopy.jpg": b"d1" * 400}


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def images(uri: str) -> dict[str, list[bytes]]:
    """Index an archive and read all its images: pair id -> their bytes."""
    table = pa.concat_tables(index_archive(uri).tables()).to_pylist()
    uris = {row["pair_id"]: [u for u in (row["clinical_uri"], row["dermoscopy_uri"]) if u] for row in table}
    with ImageReader([u for pair in uris.values() for u in pair]) as reader:
        return {pair_id: [reader.read(u) for u in pair] for pair_id, pair in uris.items()}


def refusal(uri: str) -> str:
    """Index an archive that is refused, and return the message."""
    with pytest.raises(ManifestError) as error:
        index_archive(uri)
    assert str(error.value).replace("\n", "").isprintable()
    return str(error.value)


LONG = "/".join(["ordner" * 10] * 6)
