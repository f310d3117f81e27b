"""The checks of histories see what they are for: each of these is one thing that must never be written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.conduct.invariants import violations
from crewlog.v1.agent_pb2 import (
    AgentParked,
    AgentStarted,
    AgentSucceeded,
    AgentTakenOver,
    AllotmentRaised,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelFailure,
    ReservationExceeded,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.budget_pb2 import (
    AllotmentSettled,
    AllotmentTaken,
    Amounts,
    BudgetLimitLowered,
    BudgetLimitRaised,
    BudgetPeriodBegun,
    BudgetSet,
    Limit,
    PeriodBounds,
    Reservation,
)
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    RunLimitLowered,
    RunLimitRaised,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskClaimLapsed,
    TaskParked,
    TaskSucceeded,
    TaskUnparked,
)
from google.protobuf.message import Message

from tests.domain.written import entries

STARTED = AgentStarted(allotment=Limit(usd_micros=100), generation=1)


def key(turn: int = 1, index: int = -1, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=attempt)


def call(reserved: int = 10, turn: int = 1, attempt: int = 1) -> ModelCallStarted:
    return ModelCallStarted(key=key(turn, attempt=attempt), reservation=Reservation(usd_micros=reserved))


def answered(cost: int = 10, turn: int = 1) -> ModelCallSucceeded:
    return ModelCallSucceeded(key=key(turn), answer=ModelAnswer(cost_usd_micros=cost))


TOOL, TOOL_DONE = ToolCallStarted(key=key(index=0)), ToolCallSucceeded(key=key(index=0))


@pytest.mark.parametrize(
    "facts",
    [
        [STARTED, call(), answered(), AgentSucceeded()],
        [STARTED, call(), answered(), TOOL, TOOL_DONE, call(turn=2), answered(turn=2), AgentSucceeded()],
        [STARTED, call(), (EffectPutInDoubt(key=key()), EffectReconciled(key=key())), call(attempt=2)],
    ],
)
def test_a_history_as_it_should_be(facts: Sequence[Message | tuple[Message, ...]]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([STARTED, answered()], "not open"),
        ([STARTED, call(), answered(), answered()], "not open"),
        ([STARTED, call(), call()], "begun again"),
        ([STARTED, call(), ModelCallFailed(key=key()), call()], "begun twice"),
        ([STARTED, call(), answered(), TOOL, call(turn=2)], "no outcome"),
        ([STARTED, call(reserved=101)], "above the allotment"),
        ([STARTED, call(reserved=60), answered(cost=60), call(reserved=41, turn=2)], "above the allotment"),
        ([STARTED, call(reserved=60), EffectPutInDoubt(key=key()), EffectReconciled(key=key()), call(41)], "above"),
        ([STARTED, AgentSucceeded(), call()], "follows the end"),
        ([STARTED, call(), AgentSucceeded()], "no outcome"),
        (
            [
                STARTED,
                TOOL,
                EffectReconciled(key=key(index=0), resolution=EffectReconciled.RESOLUTION_RUN_AGAIN),
                TOOL_DONE,
            ],
            "not open",
        ),
    ],
)
def test_what_must_never_be_written_to_an_agent_is_seen(facts: Sequence[Message], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


def test_allotments_above_the_budget_are_seen() -> None:
    started = RunStarted(budget=Limit(usd_micros=100))
    claims = [TaskClaimed(task_id=f"t-{n}", allotment=Limit(usd_micros=51), generation=1) for n in (1, 2)]
    assert any("above the budget" in what for what in violations(entries(started, *claims, kind="run")))
    assert any("end" in what for what in violations(entries(started, RunSucceeded(), claims[0], kind="run")))


def test_a_gap_and_an_older_generation_are_seen() -> None:
    first, second = entries(STARTED, call())
    assert any("follows entry 0" in what for what in violations([second]))
    older = Entry()
    older.CopyFrom(second)
    older.generation = 0
    assert any("generation 0" in what for what in violations([first, older]))


RUN = RunStarted(budget=Limit(usd_micros=100))
CLAIM = TaskClaimed(task_id="t-1", allotment=Limit(usd_micros=60), generation=1)
LAPSE = TaskClaimLapsed(task_id="t-1", generation=1)
AGAIN = TaskClaimed(task_id="t-1", allotment=Limit(usd_micros=60), generation=2)
BUDGET = BudgetSet(limit=Limit(usd_micros=100))
DAY = PeriodBounds(start_unix_micros=5, end_unix_micros=9)
CHARGED = ModelFailure(may_have_charged=True)
OVER = Amounts(usd_micros=10)


def usd(amount: int) -> Amounts:
    return Amounts(usd_micros=amount)


def grown(by: int, number: int = 1) -> AllotmentGrown:
    return AllotmentGrown(task_id="t-1", number=number, by=usd(by))


def taken(amount: int, id: str = "a", number: int = 1) -> AllotmentTaken:
    return AllotmentTaken(allotment_id=id, number=number, amounts=usd(amount))


def settled(spent: int, id: str = "a") -> AllotmentSettled:
    return AllotmentSettled(allotment_id=id, spent=usd(spent))


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("run", [RUN, CLAIM, grown(40), RunLimitRaised(by=usd(10)), grown(10, 2)]),
        ("run", [RUN, CLAIM, RunLimitLowered(by=usd(90)), LAPSE, AGAIN]),
        ("run", [RUN, CLAIM, AllotmentShrunk(task_id="t-1", allotment=Limit(usd_micros=1))]),
        ("run", [RUN, CLAIM, TaskParked(task_id="t-1"), TaskUnparked(task_id="t-1"), AGAIN]),
        ("budget", [BUDGET, taken(60), taken(40, number=2), settled(120), BudgetLimitRaised(by=usd(30)), taken(10)]),
        ("budget", [BUDGET, taken(60), BudgetLimitLowered(by=usd(90)), settled(60)]),
        ("budget", [BUDGET, taken(60), settled(60), BudgetPeriodBegun(bounds=DAY, spent=usd(60)), taken(100)]),
        ("agent", [STARTED, call(60), ModelCallFailed(key=key()), call(100, attempt=2)]),
        ("agent", [STARTED, call(60), answered(70), ReservationExceeded(key=key(), over=OVER)]),
        ("agent", [STARTED, AllotmentRaised(allotment=Limit(usd_micros=200), run_revision=3), call(200)]),
        ("agent", [STARTED, AgentParked(), AgentTakenOver(generation=2), call()]),
    ],
)
def test_money_as_it_should_be(kind: str, facts: Sequence[Message]) -> None:
    assert list(violations(entries(*facts, kind=kind))) == []


@pytest.mark.parametrize(
    ("kind", "facts", "word"),
    [
        ("run", [RUN, CLAIM, grown(41)], "above the budget"),
        ("run", [RUN, CLAIM, RunLimitLowered(by=usd(50)), grown(1)], "above the budget"),
        ("run", [RUN, CLAIM, grown(1), grown(1)], "follows growth"),
        ("run", [RUN, grown(1)], "holds nothing"),
        ("run", [RUN, CLAIM, AllotmentShrunk(task_id="t-1", allotment=Limit(usd_micros=61))], "more than it held"),
        ("run", [RUN, CLAIM, TaskParked(task_id="t-1"), AGAIN], "while it waits"),
        ("run", [RUN, CLAIM, TaskUnparked(task_id="t-1")], "did not wait"),
        ("run", [RUN, CLAIM, TaskSucceeded(task_id="t-1"), TaskSucceeded(task_id="t-1")], "ends again"),
        ("run", [RUN, TaskClaimed(task_id="t-1", allotment=Limit(model_calls=1))], "without limit"),
        ("budget", [BUDGET, taken(101)], "above the limit"),
        ("budget", [BUDGET, taken(60), taken(41, "b")], "above the limit"),
        ("budget", [BUDGET, taken(60), settled(60), taken(41)], "above the limit"),
        ("budget", [BUDGET, BudgetLimitLowered(by=usd(50)), taken(51)], "above the limit"),
        ("budget", [BUDGET, taken(60), BudgetPeriodBegun(bounds=DAY), taken(41, "b")], "above the limit"),
        ("budget", [BUDGET, taken(1), taken(1)], "follows number"),
        ("budget", [BUDGET, taken(1), settled(1), settled(1)], "is not open"),
        ("budget", [BUDGET, BudgetPeriodBegun(bounds=DAY, spent=usd(1))], "came to"),
        ("budget", [BUDGET, BudgetPeriodBegun(bounds=DAY), BudgetPeriodBegun(bounds=DAY)], "follows that"),
        ("agent", [STARTED, call(60), ModelCallFailed(key=key(), failure=CHARGED), call(41, attempt=2)], "above"),
        ("agent", [STARTED, AllotmentRaised(allotment=Limit(usd_micros=9), run_revision=3), call(10)], "above"),
        ("agent", [STARTED, *[AllotmentRaised(run_revision=3)] * 2], "run revision 3"),
        ("agent", [STARTED, call(60), answered(70), ReservationExceeded(key=key())], "the alarm says"),
        ("agent", [STARTED, AgentParked(), call()], "while the agent waits"),
        ("agent", [STARTED, call(), AgentParked()], "no outcome"),
        ("agent", [AgentStarted(allotment=Limit(model_calls=1)), call(), answered(), call(turn=2)], "model_calls"),
    ],
)
def test_money_that_must_never_be_written_is_seen(kind: str, facts: Sequence[Message], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts, kind=kind)))
