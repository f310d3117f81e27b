"""The log of a scheduler that leads: it appends nothing when that is over, and knows which entries of runs are its own.

What a scheduler had on its way when it was frozen may be stored long after another one has begun to lead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

from crewlog.domain.errors import Unavailable
from crewlog.domain.run.decider import KIND
from crewlog.eventlog.port import AggregateId, EventLog, Stored
from crewlog.scheduler.lease import IsLeading


class LedLog:
    """An EventLog, and `is_foreign` about what it follows."""

    def __init__(self, inner: EventLog, is_leading: IsLeading) -> None:
        self._inner = inner
        self._is_leading = is_leading
        self._own: set[int] = set()
        self._under_way: Counter[AggregateId] = Counter()
        self._settled = asyncio.Event()

    @property
    def epoch(self) -> str:
        return self._inner.epoch

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        if not self._is_leading():
            raise Unavailable("this scheduler does not lead any more", what_to_do="try again: another one does")
        if aggregate.kind != KIND:
            return await self._inner.append(aggregate, payload, expected_revision)
        self._under_way[aggregate] += 1
        try:
            revision = await self._inner.append(aggregate, payload, expected_revision)
            self._own.add(revision)
            return revision
        finally:
            self._settle(aggregate)

    async def is_foreign(self, stored: Stored) -> bool:
        """Whether another process has written the entry of a run. Ask one at a time, and once for each."""
        while stored.revision not in self._own and stored.aggregate in self._under_way:
            # What is followed may be quicker than the acknowledgement of the append.
            self._settled.clear()
            await self._settled.wait()
        is_own = stored.revision in self._own
        self._own.discard(stored.revision)
        return not is_own

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        return await self._inner.read(aggregate, after_revision)

    async def last(self, aggregate: AggregateId) -> Stored | None:
        return await self._inner.last(aggregate)

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        return self._inner.last_of_each(kind)

    def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        return self._inner.follow(after_revision, kinds)

    async def head(self) -> int:
        return await self._inner.head()

    def _settle(self, aggregate: AggregateId) -> None:
        self._under_way[aggregate] -= 1
        if not self._under_way[aggregate]:
            del self._under_way[aggregate]
        self._settled.set()
