"""A Ray on this machine for one command: how it starts, and how all of it ends."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray

from derm_ray import ray_internals
from derm_ray.cluster_auth import local_token
from derm_ray.errors import WorkError
from derm_ray.session_folder import VARIABLE, session_folder

logger = logging.getLogger(__name__)

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
    folder = session_folder()
    if folder.note:
        logger.warning("%s. Ray's session is in %s; set %s for another folder.", folder.note, folder.path, VARIABLE)
    with local_token():
        try:
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # what Ray starts inherits this for good
            try:
                with own_handlers():
                    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, _temp_dir=folder.ray, **QUIET)
            except Exception as error:  # Ray raises the bare class where its processes do not come up in time
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                fix = "Another Ray or a heavy load may be in its way: try again when that has ended, or give --address."
                if isinstance(error, OSError):
                    fix = f"Ray's session is in {folder.ray}; set {VARIABLE} for another folder."
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
