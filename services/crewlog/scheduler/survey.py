"""What is open where nothing was remembered: the last entry of every run and budget says so, and no more is read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from crewlog.eventlog import codec
from crewlog.eventlog.port import EventLog, Stored
from crewlog.scheduler.checkpoint import Position
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import RunCancelled, RunFailed, RunRetried, RunSucceeded

_OVER = (RunSucceeded, RunFailed, RunCancelled)


async def survey(log: EventLog) -> Position:
    """As far as the log goes now. A run that is over may be among the open ones, where its last entry does not say."""
    head = await log.head()
    budgets = frozenset([stored.aggregate.id async for stored in _last_of_each(log, "budget")])
    open_runs = frozenset([stored.aggregate.id async for stored in _last_of_each(log, "run") if not says_over(stored)])
    return Position(head, open_runs, budgets)


def says_over(stored: Stored) -> bool:
    """Whether the entry closes its run."""
    return _last_turn(stored) in _OVER


async def _last_of_each(log: EventLog, kind: str) -> AsyncIterator[Stored]:
    async for batch in log.last_of_each(kind):
        for stored in batch:
            yield stored


def _last_turn(stored: Stored) -> type | None:
    """What the entry says last about whether its run is over; None where it says nothing of it."""
    facts = [type(fact) for fact in codec.known_facts((Entry.FromString(stored.payload),))]
    return next((fact for fact in reversed(facts) if fact in (*_OVER, RunRetried)), None)
