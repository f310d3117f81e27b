"""Streams of entries: in order and without gaps from a revision, then live, at the pace of the reader.

Each stream has its own cursor. It reads pages from the projection until it has caught up, and from then on its inbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.names import TENANT
from crewlog.eventlog.port import Live
from crewlog.gateway.inbox import Inbox
from crewlog.gateway.projection import Projection
from crewlog.gateway.queries import Queries
from crewlog.gateway.withdrawing import Attempts
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from crewlog.v1.run_service_pb2 import LiveDelta

HEARTBEAT_SECONDS = 5.0
DELTAS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Delivered:
    """Entries, each with its revision. Everything up to `up_to` has been delivered, which is all that there is for now
    or not; `is_idle` after a quiet while."""

    entries: Sequence[tuple[int, bytes]]
    up_to: int
    is_all: bool
    is_idle: bool


async def entries(
    projection: Projection, inbox: Inbox, after: int, until: int | None = None
) -> AsyncIterator[Delivered]:
    """What is there and then, whenever something has changed or nothing happened for a while, what is new: maybe
    nothing.

    Ends once everything up to `until` was delivered, or everything there is of a run that is over.
    """
    cursor, is_idle = after, False
    while True:
        inbox.changed.clear()
        page = inbox.take(projection.revision)
        if page is None:
            page = await projection.read(Queries.page, inbox.wanted, cursor)
            inbox.has_read(page)
        cursor = page.up_to
        yield Delivered(page.entries, cursor, not page.has_more, is_idle and not page.entries)
        if page.has_more:
            continue
        if page.run_is_over or (until is not None and cursor >= until):
            return
        is_idle = not await _happens(inbox.changed)


async def check_position(projection: Projection, revision: int) -> None:
    """Refuses a revision that this log does not have: it is one of another log."""
    if revision <= projection.revision:
        return
    head = await projection.caught_up()
    if revision > head:
        why = f"the log ends at revision {head}"
        raise InvalidCommand(
            f"there is no revision {revision}: {why}", violations={"from_revision": why}, what_to_do="watch from 0"
        )


def recorded(revision: int, payload: bytes, *, with_stored: bool) -> RecordedEntry:
    stored = payload if with_stored else b""
    return RecordedEntry(revision=revision, entry=Entry.FromString(payload), stored=stored)


class LiveFeed:
    """What is being written right now, without that of attempts that are over; a reader that is too slow loses the
    oldest."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._deltas: deque[bytes] = deque(maxlen=DELTAS_MAX)

    def withdrawals(self, entry: Entry) -> Iterator[LiveDelta]:
        """What the entry takes back, of all that was said before it and is said later."""
        return self._attempts.withdrawals(entry)

    def drain(self) -> Iterator[LiveDelta]:
        while self._deltas:
            delta = LiveDelta.FromString(self._deltas.popleft())
            if self._attempts.is_wanted(delta):
                yield delta

    @asynccontextmanager
    async def listening(self, live: Live, run_id: str, changed: asyncio.Event) -> AsyncIterator[None]:
        """Collects the deltas of a run and sets the event for each."""
        task = asyncio.get_running_loop().create_task(self._listen(live, run_id, changed))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self, live: Live, run_id: str, changed: asyncio.Event) -> None:
        async for payload in live.subscribe(TENANT, run_id):
            self._deltas.append(payload)
            changed.set()


async def _happens(changed: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            await changed.wait()
    except TimeoutError:
        return False
    return True
