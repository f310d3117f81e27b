"""What is due is in the log, and this is the clock that looks at it: one timer for each open run, for what comes first.

A run whose time has not come costs nothing. What is done when it has come is decided by the rules of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crewlog.domain.run.deadlines import next_due_at
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Clock
from crewlog.v1.run_pb2 import CheckDeadlines

LOOK_SECONDS_MAX = 3_600.0
Wake = Callable[..., None]


class Timers:
    """`wake` is the reactor's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self.wake: Wake

    def watch(self, run: Run) -> None:
        """Doing it twice is doing it once."""
        run_id, due = run.started.run_id, next_due_at(run)
        known = self._timers.get(run_id)
        if known is not None and known[0] == due:
            return
        if known is not None:
            self._timers.pop(run_id)[1].cancel()
        if due is not None:
            self._look(run_id, due)

    def stop(self) -> None:
        for _, timer in self._timers.values():
            timer.cancel()

    def _look(self, run_id: str, due_unix_micros: int) -> None:
        """The wall clock may be set while we wait, so a long wait is looked at now and then."""
        seconds = (due_unix_micros - self._clock()) / 1e6
        if seconds <= 0:
            self._timers.pop(run_id, None)
            self.wake(run_id, CheckDeadlines(run_id=run_id, at_unix_micros=self._clock()))
            return
        wait = min(seconds, LOOK_SECONDS_MAX)
        timer = asyncio.get_running_loop().call_later(wait, self._look, run_id, due_unix_micros)
        self._timers[run_id] = (due_unix_micros, timer)
