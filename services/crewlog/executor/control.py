"""What others want of a host, and how it cuts short what is under way.

A host is asked to leave: to let go at the next recorded step, or to end the task once a grace is over. It is
interrupted when somebody wants to be heard at once. Whatever is cut off gets an outcome that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from enum import IntEnum
from typing import TypeVar

from crewlog.tools.answers import CANCELLED, INTERRUPTED, TIMED_OUT

BOOKKEEPING_SECONDS_MAX = 600.0
"""How long a host may be without a new entry while no effect is under way: it may have to wait for the git service."""

T = TypeVar("T")


class Leave(IntEnum):
    """The stronger wish wins."""

    PAUSE = 1
    HAND_OVER = 2
    CANCEL = 3


class Cut(Exception):
    """An effect was cut off; `reason` is INTERRUPTED, CANCELLED or TIMED_OUT."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Control:
    """One host's. `step_seconds` is how long the step that it is in may take at most."""

    def __init__(self) -> None:
        self.leave: Leave | None = None
        self.step_seconds = BOOKKEEPING_SECONDS_MAX
        self._effects: set[asyncio.Future[str]] = set()
        self._sleepers: set[asyncio.Future[str]] = set()
        self._grace: asyncio.TimerHandle | None = None
        self._is_grace_over = False

    def ask(self, leave: Leave, grace_seconds: float = 0.0) -> None:
        """Asks the host to leave. Doing it twice is doing it once; the grace runs from the first time."""
        self.leave = max(leave, self.leave or leave)
        _set(self._sleepers, CANCELLED)
        if leave is Leave.CANCEL and self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(grace_seconds, self._end_grace)

    def interrupt(self) -> None:
        """Cuts off what is under way now; the next effect is not meant."""
        _set(self._effects, INTERRUPTED)

    def _end_grace(self) -> None:
        self._is_grace_over = True
        _set(self._effects, CANCELLED)

    def close(self) -> None:
        if self._grace is not None:
            self._grace.cancel()

    async def within(self, effect: Awaitable[T], seconds: float) -> T:
        """The effect's outcome. Raises Cut when it has taken too long, or is not wanted any more; it has ended then."""
        task = asyncio.ensure_future(effect)
        cut: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._effects.add(cut)
        if self._is_grace_over:
            _set((cut,), CANCELLED)
        self.step_seconds = seconds
        try:
            await asyncio.wait((task, cut), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._effects.discard(cut)
            self.step_seconds = BOOKKEEPING_SECONDS_MAX
            if not task.done():
                await _end(task)
        if task.cancelled():
            raise Cut(cut.result() if cut.done() else TIMED_OUT)
        return task.result()

    async def sleep(self, seconds: float) -> None:
        """Until the time is over, or the host is to leave."""
        if self.leave is not None:
            return
        woken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._sleepers.add(woken)
        self.step_seconds = seconds + BOOKKEEPING_SECONDS_MAX
        try:
            await asyncio.wait((woken,), timeout=seconds)
        finally:
            self._sleepers.discard(woken)
            self.step_seconds = BOOKKEEPING_SECONDS_MAX


async def _end(task: asyncio.Future[T]) -> None:
    """Cancelled, it still needs a moment to end what it has started. What it raises then is not lost."""
    task.cancel()
    await asyncio.wait((task,))


def _set(waiting: Iterable[asyncio.Future[str]], reason: str) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(reason)
