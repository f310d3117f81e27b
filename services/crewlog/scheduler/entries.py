"""What the scheduler decides about a run at one moment becomes one entry of its log.

It has to see what its commands lead to before it knows the last of them, so it decides them here, and the owner decides
again only where somebody else's command came in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress

from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run import decider as rules
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Clock, Foreseen, Meta, Outcome, Owner, Request
from google.protobuf.message import Message

PRINCIPAL = "service:scheduler"

Outcomes = Sequence[Outcome[Run] | BaseException]


class Draft:
    """Commands on a run, one after the other, and the state that they lead to; what will be refused changes nothing."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.commands: list[tuple[Message, Foreseen[Run] | None]] = []

    def add(self, commands: Sequence[Message]) -> None:
        for command in commands:
            self.commands.append((command, self._foreseen(command)))

    def _foreseen(self, command: Message) -> Foreseen[Run] | None:
        with suppress(Refused):
            before = self.run
            events, self.run = rules.decide_and_evolve(before, command)  # type: ignore[arg-type]
            return Foreseen(before, events, self.run)
        return None


class Entries:
    """Command ids name the start of this process, so that they are never those of another one."""

    def __init__(self, owner: Owner[Run], clock: Clock) -> None:
        self._owner = owner
        self._boot = f"{clock():x}"
        self._numbers = itertools.count(1)

    async def store(self, run_id: str, draft: Draft) -> list[Outcome[Run] | BaseException]:
        requests = [Request(command, self._meta(run_id), foreseen) for command, foreseen in draft.commands]
        return await self._owner.handle_together(run_id, requests)

    def _meta(self, run_id: str) -> Meta:
        return Meta(f"{self._boot}-{next(self._numbers)}", PRINCIPAL, correlation_id=run_id)


def raise_unless_refused(outcomes: Outcomes) -> None:
    """A refusal is an answer. That the log does not answer is none, and anything else is a bug."""
    for outcome in outcomes:
        if isinstance(outcome, (Unavailable, Contention)) or (
            isinstance(outcome, BaseException) and not isinstance(outcome, Refused)
        ):
            raise outcome
