"""The log as each process reaches it: over the network, with answers that are late, lost, or never come.

The log itself is a MemoryLog, so that what is stored is stored once and in order. An entry that was given up on may
still arrive later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.port import AggregateId, AppendInDoubt, Stored, WrongRevision
from crewlog.v1.entry_pb2 import Entry

from tests.simulation.processes.loop import Process
from tests.simulation.processes.network import Network, pass_time

LOG = "log"
DOUBT_SECONDS = 5.0
READ_SECONDS = 5.0
T = TypeVar("T")


@dataclass(slots=True)
class LogFaults:
    """Each from 0 to 1."""

    lost: float = 0.0
    lost_answers: float = 0.0
    late: float = 0.0
    unavailable: float = 0.0
    false_conflicts: float = 0.0
    repeated: float = 0.0
    reordered: float = 0.0


class Disk(MemoryLog):
    """What is stored. The negative controls are kinds of it that do not do their part."""

    def __init__(self) -> None:
        super().__init__("simulated")
        self.stored: list[Stored] = []

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        revision = await super().append(aggregate, payload, expected_revision)
        self.stored.append(Stored(revision, aggregate, bytes(payload)))
        return revision

    def entries(self) -> list[Entry]:
        return [Entry.FromString(stored.payload) for stored in self.stored]

    def history(self, kind: str, id: str) -> list[Entry]:
        key = AggregateId("local", kind, id)
        return [Entry.FromString(stored.payload) for stored in self._of.get(key, [])]


class LogClient:
    """An EventLog for one process."""

    def __init__(self, network: Network, disk: Disk, process: Process, faults: LogFaults) -> None:
        self._network = network
        self._disk = disk
        self._process = process
        self._faults = faults

    @property
    def epoch(self) -> str:
        return self._disk.epoch

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        if self._happens(self._faults.unavailable):
            self._network.paths["log unavailable"] += 1
            raise Unavailable("the log takes no entries")
        sent = self._append(aggregate, bytes(payload), expected_revision)
        answer = await self._within(DOUBT_SECONDS, sent)
        if answer is None:
            self._network.paths["append in doubt"] += 1
            raise AppendInDoubt(f"no answer about {aggregate.subject}")
        if isinstance(answer, WrongRevision):
            self._network.paths["conflict"] += 1
            raise answer
        return answer

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        answer = await self._within(READ_SECONDS, self._read(aggregate, after_revision))
        if answer is None:
            raise Unavailable("the log does not answer")
        return answer

    async def last(self, aggregate: AggregateId) -> Stored | None:
        found = await self.read(aggregate)
        return found[-1] if found else None

    async def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        await self._network.leg(self._process.name, LOG)
        async for batch in self._disk.last_of_each(kind):
            await self._network.leg(LOG, self._process.name)
            yield batch

    async def head(self) -> int:
        answer = await self._within(READ_SECONDS, self._head())
        if answer is None:
            raise Unavailable("the log does not answer")
        return answer

    async def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        """In order within an aggregate. Across aggregates the entries of a batch may change places, and some come
        twice; the last one stays the last, as a reader goes on from there."""
        seen: list[Stored] = []
        async for batch in self._disk.follow(after_revision, kinds):
            await self._network.leg(LOG, self._process.name)
            yield self._disturbed(batch, seen)
            seen = list(batch)

    def _disturbed(self, batch: Sequence[Stored], seen: list[Stored]) -> Sequence[Stored]:
        before, last = list(batch[:-1]), batch[-1]
        if self._happens(self._faults.reordered):
            self._network.paths["delivery reordered"] += len(before) > 1
            before = self._mixed(before)
        if self._happens(self._faults.repeated):
            self._network.paths["delivery repeated"] += 1
            before = [*seen, *before, *before] * self._network.chance.choice((1, 1, 5))
        return [*before, last]

    def _mixed(self, entries: list[Stored]) -> list[Stored]:
        """Those of each aggregate stay in their order."""
        order = sorted({stored.aggregate.subject for stored in entries})
        self._network.chance.shuffle(order)
        return sorted(entries, key=lambda stored: order.index(stored.aggregate.subject))

    async def _append(self, aggregate: AggregateId, payload: bytes, expected: int) -> int | WrongRevision | None:
        await self._network.leg(self._process.name, LOG)
        if self._happens(self._faults.lost):
            self._network.paths["entry lost"] += 1
            return None
        if self._happens(self._faults.late):
            self._network.paths["entry late"] += 1
            await pass_time(DOUBT_SECONDS * (0.5 + self._network.chance.random() * 2))
        try:
            revision = await self._disk.append(aggregate, payload, expected)
        except WrongRevision as conflict:
            await self._network.leg(LOG, self._process.name)
            return conflict
        return await self._answered(revision)

    async def _answered(self, revision: int) -> int | WrongRevision | None:
        await self._network.leg(LOG, self._process.name)
        if self._happens(self._faults.lost_answers):
            self._network.paths["acknowledgement lost"] += 1
            return None
        if self._happens(self._faults.false_conflicts):
            self._network.paths["false conflict"] += 1
            return WrongRevision("the answer was lost, and the second try met the first")
        return revision

    async def _read(self, aggregate: AggregateId, after_revision: int) -> list[Stored]:
        await self._network.leg(self._process.name, LOG)
        found = await self._disk.read(aggregate, after_revision)
        await self._network.leg(LOG, self._process.name)
        return found

    async def _head(self) -> int:
        await self._network.leg(self._process.name, LOG)
        return await self._disk.head()

    async def _within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T | None:
        """What comes of it, or None when it takes too long; it goes on all the same."""
        going_on = self._network.spawn(work)
        done, _ = await asyncio.wait([going_on], timeout=seconds)
        if not done:
            return None
        answer: T = going_on.result()
        return answer

    def _happens(self, share: float) -> bool:
        return self._network.happens(share)
