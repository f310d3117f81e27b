"""What goes wrong in a simulation: a log that loses its answers, and work that dies at any await.

Everything is drawn from one seeded source, on one event loop without timers, so a seed repeats its run.
"""

from __future__ import annotations

import types
from asyncio import CancelledError, sleep
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random
from typing import Any, TypeVar

from crewlog.domain.errors import Refused
from crewlog.eventlog.port import AggregateId, AppendInDoubt, Stored, WrongRevision
from crewlog.v1.entry_pb2 import Entry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each of them happens, from 0 to 1."""

    lost_appends: float = 0.0
    lost_answers: float = 0.0
    false_conflicts: float = 0.0
    deaths: float = 0.0
    strays: float = 0.0
    zombies: float = 0.0


NO_FAULTS = Faults()
MANY_FAULTS = Faults(0.02, 0.02, 0.02, 0.004, 0.1, 0.1)


class Killed(BaseException):
    """The process that did this is gone. Not an Exception: nobody who is dead handles anything."""


class FaultyLog:
    """An EventLog that answers late, or not at all, and may have stored the entry all the same."""

    def __init__(self, chance: Random, faults: Faults = NO_FAULTS) -> None:
        self.stored: list[Stored] = []
        self.conflicts = 0
        self.in_doubt = 0
        self._chance = chance
        self._faults = faults
        self._of: defaultdict[AggregateId, list[Stored]] = defaultdict(list)

    @property
    def epoch(self) -> str:
        return "simulated"

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        await self._delay()
        if self._happens(self._faults.lost_appends):
            self.in_doubt += 1
            raise AppendInDoubt("the entry was lost on its way")
        self._check_version(aggregate, expected_revision)
        stored = Stored(len(self.stored) + 1, aggregate, bytes(payload))
        self.stored.append(stored)
        self._of[aggregate].append(stored)
        await self._delay()
        self._lose_the_answer()
        return stored.revision

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        await self._delay()
        entries = self._of[aggregate]
        return entries[bisect_right(entries, after_revision, key=attrgetter("revision")) :]

    async def head(self) -> int:
        return len(self.stored)

    async def last(self, aggregate: AggregateId) -> Stored | None:
        await self._delay()
        entries = self._of[aggregate]
        return entries[-1] if entries else None

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        raise NotImplementedError("nobody looks at all of a kind in a simulation")

    def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        raise NotImplementedError("nobody follows in a simulation")

    def entries(self) -> list[Entry]:
        return [Entry.FromString(stored.payload) for stored in self.stored]

    def history(self, kind: str, id: str) -> list[Entry]:
        return [Entry.FromString(stored.payload) for stored in self._of[AggregateId("local", kind, id)]]

    def revision(self, kind: str, id: str) -> int:
        entries = self._of[AggregateId("local", kind, id)]
        return entries[-1].revision if entries else 0

    def _check_version(self, aggregate: AggregateId, expected_revision: int) -> None:
        entries = self._of[aggregate]
        if (entries[-1].revision if entries else 0) != expected_revision:
            self.conflicts += 1
            raise WrongRevision(f"{aggregate.subject} is not at {expected_revision}")

    def _lose_the_answer(self) -> None:
        if self._happens(self._faults.lost_answers):
            self.in_doubt += 1
            raise AppendInDoubt("the answer was lost on its way")
        if self._happens(self._faults.false_conflicts):
            self.conflicts += 1
            raise WrongRevision("the answer was lost, and the second try met the first")

    async def _delay(self) -> None:
        for _ in range(self._chance.randrange(3)):
            await sleep(0)

    def _happens(self, share: float) -> bool:
        return share > 0 and self._chance.random() < share


class CarelessLog(FaultyLog):
    """Takes every entry, whatever has happened to the aggregate since: with it nothing may be right."""

    def _check_version(self, aggregate: AggregateId, expected_revision: int) -> None:
        return


def lost_reservations(payload: bytes) -> bytes:
    """The entry without what its model calls have reserved."""
    entry = Entry.FromString(payload)
    for decision in entry.decisions:
        for event in decision.events:
            if event.HasField("model_call_started"):
                event.model_call_started.ClearField("reservation")
    return entry.SerializeToString()


class ForgetfulLog(FaultyLog):
    """Loses the reservations of what it stores."""

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        return await super().append(aggregate, lost_reservations(payload), expected_revision)


@types.coroutine
def mortal(work: Coroutine[Any, Any, T], dies: Callable[[], bool]) -> Generator[Any, Any, T]:
    """Does the work, and at each of its awaits asks whether it dies there; then raises Killed."""
    failure: BaseException | None = None
    while True:
        try:
            waits_for = work.send(None) if failure is None else work.throw(failure)
        except StopIteration as end:
            result: T = end.value
            return result
        if dies():
            work.close()
            raise Killed
        failure = None
        try:
            yield waits_for
        except (Refused, AppendInDoubt, WrongRevision, CancelledError) as raised:
            failure = raised
