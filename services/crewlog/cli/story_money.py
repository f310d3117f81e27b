"""What is told about money: budgets, allotments and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crewlog.cli import budgeting, wording
from crewlog.cli.lines import Line, Tone
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1 import budget_pb2 as budget
from crewlog.v1 import run_pb2 as run
from google.protobuf.message import Message

Teller = Callable[[str, Any], Iterator[Line]]
"""Gets whom the entry is about: a task for an agent's, `run` for a run's, the id of a budget for a budget's."""


def _allotment_grown(_: str, fact: run.AllotmentGrown) -> Iterator[Line]:
    yield Line(fact.task_id, f"may spend {budgeting.in_words(fact.by)} more", Tone.DETAIL)


def _allotment_shrunk(_: str, fact: run.AllotmentShrunk) -> Iterator[Line]:
    yield Line(fact.task_id, f"may spend only {budgeting.in_words(fact.allotment)} now")


def _run_raised(who: str, fact: run.RunLimitRaised) -> Iterator[Line]:
    if fact.number:
        yield Line(who, f"its parent gives {budgeting.in_words(fact.by)} more", Tone.DETAIL)
    else:
        yield from _raised(who, fact)


def _raised(who: str, fact: run.RunLimitRaised | budget.BudgetLimitRaised) -> Iterator[Line]:
    yield Line(who, f"limit raised by {budgeting.in_words(fact.by)}", Tone.GOOD)


def _lowered(who: str, fact: run.RunLimitLowered | budget.BudgetLimitLowered) -> Iterator[Line]:
    yield Line(who, f"limit lowered by {budgeting.in_words(fact.by)}", Tone.BAD)


def _warned(who: str, fact: run.RunBudgetWarned | budget.BudgetWarned) -> Iterator[Line]:
    yield Line(who, f"{fact.percent} % of the limit is used", Tone.BAD)


def _allotment_raised(who: str, fact: agent.AllotmentRaised) -> Iterator[Line]:
    yield Line(who, f"may spend {budgeting.in_words(fact.allotment)} now", Tone.DETAIL)


def _reservation_exceeded(who: str, fact: agent.ReservationExceeded) -> Iterator[Line]:
    text = f"turn {fact.key.turn}: used {budgeting.in_words(fact.over)} more than was reserved"
    yield Line(who, text, Tone.BAD)


def _budget_set(who: str, fact: budget.BudgetSet) -> Iterator[Line]:
    below = f", below {fact.parent_id}" if fact.parent_id else ""
    yield Line(who, wording.plain(f"budget set: at most {budgeting.in_words(fact.limit)}{below}"))


def _budget_period_begun(who: str, fact: budget.BudgetPeriodBegun) -> Iterator[Line]:
    yield Line(who, f"a new period begins; the last one came to {budgeting.in_words(fact.spent)}")


def _allotment_taken(who: str, fact: budget.AllotmentTaken) -> Iterator[Line]:
    text = f"gives {budgeting.in_words(fact.amounts)} to {fact.allotment_id}"
    yield Line(who, wording.plain(text), Tone.DETAIL)


def _allotment_settled(who: str, fact: budget.AllotmentSettled) -> Iterator[Line]:
    text = f"{fact.allotment_id} has spent {budgeting.in_words(fact.spent)}; the rest returns"
    yield Line(who, wording.plain(text), Tone.DETAIL)


def _budget_overdrawn(who: str, fact: budget.BudgetOverdrawn) -> Iterator[Line]:
    yield Line(who, f"{budgeting.in_words(fact.over)} more is spent than the limit", Tone.BAD)


TELLERS: Mapping[type[Message], Teller] = {
    run.AllotmentGrown: _allotment_grown,
    run.AllotmentShrunk: _allotment_shrunk,
    run.RunLimitRaised: _run_raised,
    run.RunLimitLowered: _lowered,
    run.RunBudgetWarned: _warned,
    agent.AllotmentRaised: _allotment_raised,
    agent.ReservationExceeded: _reservation_exceeded,
    budget.BudgetSet: _budget_set,
    budget.BudgetLimitRaised: _raised,
    budget.BudgetLimitLowered: _lowered,
    budget.BudgetPeriodBegun: _budget_period_begun,
    budget.AllotmentTaken: _allotment_taken,
    budget.AllotmentSettled: _allotment_settled,
    budget.BudgetWarned: _warned,
    budget.BudgetOverdrawn: _budget_overdrawn,
}
