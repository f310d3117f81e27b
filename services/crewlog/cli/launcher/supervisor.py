"""Keeps one child running: starts it again when it dies, after a pause that grows with every early death."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from crewlog.cli.launcher.child import Child
from crewlog.domain.errors import Unavailable, WrongState

PAUSE_SECONDS_MIN = 0.1
PAUSE_SECONDS_MAX = 5.0
STEADY_SECONDS = 30.0
READY_SECONDS_MAX = 30.0

Say = Callable[[str], None]


class Supervisor:
    """`start` makes a child, `ready` returns when it answers. Nothing runs before `begin`."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Child]],
        ready: Callable[[], Awaitable[None]],
        say: Say,
        last_words: Callable[[], str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._start = start
        self._ready = ready
        self._say = say
        self._last_words = last_words
        self._changed = changed
        self._child: Child | None = None
        self._stopping = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the child that runs now; 0 between two."""
        return self._child.pid if self._child is not None and self._child.is_running else 0

    async def begin(self) -> None:
        """Starts the child; from now on `until_ready` and `stop` make sense."""
        self._child = await self._start()

    async def until_ready(self) -> None:
        """Returns when the child answers and is watched; raises Unavailable when it dies first, or takes too long."""
        assert self._child is not None
        await self._await_ready(self._child)
        self._watching = asyncio.create_task(self._watch(self._child))

    async def stop(self, seconds: float) -> bool:
        """Asks the child to end, and says whether it did within that time."""
        self._stopping.set()
        if self._child is None:
            return True
        self._child.terminate()
        try:
            await asyncio.wait_for(self._gone(), seconds)
        except TimeoutError:
            return False
        return True

    async def kill(self) -> None:
        """Ends the child whatever it does."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()
            await self._gone()

    async def _gone(self) -> None:
        """The watching task may be about to start another child: its end is waited for, too."""
        if self._watching is not None:
            await asyncio.shield(self._watching)
        assert self._child is not None
        await self._child.wait()

    async def _await_ready(self, child: Child) -> None:
        ready = asyncio.ensure_future(self._ready())
        died = asyncio.create_task(child.wait())
        try:
            await asyncio.wait((ready, died), timeout=READY_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                return
            why = how_it_ended(died.result()) if died.done() else f"does not answer after {READY_SECONDS_MAX:.0f} s"
            raise Unavailable(f"{self.name} did not start: {why}", what_to_do=self._last_words())
        finally:
            ready.cancel()
            died.cancel()
            await asyncio.wait((ready, died))

    async def _watch(self, child: Child) -> None:
        deaths = 0
        while True:
            started = time.monotonic()
            status = await child.wait()
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - started > STEADY_SECONDS else deaths + 1
            pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2 ** (deaths - 1))
            self._say(f"{self.name} (process {child.pid}) {how_it_ended(status)}; starting it again in {pause:.1f} s")
            successor = None if await self._stopped_within(pause) else await self._started()
            if successor is None:
                return
            child = await self._back(successor)

    async def _started(self) -> Child | None:
        """None when it is to stop. What hinders a start is waited for: a process that the dead one was just making may
        hold its lock for a moment."""
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                return await self._start()
            except (WrongState, OSError) as reason:
                self._say(f"{self.name} cannot be started: {reason}; trying again in {pause:.1f} s")
            if await self._stopped_within(pause):
                return None
            pause = min(PAUSE_SECONDS_MAX, pause * 2)

    async def _back(self, child: Child) -> Child:
        """A child that does not become ready is left to `_watch`: it has died, or is killed here."""
        self._child = child
        self.restarts += 1
        if self._stopping.is_set():
            child.kill()
            return child
        started = time.monotonic()
        try:
            await self._await_ready(child)
        except Unavailable as failure:
            child.kill()
            if not self._stopping.is_set():
                self._say(f"{failure.message}: {failure.what_to_do}")
            return child
        self._say(f"{self.name} is back after {time.monotonic() - started:.1f} s (process {child.pid})")
        self._changed()
        return child

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True


def how_it_ended(status: int) -> str:
    """`ended with status 1`, or `was ended by SIGKILL`."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
