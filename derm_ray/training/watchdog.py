"""Ends a stalled training process: Ray Train detects dead workers, but not stalled ones."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WORK_S = 45.0
WAIT_S = 600.0
"""Limit of waits for batches, other ranks and reports; equal to the timeout of collectives."""
SLOWDOWN_FACTOR = 5.0
STALLED_EXIT_CODE = 75
"""Exit code of a stalled process."""


class Watchdog:
    """Measures how long a process works on a step, or waits for something else.

    Work may take ``work_s``, or :data:`SLOWDOWN_FACTOR` times the longest step so far, whichever is more. Waiting may
    take ``wait_s``. So may the first step, which may compile; its duration counts for the second step only. Watching
    starts in the waiting state.

    Args:
        on_stall: called before the process ends, with a description of the stall.
        work_s, wait_s: bounds in seconds.
    """

    def __init__(
        self, on_stall: Callable[[str], None] = lambda _: None, *, work_s: float = WORK_S, wait_s: float = WAIT_S
    ) -> None:
        self._on_stall = on_stall
        self._work_s, self._wait_s = work_s, wait_s
        self._pieces = 0
        self._longest_s = 0.0
        self._state = (False, time.monotonic())

    def work(self) -> None:
        """Start a step; ranks wait for each other only after all have started it."""
        self._enter(working=True)

    def wait(self) -> None:
        """End a step, and start waiting."""
        self._enter(working=False)

    def _enter(self, *, working: bool) -> None:
        now = time.monotonic()
        worked, since = self._state
        if worked:
            self._pieces += 1
            self._longest_s = max(self._longest_s if self._pieces > 2 else 0.0, now - since)
        self._state = (working, now)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """End the process with :data:`STALLED_EXIT_CODE` if it stalls within the block."""
        ended = threading.Event()
        self.wait()

        def monitor() -> None:
            while not ended.wait(min(1.0, self._work_s / 4)):
                working, since = self._state
                still_s = time.monotonic() - since
                if still_s > self._limit_s(working):
                    try:
                        faulthandler.dump_traceback()
                        self._on_stall(f"stalled for {still_s:.0f} s {'in a step' if working else 'waiting'}")
                    finally:
                        os._exit(STALLED_EXIT_CODE)

        threading.Thread(target=monitor, name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _limit_s(self, working: bool) -> float:
        if working and self._pieces:
            return max(self._work_s, SLOWDOWN_FACTOR * self._longest_s)
        return self._wait_s
