"""A Ray on this machine for one command: where it keeps its session, how it starts, and how all of it ends."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray

from derm_ray import ray_internals
from derm_ray.cluster_auth import local_token
from derm_ray.errors import ConfigError, WorkError

logger = logging.getLogger(__name__)

SESSION_VARIABLE = "RAY_TMPDIR"
FALLBACK = "/tmp"  # noqa: S108
LONGEST_PATH = (103 if sys.platform == "darwin" else 107) - len(
    "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""Bytes of a folder below which Ray's sockets still have names that AF_UNIX takes."""
LEAST_FREE = 64 << 20
FIX = f"set {SESSION_VARIABLE} to a folder that exists, is writable, has free space and a short ASCII path"
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""Of ``ray.init``."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END_S = 10.0


@contextmanager
def local_ray(num_cpus: int | None = None) -> Iterator[None]:
    """Run a block connected to a Ray on this machine that ends with it.

    A signal that stops a whole process group, or a service's control group, reaches Ray's processes too. They do not
    hear it: this process decides, and still has its Ray while it ends its work.

    Args:
        num_cpus: logical CPUs; ``None`` is the machine's.

    Raises:
        ConfigError: there is no folder for Ray's session.
        WorkError: Ray could not be started.
    """
    folder, note = session_folder()
    session = os.path.join(folder, "ray")
    if note:
        logger.warning("%s. Ray's session is in %s; set %s for another folder.", note, folder, SESSION_VARIABLE)
    with local_token():
        try:
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # what Ray starts inherits this for good
            try:
                with own_handlers():
                    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, _temp_dir=session, **QUIET)
            except Exception as error:  # Ray raises the bare class where its processes do not come up in time
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                fix = "Another Ray or a heavy load may be in its way: try again when that has ended, or give --address."
                if isinstance(error, OSError):
                    fix = f"Ray's session is in {session}; set {SESSION_VARIABLE} for another folder."
                raise WorkError(f"no Ray could be started on this machine: {reason}. {fix}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)
            yield
        finally:
            _end()


@contextmanager
def own_handlers() -> Iterator[None]:
    """Keep this process's SIGTERM handler through ``ray.init``, whose own prints a stack and aborts."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if kept is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


def _end() -> None:
    """Disconnect, and end every process of the Ray that this process started."""
    processes: list[psutil.Process] = []
    for started in ray_internals.own_processes():
        started.terminate = started.kill  # type: ignore[method-assign]  # SIGTERM is blocked: Ray would wait a second each
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(started.pid)
            processes += [process, *process.children(recursive=True)]
    ray.shutdown()
    for process in processes:  # workers and agents would find out by themselves, within half a minute
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_END_S)


def session_folder() -> tuple[str, str]:
    """Return where a Ray of this machine keeps its session: ``RAY_TMPDIR``, else a usable ``TMPDIR``, else ``/tmp``.

    Returns:
        The folder, and why that is not ``TMPDIR`` (empty where nothing else was asked for).

    Raises:
        ConfigError: Ray cannot use ``RAY_TMPDIR``, or neither of the others.
    """
    if chosen := os.environ.get(SESSION_VARIABLE):
        if problem := find_problem(chosen):
            raise ConfigError(f"{SESSION_VARIABLE}={chosen}: {problem}. S{FIX[1:]}.")
        return chosen, ""
    note = ""
    general = os.environ.get("TMPDIR", "") if sys.platform != "darwin" else ""  # as Ray reads it
    if general:
        if not (problem := find_problem(general)):
            return general, ""
        note = f"TMPDIR={general}: {problem}"
    if problem := find_problem(FALLBACK):
        raise ConfigError(f"{f'{note}; ' if note else ''}{FALLBACK}: {problem}. S{FIX[1:]}.")
    return FALLBACK, note


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
