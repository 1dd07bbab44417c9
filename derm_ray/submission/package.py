"""The code of a job: a wheel of derm_ray, unpacked for the runtime environment."""

import io
import re
import zipfile
from dataclasses import dataclass

from derm_ray import storage
from derm_ray.errors import ConfigError

_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """A wheel of derm_ray.

    Attributes:
        data: the file's bytes.
        version: of the derm_ray inside.
        digest: SHA-256 of the bytes.
    """

    data: bytes
    version: str
    digest: str

    def unpack(self, folder: str) -> None:
        """Write the wheel's files below ``folder``.

        Ray would install a wheel with all its dependencies, torch among them, and would take a changed wheel of the
        same version for the old one. A folder is identified by its content.
        """
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            archive.extractall(folder)


def read_package(uri: str) -> Package:
    """Read a wheel of derm_ray.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is not a wheel of derm_ray.
    """
    data = storage.read_bytes(uri)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            source = archive.read("derm_ray/__init__.py").decode()
            archive.getinfo("derm_ray/__main__.py")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: not a wheel of derm_ray. Build one with `pip wheel --no-deps .`.") from error
    found = _VERSION.search(source)
    if found is None:
        raise ConfigError(f"{uri}: the derm_ray in it has no version. Build it with `pip wheel --no-deps .`.")
    return Package(data, found[1], storage.sha256(data))
