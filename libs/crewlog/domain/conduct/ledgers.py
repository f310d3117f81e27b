"""The money in a history, added up from its facts alone: what is open, what is spent, and what the limit is.

A ledger objects only to a fact that adds above a limit, or that gives back what is not there. That a limit is lowered
below what is spent, or that a provider reports more than was reserved, is no fault of whoever wrote it down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from crewlog.v1 import budget_pb2
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AllotmentRaised,
    EffectKey,
    EffectPutInDoubt,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ReservationExceeded,
)
from crewlog.v1.budget_pb2 import (
    AllotmentSettled,
    AllotmentTaken,
    BudgetLimitLowered,
    BudgetLimitRaised,
    BudgetPeriodBegun,
    BudgetSet,
)
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    ChildRunRequested,
    ChildSpawned,
    RunLimitLowered,
    RunLimitRaised,
    RunRetried,
    RunStarted,
    TaskCancelled,
    TaskClaimed,
    TaskFailed,
    TaskParked,
    TaskRetried,
    TaskSucceeded,
    TaskUnparked,
)
from google.protobuf.message import Message

_UNITS = ("usd_micros", "input_tokens", "output_tokens", "model_calls")
_Sum = dict[str, int]


class Ledger(Protocol):
    def enter(self, fact: Message) -> Iterator[str]:
        """Adds a fact; one sentence for each thing that does not hold. Facts that are not about money pass."""


@dataclass(slots=True)
class AgentLedger:
    """The allotment of an agent, what it has spent, and what its open calls have reserved."""

    limit: _Sum = field(default_factory=dict)
    revision: int = 0
    spent: _Sum = field(default_factory=dict)
    open: dict[tuple[int, int, int], _Sum] = field(default_factory=dict)
    exceeded: _Sum = field(default_factory=dict)

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case AgentStarted():
                self.limit = _sum(fact.allotment)
            case AllotmentRaised():
                if fact.run_revision <= self.revision:
                    yield f"the allotment of run revision {fact.run_revision} follows that of {self.revision}"
                self.limit, self.revision = _sum(fact.allotment), fact.run_revision
            case ModelCallStarted():
                yield from self._reserve(fact)
            case ModelCallSucceeded():
                yield from self._answered(fact)
            case ModelCallFailed():
                lost = self.open.pop(_place(fact.key), {})
                self.spent = _plus(self.spent, lost if fact.failure.may_have_charged else {})
            case EffectPutInDoubt():
                self.spent = _plus(self.spent, self.open.pop(_place(fact.key), {}))
            case ReservationExceeded():
                yield from self._alarmed(fact)

    def _reserve(self, fact: ModelCallStarted) -> Iterator[str]:
        reserved = {
            "usd_micros": fact.reservation.usd_micros,
            "input_tokens": fact.reservation.input_tokens_max,
            "output_tokens": fact.reservation.output_tokens_max,
            "model_calls": 1,
        }
        self.open[_place(fact.key)] = reserved
        used = _plus(self.spent, *self.open.values())
        yield from _above(self.limit, used, reserved, "is reserved above the allotment")

    def _answered(self, fact: ModelCallSucceeded) -> Iterator[str]:
        usage = fact.answer.usage
        used = {
            "usd_micros": fact.answer.cost_usd_micros,
            "input_tokens": usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
            "output_tokens": usage.output_tokens,
            "model_calls": 1,
        }
        reserved = self.open.pop(_place(fact.key), {})
        self.exceeded = {unit: max(0, used[unit] - reserved.get(unit, 0)) for unit in _UNITS}
        self.spent = _plus(self.spent, used)
        yield from ()

    def _alarmed(self, fact: ReservationExceeded) -> Iterator[str]:
        if _sum(fact.over) != self.exceeded:
            yield f"the alarm says {_said(_sum(fact.over))}, and the answer was {_said(self.exceeded)} over"


@dataclass(slots=True)
class RunLedger:
    """The limit of a run, what its tasks have spent, and what those that have not ended hold. `child_runs` are what the
    tasks that are runs of their own may spend, `said` what they had come to when they ended last."""

    limit: _Sum = field(default_factory=dict)
    spent: _Sum = field(default_factory=dict)
    held: dict[str, _Sum] = field(default_factory=dict)
    growths: dict[str, int] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    child_runs: dict[str, _Sum] = field(default_factory=dict)
    said: dict[str, _Sum] = field(default_factory=dict)

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case RunStarted():
                self.limit = _sum(fact.budget)
            case RunLimitRaised():
                self.limit = _plus(self.limit, _sum(fact.by))
            case RunLimitLowered():
                self.limit = _lowered(self.limit, _sum(fact.by))
            case TaskClaimed():
                yield from self._claimed(fact)
            case AllotmentGrown():
                yield from self._grown(fact)
            case AllotmentShrunk():
                yield from self._shrunk(fact)
            case TaskParked():
                self.parked.add(fact.task_id)
            case TaskUnparked():
                yield from self._unparked(fact)
            case TaskSucceeded() | TaskFailed() | TaskCancelled():
                yield from self._ended(fact)
            case ChildRunRequested():
                self.child_runs[fact.task_id] = _sum(fact.allotment)
                yield from self._given(fact.task_id)
            case ChildSpawned():
                yield from self._shared(fact)
            case TaskRetried():
                node_id, _, visit = fact.task_id.rpartition("-")
                self.parked.add(f"{node_id}-{int(visit) + 1}")
            case RunRetried():
                self._taken_up(fact)

    def _given(self, task_id: str) -> Iterator[str]:
        self.held[task_id] = allotment = self.child_runs[task_id]
        yield from self._above(allotment, f"the allotment of child run {task_id} goes above the budget")

    def _shared(self, fact: ChildSpawned) -> Iterator[str]:
        """A child has its share from its parent, and nothing else."""
        share, before = _sum(fact.allotment), self.held.get(fact.task_id, {})
        if any(_minus(share, before).values()):
            yield f"task {fact.task_id} gives {fact.node_id} more than it holds"
        self.held[fact.task_id] = {unit: before.get(unit, 0) - share[unit] for unit in _UNITS}
        self.held[f"{fact.node_id}-1"] = share

    def _taken_up(self, fact: RunRetried) -> None:
        """What a task takes up again that has ended, it says in all when it ends again."""
        self.ended.difference_update(fact.task_ids)
        for task_id in self.child_runs.keys() & set(fact.task_ids):
            self.held[task_id] = self._beyond(task_id, self.child_runs[task_id])

    def _beyond(self, task_id: str, allotment: _Sum) -> _Sum:
        """What it holds beyond what it has said already, and is spent."""
        said = self.said.get(task_id, {})
        return {unit: allotment[unit] - said.get(unit, 0) for unit in _UNITS}

    def _claimed(self, fact: TaskClaimed) -> Iterator[str]:
        if fact.task_id in self.parked and not fact.to_close:
            yield f"task {fact.task_id} is claimed while it waits"
        if fact.task_id in self.ended:
            yield f"task {fact.task_id} is claimed after its end"
        allotment = _sum(fact.allotment)
        added = _minus(allotment, self.held.get(fact.task_id, {}))
        if any(allotment.values()) and any(self.limit.get(unit) and not allotment[unit] for unit in _UNITS):
            yield f"task {fact.task_id} may spend without limit what the run limits"
        self.parked.discard(fact.task_id)
        self.held[fact.task_id] = allotment
        yield from self._above(added, f"the allotment of task {fact.task_id} goes above the budget")

    def _grown(self, fact: AllotmentGrown) -> Iterator[str]:
        if fact.number <= self.growths.get(fact.task_id, 0):
            yield f"growth {fact.number} of task {fact.task_id} follows growth {self.growths[fact.task_id]}"
        if fact.task_id not in self.held:
            yield f"task {fact.task_id} grows and holds nothing"
        by = _sum(fact.by)
        self.growths[fact.task_id] = fact.number
        self.held[fact.task_id] = _plus(self.held.get(fact.task_id, {}), by)
        if fact.task_id in self.child_runs:
            self.child_runs[fact.task_id] = _plus(self.child_runs[fact.task_id], by)
        yield from self._above(by, f"the growth of task {fact.task_id} goes above the budget")

    def _shrunk(self, fact: AllotmentShrunk) -> Iterator[str]:
        smaller = _sum(fact.allotment)
        if any(_minus(smaller, self.child_runs.get(fact.task_id, self.held.get(fact.task_id, {}))).values()):
            yield f"task {fact.task_id} shrinks to more than it held"
        self.held[fact.task_id] = self._beyond(fact.task_id, smaller)
        if fact.task_id in self.child_runs:
            self.child_runs[fact.task_id] = smaller

    def _unparked(self, fact: TaskUnparked) -> Iterator[str]:
        if fact.task_id not in self.parked:
            yield f"task {fact.task_id} goes on and did not wait"
        self.parked.discard(fact.task_id)

    def _ended(self, fact: TaskSucceeded | TaskFailed | TaskCancelled) -> Iterator[str]:
        if fact.task_id in self.ended:
            yield f"task {fact.task_id} ends again"
        self.ended.add(fact.task_id)
        self.parked.discard(fact.task_id)
        self.held.pop(fact.task_id, None)
        spent, before = _sum(fact.result.spent), self.said.get(fact.task_id, {})
        self.spent = {unit: self.spent.get(unit, 0) + spent[unit] - before.get(unit, 0) for unit in _UNITS}
        if fact.task_id in self.child_runs:
            self.said[fact.task_id] = spent

    def _above(self, added: _Sum, what: str) -> Iterator[str]:
        yield from _above(self.limit, _plus(self.spent, *self.held.values()), added, what)


@dataclass(slots=True)
class BudgetLedger:
    """The limit of a budget, what was spent in the period, and what its open allotments hold."""

    limit: _Sum = field(default_factory=dict)
    spent: _Sum = field(default_factory=dict)
    held: dict[str, _Sum] = field(default_factory=dict)
    total: _Sum = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    period_start: int = 0

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case BudgetSet():
                self.limit = _sum(fact.limit)
            case BudgetLimitRaised():
                self.limit = _plus(self.limit, _sum(fact.by))
            case BudgetLimitLowered():
                self.limit = _lowered(self.limit, _sum(fact.by))
            case BudgetPeriodBegun():
                yield from self._begun(fact)
            case AllotmentTaken():
                yield from self._taken(fact)
            case AllotmentSettled():
                yield from self._settled(fact)

    def _begun(self, fact: BudgetPeriodBegun) -> Iterator[str]:
        if fact.bounds.start_unix_micros <= self.period_start:
            yield f"the period from {fact.bounds.start_unix_micros} follows that from {self.period_start}"
        if _sum(fact.spent) != _plus(self.spent):
            yield f"the period before came to {_said(self.spent)}, not to {_said(_sum(fact.spent))}"
        self.period_start, self.spent = fact.bounds.start_unix_micros, {}

    def _taken(self, fact: AllotmentTaken) -> Iterator[str]:
        taken, id = _sum(fact.amounts), fact.allotment_id
        if fact.number <= self.numbers.get(id, 0):
            yield f"number {fact.number} of allotment {id} follows number {self.numbers[id]}"
        self.numbers[id] = fact.number
        self.held[id] = _plus(self.held.get(id, {}), taken)
        self.total = _plus(self.total, taken)
        yield from _above(self.limit, _plus(self.spent, self.total), taken, f"allotment {id} goes above the limit")

    def _settled(self, fact: AllotmentSettled) -> Iterator[str]:
        if fact.allotment_id not in self.held:
            yield f"allotment {fact.allotment_id} is settled and is not open"
        held = self.held.pop(fact.allotment_id, {})
        self.numbers.pop(fact.allotment_id, None)
        self.total = {unit: self.total.get(unit, 0) - held.get(unit, 0) for unit in _UNITS}
        self.spent = _plus(self.spent, _sum(fact.spent))


def _sum(message: budget_pb2.Amounts | budget_pb2.Limit) -> _Sum:
    return {unit: getattr(message, unit) for unit in _UNITS}


def _plus(*sums: _Sum) -> _Sum:
    return {unit: sum(other.get(unit, 0) for other in sums) for unit in _UNITS}


def _minus(sum: _Sum, other: _Sum) -> _Sum:
    """What there is more of."""
    return {unit: max(0, sum.get(unit, 0) - other.get(unit, 0)) for unit in _UNITS}


def _lowered(limit: _Sum, by: _Sum) -> _Sum:
    """A unit that is limited stays limited."""
    return {unit: max(1, limit[unit] - by[unit]) if limit.get(unit) else 0 for unit in _UNITS}


def _above(limit: _Sum, used: _Sum, added: _Sum, what: str) -> Iterator[str]:
    """Only what adds to a unit can go above its limit; 0 is no limit."""
    for unit in _UNITS:
        if limit.get(unit) and added.get(unit) and used[unit] > limit[unit]:
            yield f"{what}: {used[unit]} {unit}, and the limit is {limit[unit]}"


def _place(key: EffectKey) -> tuple[int, int, int]:
    return key.turn, key.index, key.attempt


def _said(sum: _Sum) -> str:
    return ", ".join(f"{sum[unit]} {unit}" for unit in _UNITS if sum.get(unit)) or "nothing"
