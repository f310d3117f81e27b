"""What clients read: a copy of the log with views, kept up to date by a tail of the log.

SQLite is worked with in threads of its own, one that writes and one that reads. Whoever waits for a revision or for
entries is woken when a batch was written.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.eventlog.port import EventLog, Stored
from crewlog.gateway import schema
from crewlog.gateway.folding import Hot
from crewlog.gateway.inbox import Inbox
from crewlog.gateway.queries import EntryFilter, Queries
from crewlog.gateway.writer import News, Writer

BATCH_ENTRIES_MAX = 500
WAIT_SECONDS_MAX = 20.0
EVERY_RUN = ""

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class Projection:
    """`revision` is the last one that reads show. Until they show what the log held at the start, they wait."""

    def __init__(self, path: Path, log: EventLog) -> None:
        self._path = path
        self._log = log
        self._hot = Hot()
        self._writing = ThreadPoolExecutor(1, "projection-writer")
        self._reading = ThreadPoolExecutor(1, "projection-reader")
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._inboxes: defaultdict[str, set[Inbox]] = defaultdict(set)
        self._behind = 0
        self.revision = 0

    async def open(self) -> None:
        """Opens the file, or makes it anew when it is missing or shows another log."""
        self._behind = await self._log.head()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._open, self._log.epoch, self._behind)

    async def follow(self) -> None:
        """Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        async for batch in self._log.follow(self.revision):
            for start in range(0, len(batch), BATCH_ENTRIES_MAX):
                entries: Sequence[Stored] = batch[start : start + BATCH_ENTRIES_MAX]
                self._moved(await loop.run_in_executor(self._writing, self._writer.write, entries))

    async def read(self, query: Callable[[Queries, Unpack[Ts]], T], *args: *Ts) -> T:
        """Runs a method of Queries in the thread that reads."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, query, self._queries, *args)

    async def reached(self, revision: int, seconds: float | None = None) -> None:
        """Waits until reads show a revision. Raises InvalidCommand for one that the log does not have, and Unavailable
        when it takes longer than is good for a client."""
        if max(revision, self._behind) <= self.revision:
            return
        head = await self._log.head()
        if revision > head:
            why = f"the log ends at revision {head}"
            raise InvalidCommand(f"there is no revision {revision}: {why}", violations={"at_least_revision": why})
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        revision = max(revision, self._behind)
        if revision > self.revision:
            heapq.heappush(self._waiting, (revision, next(self._order), reached))
            await self._wait(reached, revision, WAIT_SECONDS_MAX if seconds is None else seconds)

    async def caught_up(self, seconds: float | None = None) -> int:
        """Waits until reads show everything that is in the log now, and returns its last revision."""
        head = await self._log.head()
        await self.reached(head, seconds)
        return head

    @contextmanager
    def watching(self, wanted: EntryFilter) -> Iterator[Inbox]:
        """The inbox hears of everything that is written from now on."""
        inbox = Inbox(wanted, self.revision)
        self._inboxes[wanted.run_id].add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes[wanted.run_id].discard(inbox)
            if not self._inboxes[wanted.run_id]:
                del self._inboxes[wanted.run_id]

    async def close(self) -> None:
        for executor in (self._reading, self._writing):
            await asyncio.to_thread(executor.shutdown)
        for connection in self._connections:
            connection.close()

    async def _wait(self, reached: asyncio.Future[None], revision: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await reached
        except TimeoutError:
            message = f"reads show the log up to revision {self.revision}, not yet {revision}"
            raise Unavailable(message, what_to_do="ask again") from None

    def _open(self, epoch: str, head: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writing = schema.connect(self._path)
        schema.prepare(writing, epoch, head)
        self.revision = schema.number(writing, "revision")
        reading = schema.connect(self._path)
        self._connections = (writing, reading)
        self._writer, self._queries = Writer(writing, self._hot), Queries(reading, self._hot)

    def _moved(self, news: News) -> None:
        self.revision = news.revision
        while self._waiting and self._waiting[0][0] <= self.revision:
            reached = heapq.heappop(self._waiting)[2]
            if not reached.done():
                reached.set_result(None)
        for run_id in (EVERY_RUN, *(news.by_run.keys() & self._inboxes.keys() - {EVERY_RUN})):
            for inbox in self._inboxes.get(run_id, ()):
                inbox.put(news)
