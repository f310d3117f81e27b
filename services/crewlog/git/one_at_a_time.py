"""One piece of work at a time for each key, to its end, even when whoever asked has gone.

A thread that runs git cannot be stopped half way: the next one has to wait for it, not for the call that started it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class OneAtATime:
    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shared: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns or raises; it begins when everything of the same key has ended."""
        return await asyncio.shield(self._begin(key, work))

    async def share(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """As `run`; but what is under way under the key is the same work, and is not done again for who asks again."""
        task = self._shared.get(key)
        if task is None:
            task = self._shared[key] = self._begin(key, work)
            task.add_done_callback(lambda _: self._shared.pop(key, None))
        result: T = await asyncio.shield(task)
        return result

    async def wait_until_idle(self) -> None:
        """Returns when nothing is being worked on."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, key: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(self._run(key, work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            return await work()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """What it raised is the caller's; a caller that has gone will ask again."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
