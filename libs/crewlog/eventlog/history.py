"""Reading one aggregate, until all that was acknowledged before is there, or the log does not answer for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.connection import Connection, NoAnswer
from crewlog.eventlog.indoubt import PAUSE_SECONDS, last_entry, next_entry
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.eventlog.reads import Reads

READ_SECONDS_MAX = 30.0


class History:
    """`from_leader`: a replica that answers may be behind, so the leader is asked whether anything is missing."""

    def __init__(self, connection: Connection, stream: str, reads: Reads, *, from_leader: bool) -> None:
        self._connection = connection
        self._reads = reads
        self._stream = stream
        self._from_leader = from_leader

    async def read(self, aggregate: AggregateId, after_revision: int) -> list[Stored]:
        """Everything acknowledged before the call; raises Unavailable when the log does not answer for long."""
        entries: list[Stored] = []
        async with _within_time():
            while not await self._read_on(aggregate, after_revision, entries):
                pass
        return entries

    async def last(self, aggregate: AggregateId) -> Stored | None:
        """The last entry, as the leader has it; raises Unavailable when the log does not answer for long."""
        async with _within_time():
            while True:
                try:
                    await self._connection.until_connected()
                    found = await last_entry(self._connection, self._stream, aggregate.subject)
                    return Stored(found[0], aggregate, found[1]) if found else None
                except NoAnswer:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _read_on(self, aggregate: AggregateId, after_revision: int, entries: list[Stored]) -> bool:
        """Adds what comes next; says whether that was all."""
        position = entries[-1].revision if entries else after_revision
        try:
            await self._connection.until_connected()
            entries += await self._reads.next_entries(aggregate, position)
            return not await self._is_missing(aggregate, entries, position)
        except NoAnswer:
            await asyncio.sleep(PAUSE_SECONDS)
            return False

    async def _is_missing(self, aggregate: AggregateId, entries: list[Stored], position: int) -> bool:
        if not self._from_leader:
            return False
        last = entries[-1].revision if entries else position
        return await next_entry(self._connection, self._stream, aggregate.subject, last) is not None


@asynccontextmanager
async def _within_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            yield
    except TimeoutError:
        raise Unavailable(f"the log did not answer for {READ_SECONDS_MAX} s", what_to_do="try again") from None
