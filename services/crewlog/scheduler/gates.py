"""Gates expire: what is due is in the log, and this is the clock that looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crewlog.domain.run_state import Run
from crewlog.eventlog.owner import Clock
from crewlog.v1.run_pb2 import ExpireGate, GateStatus

LOOK_SECONDS_MAX = 3_600.0
Wake = Callable[..., None]


class Gates:
    """Holds a timer for each open gate of the runs that it was shown. `wake` is the reactor's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self.wake: Wake

    def watch(self, run: Run) -> None:
        """Doing it twice is doing it once."""
        for gate_id, gate in run.gates.items():
            key = (run.started.run_id, gate_id)
            if gate.status == GateStatus.GATE_STATUS_OPEN and key not in self._timers:
                self._look(key, gate.opened.expires_at_unix_micros)
            elif gate.status != GateStatus.GATE_STATUS_OPEN and key in self._timers:
                self._timers.pop(key).cancel()

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _look(self, key: tuple[str, str], due_unix_micros: int) -> None:
        seconds = (due_unix_micros - self._clock()) / 1e6
        if seconds <= 0:
            self._timers.pop(key, None)
            self.wake(key[0], ExpireGate(run_id=key[0], gate_id=key[1], at_unix_micros=self._clock()))
            return
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(min(seconds, LOOK_SECONDS_MAX), self._look, key, due_unix_micros)
