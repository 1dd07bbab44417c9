"""Logging, the run id of log lines, progress, counters. Importing it configures nothing."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Self

from derm_ray.credentials import redact
from derm_ray.errors import ConfigError, DermRayError, unknown_name

LOG_FORMATS = ("text", "json")
LOG_FORMAT_VARIABLE = "DERM_RAY_LOG_FORMAT"

NEXT_TO_NOTHING = 1e-9
"""Prometheus cannot see by how much a counter rose to its first value: where that matters, this is the first one."""

_run_id: ContextVar[str | None] = ContextVar("run_id", default=None)
_process_runs: list[str] = []


def configure_logging(level: str = "INFO", log_format: str | None = None) -> None:
    """Send derm_ray's log lines, without credentials, to standard error; called by entry points only.

    Args:
        level: the least that is logged.
        log_format: ``text``, bare messages for people, or ``json``, one object a line with ``timestamp`` (UTC),
            ``level``, ``logger``, ``message``, ``run_id`` within a run and, below a traceback, ``exc_info``; ``None``
            takes ``DERM_RAY_LOG_FORMAT``, or text. Processes that this one starts inherit it.

    Raises:
        ConfigError: there is no such format.
    """
    chosen = log_format or os.environ.get(LOG_FORMAT_VARIABLE) or "text"
    if chosen not in LOG_FORMATS:
        raise ConfigError(unknown_name("log format", chosen, LOG_FORMATS))
    if log_format is not None:
        os.environ[LOG_FORMAT_VARIABLE] = log_format
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(_json_formatter() if chosen == "json" else logging.Formatter("%(message)s")))
    handler.addFilter(_add_run_id)
    logger = logging.getLogger("derm_ray")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it warns of a home folder that is read-only


class _Redacting(logging.Formatter):
    """Formats by another formatter and hides the credentials, those of a traceback as well."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record))


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s", rename_fields={"levelname": "level", "name": "logger"}, timestamp=True
    )


def current_run_id() -> str | None:
    """Return the run that works here: this thread's, or the process's only one."""
    own = _run_id.get()
    return _process_runs[0] if own is None and len(_process_runs) == 1 else own


def _add_run_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "run_id") and (run_id := current_run_id()) is not None:
        record.run_id = run_id
    return True


@contextmanager
def working_for(run_id: str | None) -> Iterator[None]:
    """Let log lines, and an error that ends the block, carry a run's id; ``None`` is a run that has none."""
    if run_id is None:
        yield
        return
    before = _run_id.set(run_id)
    _process_runs.append(run_id)
    try:
        yield
    except DermRayError as error:
        error.run_id = run_id
        raise
    finally:
        _process_runs.remove(run_id)
        _run_id.reset(before)


@dataclass(frozen=True)
class WorkerLogs:
    """How a worker process logs: for the run of the driver that made this, and in its format.

    Attributes:
        run_id: the run's, if it has one.
        log_format: ``json``; with anything otherwise Python's own handler prints warnings..
    """

    run_id: str | None = None
    log_format: str | None = None

    @classmethod
    def like_here(cls, run_id: str | None) -> Self:
        """Return what makes workers log as this process does."""
        return cls(run_id, os.environ.get(LOG_FORMAT_VARIABLE))

    def begin(self) -> None:
        """Log so from now on; called in the worker, which has no other run."""
        if self.run_id is not None:
            _process_runs[:] = [self.run_id]
        if self.log_format == "json":
            configure_logging(log_format="json")


def format_duration(seconds: float) -> str:
    """Return a duration as people write it: ``41s``, ``3m 07s``, ``2h 05m``."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    minutes, secs = divmod(total, 60)
    if minutes < 60:
        return f"{minutes}m {secs:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m"


class Progress:
    """Counts finished items; computes rate and remaining time.

    Args:
        total: items in all.
        before: of them, finished by an earlier invocation.
    """

    def __init__(self, total: int, before: int = 0) -> None:
        self.total = total
        self.before = before
        self.done = 0
        self._started = time.perf_counter()

    def advance(self, count: int) -> None:
        """Count ``count`` more finished items."""
        self.done += count

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return self.done / max(self.elapsed_s, 1e-9)

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return self.before + self.done >= self.total

    def line(self, noun: str = "pairs") -> str:
        """Return ``done/total noun, rate, ETA`` for people."""
        left_s = (self.total - self.before - self.done) / self.rate if self.done else 0.0
        eta = format_duration(left_s) if self.done else "unknown"
        return f"{self.before + self.done:,}/{self.total:,} {noun}, {self.rate:.1f} {noun}/s, ETA {eta}"


class ProgressLine(Progress):
    """Shows progress: one line that is rewritten on a terminal, a log line now and then elsewhere.

    Args:
        total, before: see :class:`Progress`.
        every_s: seconds between log lines.
        noun: what is counted.
    """

    def __init__(self, total: int, before: int = 0, every_s: float = 10.0, noun: str = "pairs") -> None:
        super().__init__(total, before)
        self._noun = noun
        self._terminal = sys.stderr.isatty() and os.environ.get(LOG_FORMAT_VARIABLE) != "json"
        self._every_s = 0.2 if self._terminal else every_s
        self._shown_s = 0.0

    def show(self, count: int, more: str = "") -> int:
        """Count finished items, show a line if it is time, and return how many are done in this invocation."""
        self.advance(count)
        if self.finished or self.elapsed_s - self._shown_s > self._every_s:
            self._shown_s = self.elapsed_s
            line = ", ".join(filter(None, (self.line(self._noun), more)))
            if self._terminal:
                sys.stderr.write(f"\r\x1b[K{line}" + "\n" * self.finished)
                sys.stderr.flush()
            else:
                logging.getLogger("derm_ray").info("%s", line)
        return self.done

    def end(self) -> None:
        """Leave the line, so that what follows has its own."""
        if self._terminal and self._shown_s and not self.finished:
            sys.stderr.write("\n")


class Tally:
    """Counts what a process does, from any of its threads, until the counts are taken to be exported."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def add(self, what: str, kind: str = "", count: int = 1) -> None:
        """Count ``count`` more of a kind of something."""
        with self._lock:
            self._counts[what, kind] += count

    def take(self) -> dict[tuple[str, str], int]:
        """Return (what, kind) -> count since the last call, none of them 0."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return {key: count for key, count in taken.items() if count}


WORK = Tally()
"""Of this process: ``bytes`` (``read`` of images and archives, ``written`` of parts), ``errors`` of images by code, and
``retries`` of storage."""
