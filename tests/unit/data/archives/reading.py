"""How reads fail, and addresses of an archive."""

from dataclasses import replace

import pyarrow as pa
import pytest

from derm_ray.data.archives import address, reader, streams
from derm_ray.data.archives.address import Address, parse
from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.reader import ImageReader
from derm_ray.errors import ImageError, ImageErrorCode


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Set the most bytes of an image."""
    for module in (address, reader, streams):
        monkeypatch.setattr(module, "MAX_BYTES", most)


def refused(uri: object, code: str, message: str = "", *, reader: ImageReader | None = None) -> None:
    """Assert how a read fails: with a code, and a message that names the URI."""
    with pytest.raises(ImageError) as error:
        (reader or ImageReader()).read(str(uri))
    assert error.value.code == ImageErrorCode(code)
    assert str(uri) in str(error.value)
    assert message in str(error.value)


def addresses(archive: str) -> list[str]:
    """Return the addresses of an archive's images, row by row."""
    table = pa.concat_tables(index_archive(archive).tables())
    return [uri for row in table.to_pylist() for uri in (row["clinical_uri"], row["dermoscopy_uri"]) if uri]


def changed(uri: str, **values: object) -> Address:
    """Return an address with other values."""
    address = parse(uri)
    assert address
    return replace(address, **values)  # type: ignore[arg-type]
