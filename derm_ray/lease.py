"""The right to write in a folder, held by one process at a time, on local disk and on object storage."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from derm_ray import storage
from derm_ray.errors import InputError, OutputExistsError, StorageError, WorkError

logger = logging.getLogger(__name__)

RENEW_S = 5.0
EXPIRES_S = 30.0


class LeaseLostError(WorkError):
    """Another process took the folder over while this one did not renew its lease."""


class Lease:
    """One holder's numbered record in a folder of records.

    Whoever creates record n + 1 holds the folder; creating is exclusive, so there is one. A record is rewritten every
    ``renew_s`` seconds; one that does not change for ``expires_s`` seconds belongs to a holder that died. Only
    changes are watched, so that clocks need not agree. The records stay, as the history of who worked here.

    Attributes:
        uri: of the record.
        record: its content; :meth:`note` adds to it.
    """

    def __init__(self, uri: str, record: dict[str, Any], *, renew_s: float, expires_s: float) -> None:
        self.uri = uri
        self.record = record
        self._renew_s, self._expires_s = renew_s, expires_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewed = time.monotonic()
        self._taken = False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def note(self, **facts: Any) -> None:
        """Add facts about the work to the record; they are written with the next renewal."""
        with self._lock:
            self.record |= facts

    @property
    def worked(self) -> bool:
        """Whether the record counts pairs; one that does not is removed where the input was refused."""
        return "pairs" in self.record

    def check(self) -> None:
        """Raise where the folder may no longer be ours.

        Raises:
            LeaseLostError: it was taken over, or the record could not be renewed in time.
        """
        if self._stale() and not self._taken:
            with suppress(StorageError):  # it may be there again by now
                self._renew()
        if self._taken or self._stale():
            raise LeaseLostError(
                f"{self.uri}: this lease could not be renewed for {self._expires_s:g} s and may be another's now. "
                "Check the storage; the same command resumes."
            )

    def release(self) -> None:
        """Write the record a last time; the folder is free then, or else once the lease expires."""
        self._ended.set()
        self._thread.join()
        if self._taken:
            return
        self.note(state="released", released_at=_now())
        try:
            self._write()
        except StorageError as error:  # often what ended the work; its own message counts
            logger.warning("the lease could not be released: %s", error)

    def _write(self) -> None:
        with self._lock:
            storage.write_json(self.uri, self.record)

    def _stale(self) -> bool:
        return time.monotonic() - self._renewed > self._expires_s

    def _renew(self) -> None:
        if is_taken(self.uri):
            self._taken = True
            return
        self.note(renewals=self.record["renewals"] + 1)
        self._write()
        self._renewed = time.monotonic()

    def _keep(self) -> None:
        while not self._ended.wait(self._renew_s):
            try:
                self._renew()
                if self._taken:
                    return
            except StorageError as error:
                logger.warning("the lease could not be renewed: %s", error)


@contextmanager
def hold(folder_uri: str, *, renew_s: float = RENEW_S, expires_s: float = EXPIRES_S) -> Iterator[Lease]:
    """Hold a folder of records for the length of a block.

    A lease whose process died on this machine is taken over at once, any other after ``expires_s`` without a
    renewal.

    Raises:
        OutputExistsError: another process holds it.
        StorageError: the record cannot be written.
    """
    folder_uri = storage.absolute(folder_uri)
    record = {
        "holder": uuid.uuid4().hex,
        "machine": _machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "state": "held",
        "began_at": _now(),
        "renewals": 0,
    }
    while True:
        number = _wait_until_free(folder_uri, expires_s)
        uri = storage.join(folder_uri, f"{number + 1:06d}.json")
        if storage.create(uri, json.dumps(record, indent=2).encode()):
            break
    lease = Lease(uri, record, renew_s=renew_s, expires_s=expires_s)
    lease._thread.start()
    try:
        yield lease
    except InputError:
        idle = not lease.worked
        lease.release()
        if idle:
            storage.remove(uri)
            if storage.is_local(folder_uri):  # object stores have no empty folders
                with suppress(OSError):
                    Path(folder_uri).rmdir()
        raise
    except BaseException:
        lease.release()
        raise
    lease.release()


def is_taken(uri: str) -> bool:
    """Return whether another holder took the folder after this record."""
    return max(map(_number, _records(storage.parent(uri))), default=0) > _number(uri)


def records(folder_uri: str) -> list[dict[str, Any]]:
    """Return the records of all holders so far, in order."""
    return [storage.read_json(storage.join(folder_uri, name)) for name in _records(folder_uri)]


def _records(folder_uri: str) -> list[str]:
    return [name for name in storage.list_folder(folder_uri) if name.removesuffix(".json").isdigit()]


def _number(uri: str) -> int:
    return int(uri.rpartition("/")[2].removesuffix(".json"))


def _wait_until_free(folder_uri: str, expires_s: float) -> int:
    """Return the number of the last record once it is released or its holder dead; 0 where there is none."""
    names = _records(folder_uri)
    if not names:
        return 0
    uri = storage.join(folder_uri, names[-1])
    first, began = _read(uri), time.monotonic()
    last = first
    while last["state"] == "held" and not _died_here(last):
        if last != first:
            raise OutputExistsError(
                f"{storage.parent(folder_uri)} is being written by another run (host {last['host']}, process "
                f"{last['pid']}, since {last['began_at']}). Wait for its end, or stop it and try again."
            )
        waited = time.monotonic() - began
        if waited > expires_s:
            break
        if waited < 1:
            logger.info("%s was held by %s; taking over if it is silent for %g s", uri, last["host"], expires_s)
        time.sleep(min(1.0, expires_s / 10))
        last = _read(uri)
    return _number(uri)


def _read(uri: str) -> dict[str, Any]:
    """Return a record.

    Raises:
        StorageError: it is none, as a broken disk may leave it.
    """
    try:
        record = json.loads(storage.read_bytes(uri))
        if record.keys() >= {"state", "machine", "host", "pid", "began_at"}:
            return dict(record)
    except (ValueError, AttributeError):
        pass
    raise StorageError(f"{uri} is not a lease record. Remove it if no run uses the folder, and try again.")


@cache
def _machine() -> str:
    """Return an id of this boot and process namespace; a random one where Linux gives none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex


def _died_here(record: dict[str, Any]) -> bool:
    if record["machine"] != _machine():
        return False
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
