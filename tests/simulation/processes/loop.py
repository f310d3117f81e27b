"""One event loop for all processes of a simulation: time jumps to the next timer, and everything belongs to a process.

What a process has scheduled carries it in its context. So a process that is killed simply never runs again: no handler
and no `finally` of it does, as with kill -9. One that is stopped runs nothing until it goes on; its timers and its
messages pile up.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")
MICROS = 1_000_000


class Process:
    """What dies, stops and goes on as one. `steps` counts what it has run; it dies before step `dies_at`."""

    def __init__(self, name: str, loop: VirtualLoop, clock_micros: int = 0) -> None:
        self.name = name
        self.is_alive = True
        self.is_stopped = False
        self.steps = 0
        self.dies_at = 0
        self.clock_micros = clock_micros
        self.stop_asked = asyncio.Event()
        self.on_death: dict[object, Callable[[], None]] = {}
        self._loop = loop
        self._waiting: list[events.Handle] = []
        self._context = copy_context()
        self._context.run(CURRENT.set, self)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(work, context=self._context.copy())

    def kill(self) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self._waiting.clear()
        told, self.on_death = list(self.on_death.values()), {}
        for tell in told:
            tell()

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        self.is_stopped = False
        waiting, self._waiting = self._waiting, []
        self._loop.run_soon(waiting)

    def may_run(self, handle: events.Handle) -> bool:
        if not self.is_alive:
            return False
        if self.is_stopped:
            self._waiting.append(handle)
            return False
        self.steps += 1
        if self.steps == self.dies_at:
            self.kill()
        return self.is_alive


CURRENT: ContextVar[Process] = ContextVar("process")
"""The process that runs now; what belongs to nobody (the network, the world) runs in none."""


class _Handle(events.Handle):
    def _run(self) -> None:
        process = self._context.get(CURRENT)  # type: ignore[attr-defined]
        if process is None or process.may_run(self):
            super()._run()


class _Timer(events.TimerHandle):
    def _run(self) -> None:
        process = self._context.get(CURRENT)  # type: ignore[attr-defined]
        if process is None or process.may_run(self):
            super()._run()


class NothingLeft(Exception):
    """Nothing is ready, and no timer is set: nothing will ever happen again."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Single-threaded and without sockets; what would run in a thread runs at once."""

    _ready: Any
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.tasks: list[tuple[Process | None, asyncio.Task[Any]]] = []
        self._now = 0.0
        self._selector = self
        self.set_exception_handler(self._failed)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._now += max(0.0, timeout)
        return []

    def run_soon(self, handles: list[events.Handle]) -> None:
        self._ready.extend(handles)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        future.set_result(func(*args))
        return future

    def _call_soon(self, callback: Callable[..., object], args: Any, context: Context | None) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None) -> Any:
        """Every task is kept: a dead process's coroutines must not be closed, as that would run their `finally`."""
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        self.tasks.append((context.get(CURRENT) if context is not None else CURRENT.get(None), task))
        return task

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _process_events(self, event_list: Any) -> None:
        return

    def _write_to_self(self) -> None:
        return


def wall_nanos() -> int:
    """The wall clock of the process that asks: it may be wrong, and it may jump."""
    loop = asyncio.get_running_loop()
    process = CURRENT.get(None)
    return (START_MICROS + round(loop.time() * MICROS) + (process.clock_micros if process else 0)) * 1000


START_MICROS = 1_800_000_000 * MICROS
