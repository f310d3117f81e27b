"""Between processes: messages take time, answers get lost, links are cut in one direction or both.

A link behaves as TCP does: while it is cut, what was sent waits; each side of a connection finds out by itself that
nothing comes back any more, after KEEPALIVE_SECONDS, and one that has found out does not tell the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.processes.loop import CURRENT, Process, VirtualLoop

KEEPALIVE_SECONDS = 30.0
LOOK_SECONDS = 1.0
ANY = "*"


@dataclass(slots=True)
class Weather:
    """How messages fare now, each from 0 to 1."""

    slow: float = 0.0
    lost_answers: float = 0.0
    repeated: float = 0.0


class Network:
    def __init__(self, loop: VirtualLoop, chance: Random, paths: Counter[str]) -> None:
        self.loop = loop
        self.chance = chance
        self.paths = paths
        self.weather = Weather()
        self.cuts: Counter[tuple[str, str]] = Counter()
        self.served: dict[str, Listener] = {}
        self._nobody = Context()
        self._listeners = 0

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Work of no process: it goes on whoever dies."""
        return self.loop.create_task(work, context=self._nobody.copy())

    def later(self, seconds: float, what: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(seconds, what, *args, context=self._nobody.copy())

    def happens(self, share: float) -> bool:
        return share > 0 and self.chance.random() < share

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Nothing gets from one to the other for so long; '*' is everybody."""
        self.cuts[source, target] += 1
        self.later(seconds, self._mend, source, target)

    def heal(self) -> None:
        self.cuts.clear()
        self.weather = Weather()

    def listener(self, addresses: str) -> Listener | None:
        """Of several addresses the one that has begun to listen last: whoever leads."""
        found = [self.served[each] for each in addresses.split(",") if each in self.served]
        answering = [listener for listener in found if listener.is_open and listener.process.is_alive]
        return max(answering, key=lambda listener: listener.number, default=None)

    def listen(self, address: str, listener: Listener) -> None:
        listener.number = self._listeners = self._listeners + 1
        self.served[address] = listener

    def is_cut(self, source: str, target: str) -> bool:
        pairs = ((source, target), (ANY, target), (source, ANY))
        return any(self.cuts[pair] > 0 for pair in pairs)

    def is_silent(self, one: Process, other: Process) -> bool:
        """Whether a ping from one of them would get no answer."""
        both_ways = self.is_cut(one.name, other.name) or self.is_cut(other.name, one.name)
        return both_ways or one.is_stopped or other.is_stopped

    async def leg(self, source: str, target: str) -> None:
        """The way of one message. Where it is cut, it takes until it is mended."""
        await pass_time(self._delay())
        while self.is_cut(source, target):
            self.paths["message waits for a link"] += 1
            await pass_time(LOOK_SECONDS)

    def _delay(self) -> float:
        if self.happens(self.weather.slow):
            return self.chance.choice((0.05, 0.5, 3.0)) * self.chance.random()
        return 0.0002 + 0.002 * self.chance.random()

    def _mend(self, source: str, target: str) -> None:
        self.cuts[source, target] = max(0, self.cuts[source, target] - 1)


class Listener:
    """What a process serves under an address, as the generated code registers it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.methods: dict[str, Any] = {}
        self.streams: list[Callable[[], None]] = []
        self.is_open = True
        self.number = 0

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """As the server of crewlog.runtime.serve: its streams end, then it is gone."""
        self.is_open = False
        for end in list(self.streams):
            end()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        return

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


async def pass_time(seconds: float) -> None:
    """Waits, in virtual time."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    timer = loop.call_later(seconds, _finish, done)
    try:
        await done
    finally:
        timer.cancel()


def current() -> Process:
    return CURRENT.get()


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
