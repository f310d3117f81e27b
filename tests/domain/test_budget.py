"""Tables of the rules of budgets: given the commands, when the command, then the events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain import budget
from crewlog.domain.amounts import AMOUNT_MAX
from crewlog.domain.amounts import Amounts as Sum
from crewlog.domain.budget import Budget
from crewlog.domain.decider import fold
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, NotFound, Refused
from crewlog.v1.budget_pb2 import (
    AllotmentSettled,
    AllotmentTaken,
    Amounts,
    BudgetLimitLowered,
    BudgetLimitRaised,
    BudgetOverdrawn,
    BudgetPeriodBegun,
    BudgetSet,
    BudgetWarned,
    Limit,
    LowerBudget,
    Period,
    PeriodBounds,
    RaiseBudget,
    SetBudget,
    SettleAllotment,
    TakeAllotment,
)
from google.protobuf.message import Message

MONDAY, TUESDAY = PeriodBounds(start_unix_micros=10, end_unix_micros=20), PeriodBounds(start_unix_micros=20)


def set_to(usd: int = 100, **changes: object) -> SetBudget:
    fields: dict[str, object] = {"budget_id": "tenant", "limit": Limit(usd_micros=usd), **changes}
    return SetBudget(**fields)  # type: ignore[arg-type]


def take(usd: int, id: str = "r_a-1", number: int = 1, bounds: PeriodBounds | None = None) -> TakeAllotment:
    return TakeAllotment(allotment_id=id, number=number, amounts=Amounts(usd_micros=usd), bounds=bounds)


def settle(usd: int, id: str = "r_a-1", bounds: PeriodBounds | None = None) -> SettleAllotment:
    return SettleAllotment(allotment_id=id, spent=Amounts(usd_micros=usd), bounds=bounds)


def raised(usd: int = 10, request_id: str = "") -> RaiseBudget:
    return RaiseBudget(budget_id="tenant", by=Amounts(usd_micros=usd), request_id=request_id)


def lower(usd: int = 10, request_id: str = "") -> LowerBudget:
    return LowerBudget(budget_id="tenant", by=Amounts(usd_micros=usd), request_id=request_id)


def after(*commands: budget.Command) -> Budget:
    state = budget.INITIAL
    for command in commands:
        state = fold(budget, budget.decide(state, command), state)
    return state


DAILY = set_to(period=Period.PERIOD_DAY, bounds=MONDAY)
TOKENS = RaiseBudget(budget_id="tenant", by=Amounts(input_tokens=5))


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ((), set_to(), [BudgetSet]),
        ((set_to(),), set_to(), []),
        ((set_to(),), set_to(200), [BudgetSet]),
        ((), set_to(0), InvalidCommand),
        ((), set_to(-1), InvalidCommand),
        ((), set_to(AMOUNT_MAX + 1), InvalidCommand),
        ((), set_to(warn_percents=[0]), InvalidCommand),
        ((), set_to(warn_percents=[101]), InvalidCommand),
        ((), set_to(warn_percents=range(1, 12)), InvalidCommand),
        ((), raised(), NotFound),
        ((), lower(), NotFound),
        ((set_to(),), raised(), [BudgetLimitRaised]),
        ((set_to(),), raised(0), InvalidCommand),
        ((set_to(),), raised(-5), InvalidCommand),
        ((set_to(),), raised(AMOUNT_MAX), InvalidCommand),
        ((set_to(),), TOKENS, InvalidCommand),
        ((set_to(), raised(request_id="q")), raised(request_id="q"), []),
        ((set_to(), raised(request_id="q")), raised(request_id="p"), [BudgetLimitRaised]),
        ((set_to(), raised()), raised(), [BudgetLimitRaised]),
        ((set_to(),), lower(), [BudgetLimitLowered]),
        ((set_to(AMOUNT_MAX),), lower(AMOUNT_MAX), [BudgetLimitLowered]),
        ((set_to(), lower(request_id="q")), lower(request_id="q"), []),
        ((set_to(), take(40), settle(40)), lower(70), [BudgetLimitLowered, BudgetWarned, BudgetOverdrawn]),
        ((), take(40), []),
        ((set_to(),), take(40), [AllotmentTaken]),
        ((set_to(),), take(100), [AllotmentTaken, BudgetWarned]),
        ((set_to(),), take(101), BudgetExceeded),
        ((set_to(),), take(-1), InvalidCommand),
        ((set_to(), take(40)), take(40), []),
        ((set_to(), take(40)), take(30, number=2), [AllotmentTaken]),
        ((set_to(), take(40)), take(61, number=2), BudgetExceeded),
        ((set_to(), take(40)), take(61, "r_b-1"), BudgetExceeded),
        ((set_to(), take(40), settle(40)), take(61, "r_b-1"), BudgetExceeded),
        ((set_to(), take(100), settle(1)), take(99, "r_b-1"), [AllotmentTaken]),
        ((set_to(), take(40)), settle(10), [AllotmentSettled]),
        ((set_to(), take(40)), settle(-1), InvalidCommand),
        ((set_to(), take(40), settle(10)), settle(10), []),
        ((set_to(),), settle(10), []),
        ((set_to(), take(40)), settle(110), [AllotmentSettled, BudgetWarned, BudgetOverdrawn]),
        ((DAILY, take(90, bounds=MONDAY), settle(90)), take(20, bounds=MONDAY), BudgetExceeded),
        ((DAILY, take(90), settle(90)), take(20, bounds=TUESDAY), [BudgetPeriodBegun, AllotmentTaken]),
        ((DAILY, take(90)), take(20, "r_b-1", bounds=TUESDAY), BudgetExceeded),
        ((DAILY, take(90)), settle(50, bounds=TUESDAY), [BudgetPeriodBegun, AllotmentSettled]),
        ((DAILY, take(50), settle(50, bounds=TUESDAY)), take(20, bounds=MONDAY), [AllotmentTaken]),
        ((set_to(), take(40)), take(20, "r_b-1", bounds=TUESDAY), [AllotmentTaken]),
    ],
)
def test_decide(given: Sequence[budget.Command], when: budget.Command, then: object) -> None:
    state = after(*given)
    if isinstance(then, type) and issubclass(then, Refused):
        with pytest.raises(then):
            budget.decide(state, when)
    else:
        assert _kinds(budget.decide(state, when)) == then


def _kinds(events: Sequence[Message]) -> list[type[Message]]:
    return [type(event) for event in events]


def test_a_warning_comes_once_for_each_share_that_is_crossed() -> None:
    state = after(set_to(warn_percents=[90, 50]), take(60))
    assert BudgetWarned not in _kinds(budget.decide(state, take(10, number=2)))
    events = budget.decide(state, take(30, number=2))
    assert [event.percent for event in events if isinstance(event, BudgetWarned)] == [90]
    again = after(set_to(warn_percents=[50]), take(60), raised(100))
    assert BudgetWarned in _kinds(budget.decide(again, take(60, number=2)))


def test_what_is_overdrawn_is_told_once_and_forgotten_when_there_is_room() -> None:
    state = after(set_to(), take(60), take(40, "r_b-1"), settle(110))
    assert state.is_overdrawn and BudgetOverdrawn not in _kinds(budget.decide(state, settle(5, "r_b-1")))
    assert not after(set_to(), take(60), settle(110), raised(20)).is_overdrawn


def test_lowering_leaves_a_limit() -> None:
    assert after(set_to(), lower(1_000)).limit == Sum(usd_micros=1)


def test_units_that_are_not_limited_are_not_held() -> None:
    state = after(set_to(), TakeAllotment(allotment_id="x", number=1, amounts=Amounts(usd_micros=1, input_tokens=9**9)))
    assert state.allotted == Sum(usd_micros=1)


def test_what_a_task_spent_counts_once_however_often_its_allotment_is_opened() -> None:
    state = after(set_to(), take(40), settle(30), take(20, number=2), settle(30))
    assert (state.spent.usd_micros, state.allotted.usd_micros, len(state.open)) == (30, 0, 0)


def test_a_repeated_taking_says_what_was_given_the_first_time() -> None:
    state = after(set_to(), take(40), take(99))
    assert state.open["r_a-1"].last == Sum(usd_micros=40)


def test_open_allotments_stay_when_a_period_begins() -> None:
    state = after(DAILY, take(30), take(40, "r_b-1"), settle(40, "r_b-1"), take(1, "r_c-1", bounds=TUESDAY))
    assert (state.spent.usd_micros, state.allotted.usd_micros) == (0, 31)
    assert budget.room(state) == Sum(usd_micros=69)
