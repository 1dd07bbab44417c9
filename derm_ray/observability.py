"""Logging set-up and progress arithmetic. Importing it configures nothing."""

import logging
import sys
import time


def configure_logging(level: str = "INFO") -> None:
    """Send derm_ray's log lines to standard error; called by entry points only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("derm_ray")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


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
    """Counts finished items and tells rate and remaining time.

    Args:
        total: items to do.
    """

    def __init__(self, total: int) -> None:
        self.total = total
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

    def line(self, noun: str = "pairs") -> str:
        """Return ``done/total noun, rate, ETA`` for a terminal."""
        left_s = (self.total - self.done) / self.rate if self.done else 0.0
        eta = format_duration(left_s) if self.done else "unknown"
        return f"{self.done:,}/{self.total:,} {noun}, {self.rate:.1f} {noun}/s, ETA {eta}"
