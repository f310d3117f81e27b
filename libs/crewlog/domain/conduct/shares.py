"""The money of runs that are tasks of others, as histories show it.

A child run begins with an allotment that its task has, and from then on its limit changes only after that allotment
has: to what it was after the change that is named, and once for each. So it never has more than its parent has given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from crewlog.domain import budget
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    ChildRunRequested,
    RunLimitLowered,
    RunLimitRaised,
    RunStarted,
)
from google.protobuf.message import Message


class Flow(Protocol):
    """What a run does."""

    @property
    def shares(self) -> ShareConduct:
        """What it has given to its child runs."""


class Other(Protocol):
    """Another run of the same log."""

    @property
    def flow(self) -> Flow:
        """What it does."""


@dataclass(slots=True)
class ShareConduct:
    """`given` are the allotments of the tasks that are runs of their own, one after the other; `parent` is what this
    run was given, where it is one, and the log has its parent; `followed` is the latest change that it knows."""

    given: dict[str, list[Amounts]] = field(default_factory=dict)
    parent: list[Amounts] | None = None
    limit: Amounts = ZERO
    followed: int = 0
    named: int = 0

    def enter(self, fact: Message, runs: Mapping[str, Other]) -> Iterator[str]:
        match fact:
            case ChildRunRequested():
                self.given[fact.task_id] = [Amounts.of(fact.allotment)]
            case AllotmentGrown() if fact.task_id in self.given:
                self.given[fact.task_id].append(self.given[fact.task_id][-1] + Amounts.of(fact.by))
            case AllotmentShrunk() if fact.task_id in self.given:
                self.given[fact.task_id].append(Amounts.of(fact.allotment))
            case RunStarted() if fact.parent.run_id in runs:
                yield from self._start(fact, runs[fact.parent.run_id])
            case RunLimitRaised() | RunLimitLowered() if self.parent is not None:
                yield from self._change(fact)

    def _start(self, fact: RunStarted, parent: Other) -> Iterator[str]:
        self.parent, self.limit = parent.flow.shares.given.get(fact.parent.task_id), Amounts.of(fact.budget)
        if self.parent is not None and self.limit not in self.parent:
            yield f"begins with {self.limit}, and its task was given {self.parent[-1]}"

    def _change(self, fact: RunLimitRaised | RunLimitLowered) -> Iterator[str]:
        """A rise and a fall of several units may stand together under one number."""
        by = Amounts.of(fact.by)
        if not fact.number:
            yield "its limit changes, and not as its parent's allotment"
        elif fact.number <= self.followed:
            yield f"follows change {fact.number} of its allotment again"
        self.limit = self.limit + by if isinstance(fact, RunLimitRaised) else budget.lowered(self.limit, by)
        self.named = max(self.named, fact.number)

    def end_of_entry(self) -> Iterator[str]:
        if self.parent is None or self.named == self.followed:
            return
        self.followed = self.named
        if self.followed >= len(self.parent):
            yield f"follows change {self.followed} of its allotment, of which {len(self.parent) - 1} have been made"
        elif self.limit != self.parent[self.followed]:
            yield f"has a limit of {self.limit}, and its allotment is {self.parent[self.followed]}"
