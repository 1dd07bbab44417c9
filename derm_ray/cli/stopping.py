"""Handling of Ctrl-C and SIGTERM, equal for all commands."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

RESUMES = "stopped; the same command resumes."
AGAIN_S = 1.0
"""A second signal within this time is the same one: `timeout` sends it to its child, then to the child's group."""
_first: tuple[int, float] | None = None
_at_once = False


def listen() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, once; a later signal ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs inherit it
            signal.signal(number, _stop)


def exit_code() -> int:
    """Return 128 plus the number of the signal that stopped this process."""
    return 128 + (_first[0] if _first else signal.SIGINT)


@contextmanager
def resumable() -> Iterator[None]:
    """Print that the work is kept when the command is stopped in this block."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(RESUMES, err=True)
        raise


@contextmanager
def clean() -> Iterator[None]:
    """Let a command whose end is a signal succeed, also when one comes before its work has begun."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped before the endpoint was ready")


@contextmanager
def resumable_at_once() -> Iterator[None]:
    """The same for commands whose threads wait for Ray: a signal ends all processes at once."""
    global _at_once
    _at_once = True
    try:
        yield
    finally:
        _at_once = False


def _stop(number: int, _: object) -> None:
    global _first
    now = time.monotonic()
    if _at_once:
        os.write(2, f"{RESUMES}\n".encode())
        _leave(number)
    if _first is None:
        _first = number, now
        raise KeyboardInterrupt
    if now - _first[1] > AGAIN_S:
        _leave(number)


def _leave(number: int) -> None:
    """End this process and its children at once, without exit handlers; Ray would take a minute to notice."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(128 + number)
