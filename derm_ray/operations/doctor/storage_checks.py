"""Storage: whether a run can work there, and whether its clock agrees with this machine's."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

from derm_ray import storage
from derm_ray.errors import StorageError
from derm_ray.operations.doctor.finding import Finding

MAX_SKEW_S = 60.0
"""S3 refuses requests that are 15 minutes off; times in reports should be right long before."""


def check_storage(uri: str) -> Iterator[Finding]:
    """Yield what was found at a folder; a file is written there and removed.

    Args:
        uri: of the folder.
    """
    if storage.is_local(uri) and not os.path.exists(storage.absolute(uri)):
        yield Finding(uri, "no such folder", "create it, or mount it")
        return
    probe = storage.join(uri, f".doctor-{uuid4().hex}")
    try:
        yield from _probe(uri, probe)
    except StorageError as error:
        yield Finding(uri, "a run cannot work there", str(error))
    finally:
        with suppress(StorageError):
            storage.remove(probe)


def _probe(uri: str, probe: str) -> Iterator[Finding]:
    data, began = probe.encode(), time.time()
    storage.create(probe, data)
    ended = time.time()
    if storage.read_bytes(probe) != data:
        yield Finding(uri, "what is read is not what was written", "ask whoever runs this storage")
        return
    if probe.rpartition("/")[2] not in {name.rstrip("/").rpartition("/")[2] for name in storage.list_folder(uri)}:
        yield Finding(uri, "a file that was written is not listed", "use storage that lists its files")
        return
    if storage.create(probe, b"another " + data):
        fix = "never start two runs into one folder at the same moment; storage with conditional writes refuses it"
        yield Finding(uri, "can be read, written and listed, but not created exclusively", fix)
    else:
        yield Finding(uri, "can be read, written, listed and created exclusively")
    written = storage.modified(probe)
    if written is not None:
        yield compare_clocks(f"clock of {uri}", max(began - written, written - ended, 0.0), MAX_SKEW_S)


def compare_clocks(subject: str, seconds: float, most: float) -> Finding:
    """Report how far two clocks are apart, at least."""
    found = "agrees with this machine's" if seconds < 2 else f"{seconds:.0f} s apart from this machine's"
    return Finding(subject, found, "synchronize the clocks by NTP" if seconds > most else "")
