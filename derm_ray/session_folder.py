"""The folder in which a Ray started on this machine keeps its session: sockets, logs and spilled objects."""

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

from derm_ray.errors import ConfigError

VARIABLE = "RAY_TMPDIR"
FALLBACK = "/tmp"  # noqa: S108
LONGEST_PATH = (103 if sys.platform == "darwin" else 107) - len(
    "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""Bytes of a folder below which Ray's sockets still have names that AF_UNIX takes."""
LEAST_FREE = 64 << 20
FIX = f"set {VARIABLE} to a folder that exists, is writable, has free space and a short ASCII path"


@dataclass(frozen=True)
class SessionFolder:
    """Location of Ray's session folder.

    Attributes:
        path: of the folder that holds it.
        note: why that is not what TMPDIR says; empty where nothing else was asked for.
    """

    path: str
    note: str = ""

    @property
    def ray(self) -> str:
        """Ray's own folder."""
        return os.path.join(self.path, "ray")


def session_folder() -> SessionFolder:
    """Return the folder for a Ray of this machine: ``RAY_TMPDIR``, else ``TMPDIR`` where Ray can use it, else ``/tmp``.

    Raises:
        ConfigError: Ray cannot use ``RAY_TMPDIR``, or neither of the others.
    """
    if chosen := os.environ.get(VARIABLE):
        if problem := find_problem(chosen):
            raise ConfigError(f"{VARIABLE}={chosen}: {problem}. S{FIX[1:]}.")
        return SessionFolder(chosen)
    note = ""
    general = os.environ.get("TMPDIR", "") if sys.platform != "darwin" else ""  # as Ray reads it
    if general:
        if not (problem := find_problem(general)):
            return SessionFolder(general)
        note = f"TMPDIR={general}: {problem}"
    if problem := find_problem(FALLBACK):
        raise ConfigError(f"{f'{note}; ' if note else ''}{FALLBACK}: {problem}. S{FIX[1:]}.")
    return SessionFolder(FALLBACK, note)


def find_problem(folder: str) -> str:
    """Return why Ray cannot keep a session below a folder, or an empty string."""
    if not os.path.isabs(folder):
        return "not an absolute path"
    if not folder.isascii():
        return "not an ASCII path, which Ray needs"
    if (length := len(os.fsencode(folder.rstrip("/")))) > LONGEST_PATH:
        return f"a path of {length} bytes, which leaves no space for Ray's sockets (at most {LONGEST_PATH})"
    if not os.path.isdir(folder):
        return "not a folder" if os.path.lexists(folder) else "no such folder"
    ray = os.path.join(folder, "ray")
    try:
        with tempfile.TemporaryFile(dir=ray if os.path.isdir(ray) else folder) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"not writable ({error.strerror})"
    if free < LEAST_FREE:
        return f"full: {free >> 20} MiB free, Ray needs {LEAST_FREE >> 20}"
    return ""
