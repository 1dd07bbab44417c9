"""Where the images of a data set lie."""

from collections.abc import Callable, Sequence

import pandas as pd

from derm_ray import storage
from derm_ray.data.normalization import is_missing
from derm_ray.errors import ManifestError, counted

SUFFIXES = (".jpg", ".jpeg", ".png")


def image_uris(source: str, ids: Sequence[str], is_folder: Callable[[str], bool]) -> list[str]:
    """Return the URIs of images that are named by their ids, in any case of the suffix.

    Args:
        source: folder of the data set.
        ids: of the images, with or without suffix.
        is_folder: whether a folder of ``source`` holds images, by its name in lower case; ``.`` is ``source`` itself.

    Raises:
        ManifestError: images are missing; it says where they were looked for and what is there.
    """
    subfolders = [name[:-1] for name in storage.list_folder(source) if name.endswith("/")]
    folders = [name for name in subfolders if is_folder(name.lower())]
    if is_folder("."):
        folders.append(".")
    found: dict[str, str] = {}
    for folder in reversed(folders):  # copies of a folder have the same files; the first one counts
        where = storage.absolute(source if folder == "." else storage.join(source, folder))
        for name in storage.list_folder(where):
            stem, dot, suffix = name.rpartition(".")
            if dot and f".{suffix.lower()}" in SUFFIXES:
                found[stem] = storage.join(where, name)
    names = [_stem(name) for name in ids]
    if missing := [name for name in names if name not in found]:
        examples = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        looked = f"They were looked for in {', '.join(folders)}" if folders else "There is no folder of images"
        problem = (
            f"{len(missing)} of {counted(len(names), 'image')} not found, such as {examples}. {looked} "
            f"({counted(len(found), 'image')}). {_there(source)}"
        )
        raise ManifestError(source, [problem])
    return [found[name] for name in names]


def only_file(source: str, names: Sequence[str]) -> str:
    """Return the URI of the one file in a folder that has one of these names, in any case.

    Raises:
        ManifestError: there is none, or several; it says what was looked for and what is there.
    """
    there = [name for name in storage.list_folder(source) if name.lower() in {one.lower() for one in names}]
    if len(there) != 1:
        what = f"no {' or '.join(names)}" if not there else f"both {' and '.join(there)}; keep one"
        raise ManifestError(source, [f"{what}. {_there(source)}"])
    return storage.join(source, there[0])


def text(column: pd.Series) -> pd.Series:
    """Return a column of text with ``None`` where a word means missing, such as ``NA`` or ``unknown``."""
    values = [value.strip() if isinstance(value, str) and not is_missing(value) else None for value in column]
    return pd.Series(values, column.index, dtype=object, name=column.name)


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def _there(source: str) -> str:
    names = storage.list_folder(source)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"The folder contains {shown}." if names else "The folder is empty or missing."
