"""Member names: checks for hostile names, and file types by extension."""

import re
import unicodedata

from derm_ray.data.archives.containers import suffixes
from derm_ray.errors import ManifestError

MAX_NAME = 4096
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k", ".jpx")
)
DICOM_SUFFIXES = frozenset((".dcm", ".dicom"))
_OTHER_ARCHIVES = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".tbz2", ".txz")
_VOLUME = re.compile(r"\.(z\d\d|r\d\d|(tar|zip|tgz|gz|7z)\.\d{2,3}|part\d+(\.(rar|zip|tar|tgz|gz|7z))?)$")


class ArchiveError(ManifestError):
    """An archive that cannot be indexed."""


def shown(name: str, most: int = 200) -> str:
    """Return a name that is safe to print: control characters are escaped."""
    text = repr(name)[1:-1]
    return text if len(text) <= most else text[:most] + "..."


def quoted(name: str) -> str:
    """Return a name as :func:`shown`, in quotes."""
    return f"'{shown(name)}'"


def refusal(name: str) -> str | None:
    """Return why a member's name is not accepted, or ``None``."""
    if len(name) > MAX_NAME:
        return f"its name has {len(name)} characters, at most {MAX_NAME} are accepted"
    if not name.isprintable() and any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in name):
        return "its name contains a control character, an invisible character, or bytes that are not UTF-8"
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "its name is absolute"
    if ".." in re.split(r"[/\\]", name):
        return "its name points outside the archive ('..')"
    return None


def normal(name: str) -> str:
    """Return a member's path without ``.`` and empty segments."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def suffix(path: str) -> str:
    """Return a path's suffix in lower case, ``""`` where it has none; one of digits is part of the name."""
    found = re.search(r"[^/](\.[A-Za-z][A-Za-z0-9]*)$", path)
    return found[1].lower() if found else ""


def is_archive(path: str) -> bool:
    """Return whether a name has an archive extension, including unsupported formats."""
    return path.lower().endswith((*suffixes(), *_OTHER_ARCHIVES)) or is_volume(path)


def is_volume(path: str) -> bool:
    """Return whether a name is that of one part of a split archive."""
    return _VOLUME.search(path.lower()) is not None


def may_be_image(path: str) -> bool:
    """Return whether a file may be an image: by its suffix, or because it has none, like many DICOM files."""
    return suffix(path) in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, "") and not is_side_file(path)


def is_side_file(path: str) -> bool:
    """Return whether a file is macOS metadata (AppleDouble)."""
    parts = path.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._")
