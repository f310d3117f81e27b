"""The money of an agent: what its calls reserve, what they have cost, and what it does when it has no more."""

from __future__ import annotations

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.agent.state import Agent
from crewlog.domain.amounts import Amounts as Sum
from crewlog.domain.decider import fold
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, WrongState
from crewlog.v1.agent_pb2 import (
    AgentParked,
    AllotmentRaised,
    EffectKey,
    FinishAgent,
    FinishModelCall,
    HostAgent,
    ModelAnswer,
    ModelCallSucceeded,
    ModelFailure,
    ParkAgent,
    RaiseAllotment,
    ReservationExceeded,
    StartModelCall,
)
from crewlog.v1.budget_pb2 import Limit, Reservation, Usage
from crewlog.v1.run_pb2 import TaskResult

WORST = Sum(40, 30, 20, 1)


def host(generation: int = 1, **limit: int) -> HostAgent:
    allotment = Limit(**(limit or {"usd_micros": 100}))
    return HostAgent(agent_id="r_a-1", generation=generation, executor_id=f"e{generation}", allotment=allotment)


def start(attempt: int = 1, turn: int = 1, generation: int = 1, usd: int = 40) -> StartModelCall:
    reservation = Reservation(usd_micros=usd, input_tokens_max=30, output_tokens_max=20)
    key = EffectKey(turn=turn, index=-1, attempt=attempt)
    return StartModelCall(agent_id="r_a-1", generation=generation, key=key, reservation=reservation)


def answered(usd: int = 10, tokens: int = 10, turn: int = 1) -> FinishModelCall:
    usage = Usage(input_tokens=tokens, cache_read_tokens=5, cache_write_tokens=2, output_tokens=tokens)
    answer = ModelAnswer(cost_usd_micros=usd, usage=usage)
    return FinishModelCall(agent_id="r_a-1", generation=1, key=EffectKey(turn=turn, index=-1, attempt=1), answer=answer)


def failed(*, may_have_charged: bool) -> FinishModelCall:
    failure = ModelFailure(may_have_charged=may_have_charged)
    return FinishModelCall(agent_id="r_a-1", generation=1, key=EffectKey(turn=1, index=-1, attempt=1), failure=failure)


def raised(usd: int, revision: int) -> RaiseAllotment:
    return RaiseAllotment(agent_id="r_a-1", generation=1, allotment=Limit(usd_micros=usd), run_revision=revision)


PARK = ParkAgent(agent_id="r_a-1", generation=1, budget_id="tenant")


def after(*commands: agent.Command) -> Agent:
    state = agent.INITIAL
    for command in commands:
        state = fold(agent, agent.decide(state, command), state)
    return state


@pytest.mark.parametrize("limit", [{"usd_micros": 40}, {"input_tokens": 30}, {"output_tokens": 20}, {"model_calls": 1}])
def test_a_call_has_to_fit_in_every_unit(limit: dict[str, int]) -> None:
    assert after(host(**limit), start()).reserved == WORST
    smaller = {unit: amount - 1 for unit, amount in limit.items() if amount > 1}
    if smaller:
        with pytest.raises(BudgetExceeded):
            agent.decide(after(host(**smaller)), start())
    with pytest.raises(BudgetExceeded):
        agent.decide(after(host(**limit), start(), failed(may_have_charged=True)), start(attempt=2))


def test_a_reservation_is_no_gift() -> None:
    with pytest.raises(InvalidCommand):
        agent.decide(after(host()), start(usd=-1))


def test_all_input_counts_cached_or_not() -> None:
    assert after(host(), start(), answered()).spent == Sum(10, 17, 10, 1)


def test_a_refused_call_costs_nothing_and_one_that_may_have_been_charged_all_of_it() -> None:
    refused, lost = (after(host(), start(), failed(may_have_charged=charged)) for charged in (False, True))
    assert (refused.spent, refused.reserved) == (Sum(), Sum())
    assert (lost.spent, lost.reserved) == (WORST, Sum())


def test_a_call_in_doubt_counts_as_spent_and_the_next_one_reserves_for_itself() -> None:
    state = after(host(), start(), host(generation=2), start(attempt=2, generation=2))
    assert (state.spent, state.reserved) == (WORST, WORST)
    with pytest.raises(BudgetExceeded):
        agent.decide(after(host(usd_micros=79), start(), host(generation=2)), start(attempt=2, generation=2))


def test_the_same_attempt_never_reserves_twice() -> None:
    assert agent.decide(after(host(), start()), start()) == []
    with pytest.raises(WrongState):
        agent.decide(after(host(), start(), failed(may_have_charged=True)), start())


def test_what_is_above_the_reservation_is_spent_and_told() -> None:
    events = agent.decide(after(host(), start()), answered(usd=55))
    assert [type(event) for event in events] == [ModelCallSucceeded, ReservationExceeded]
    assert isinstance(events[1], ReservationExceeded) and Sum.of(events[1].over) == Sum(usd_micros=15)
    assert after(host(), start(), answered(usd=55)).spent.usd_micros == 55


def test_an_allotment_follows_the_revisions_of_the_run() -> None:
    state = after(host(), raised(200, 5))
    assert state.allotment.usd_micros == 200
    assert agent.decide(state, raised(300, 4)) == agent.decide(state, raised(300, 5)) == []
    assert [type(event) for event in agent.decide(state, raised(50, 6))] == [AllotmentRaised]
    assert after(host(), raised(200, 5), raised(50, 6)).allotment.usd_micros == 50


def test_an_agent_parks_between_calls_and_calls_no_more_until_it_is_hosted_again() -> None:
    with pytest.raises(WrongState):
        agent.decide(after(host(), start()), PARK)
    parked = after(host(), start(), answered(), PARK)
    events = agent.decide(after(host(), start(), answered()), PARK)
    assert isinstance(events[0], AgentParked) and Sum.of(events[0].so_far.spent) == Sum(10, 17, 10, 1)
    assert agent.decide(parked, PARK) == []
    with pytest.raises(WrongState):
        agent.decide(parked, start(turn=2))
    again = after(host(), start(), answered(), PARK, host(generation=2))
    assert agent.decide(again, start(turn=2, generation=2))


def test_an_end_counts_what_is_still_reserved() -> None:
    end = FinishAgent(agent_id="r_a-1", generation=1, cancelled=TaskResult(cost_usd_micros=1))
    result = after(host(), start(), end).result
    assert result is not None and Sum.of(result.spent) == WORST
