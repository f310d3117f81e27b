"""What the scheduler decides about a run at one moment becomes one entry of its log."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run_state import Run
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from google.protobuf.message import Message

PRINCIPAL = "service:scheduler"

Outcomes = Sequence[Outcome[Run] | BaseException]


class Entries:
    """Command ids name the start of this process, so that they are never those of another one."""

    def __init__(self, owner: Owner[Run], clock: Clock) -> None:
        self._owner = owner
        self._boot = f"{clock():x}"
        self._numbers = itertools.count(1)

    async def store(self, run_id: str, commands: Sequence[Message]) -> list[Outcome[Run] | BaseException]:
        """All of them wait for the owner at the same moment, so they become one entry."""
        handled = (self._owner.handle(run_id, command, self._meta(run_id)) for command in commands)
        return list(await asyncio.gather(*handled, return_exceptions=True))

    def _meta(self, run_id: str) -> Meta:
        return Meta(f"{self._boot}-{next(self._numbers)}", PRINCIPAL, correlation_id=run_id)


def raise_unless_refused(outcomes: Outcomes) -> None:
    """A refusal is an answer. That the log does not answer is none, and anything else is a bug."""
    for outcome in outcomes:
        if isinstance(outcome, (Unavailable, Contention)) or (
            isinstance(outcome, BaseException) and not isinstance(outcome, Refused)
        ):
            raise outcome
