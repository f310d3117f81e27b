"""What an agent may spend while it shares with children: never the same money twice, whatever is repeated."""

from __future__ import annotations

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.agent.sharing import share_of
from crewlog.domain.agent.state import Agent, spawned
from crewlog.domain.agent.steps import Ask, RunTools, WaitForChildren, next_step
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, NotFound, Refused, StaleClaim, WrongState
from crewlog.v1 import budget_pb2
from crewlog.v1.agent_pb2 import AllotmentShared, EffectClass, ParkAgent, RaiseAllotment, ShareAllotment, ToolSpec
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import ParkCause

from tests.domain.test_agent import after, answer, finish_call, finish_tool, host, key, start_call
from tests.domain.test_agent_ends import failed_tool

TOOLS = [
    ToolSpec(name=name, effect_class=EffectClass.EFFECT_CLASS_KEYED) for name in ("spawn", "wait_for_children", "ask")
]


def share(usd: int = 300, index: int = 0, attempt: int = 1, generation: int = 1, **more: int) -> ShareAllotment:
    amounts = budget_pb2.Amounts(usd_micros=usd, **more)
    place = key(1, index, attempt)
    return ShareAllotment(agent_id="r_t-1", generation=generation, key=place, share=amounts)


def raised(usd: int, revision: int) -> RaiseAllotment:
    return RaiseAllotment(agent_id="r_t-1", generation=1, allotment=Limit(usd_micros=usd), run_revision=revision)


def spawning(*calls: str, allotment: Limit | None = None) -> tuple[agent.Command, ...]:
    """1,000 are allotted, and 10 are spent."""
    first = host(tools=TOOLS, allotment=allotment or Limit(usd_micros=1_000))
    return first, start_call(), finish_call(answer(*(calls or ("spawn",))))


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ((), share(), NotFound),
        (spawning(), share(), [AllotmentShared]),
        (spawning(), share(989), [AllotmentShared]),
        (spawning(), share(990), BudgetExceeded),
        (spawning(), share(0), InvalidCommand),
        (spawning(), share(-5), InvalidCommand),
        (spawning(), share(1, input_tokens=5), BudgetExceeded),
        (spawning(), share(index=1), WrongState),
        ((*spawning(), share()), share(), []),
        ((*spawning(), share()), share(usd=400, attempt=2), []),
        ((*spawning(), share(), finish_tool(1, 0)), share(), []),
        ((*spawning(), finish_tool(1, 0)), share(), WrongState),
        ((*spawning("spawn", "spawn"), share(600)), share(400, index=1), BudgetExceeded),
        ((*spawning(), host(generation=2, executor="e2")), share(), StaleClaim),
        ((*spawning(), host(generation=2, executor="e2")), share(attempt=2, generation=2), [AllotmentShared]),
        ((*spawning(), share(), host(generation=2, executor="e2")), share(attempt=2, generation=2), []),
    ],
)
def test_a_share_is_given_once_for_a_call(
    given: tuple[agent.Command, ...], when: ShareAllotment, then: list[type] | type[Refused]
) -> None:
    if isinstance(then, type):
        with pytest.raises(then):
            agent.decide(after(*given), when)
    else:
        assert [type(event) for event in agent.decide(after(*given), when)] == then


def test_what_was_shared_is_the_agents_no_more() -> None:
    state = after(*spawning(), share(), finish_tool(1, 0))
    assert state.allotment == Amounts(usd_micros=700)
    with pytest.raises(BudgetExceeded):
        agent.decide(state, start_call(turn=2, reserved=691))
    assert agent.decide(state, start_call(turn=2, reserved=690))


def test_while_a_child_is_being_spawned_the_run_may_not_know_of_its_share() -> None:
    """Its figure counts the share still in, or already out: the smaller one holds until the next."""
    during = after(*spawning(), share(), raised(1_100, 5))
    assert during.allotment == Amounts(usd_micros=800)
    later = after(*spawning(), share(), finish_tool(1, 0), raised(1_100, 5))
    assert later.allotment == Amounts(usd_micros=1_100)
    assert after(*spawning(), share(), raised(200, 5)).allotment == Amounts(usd_micros=1), "0 would be no limit"


def state_with(**limit: int) -> Agent:
    return after(*spawning(allotment=Limit(**limit)))


@pytest.mark.parametrize(
    ("limit", "percent", "expected"),
    [
        ({"usd_micros": 1_000}, 50, Amounts(usd_micros=495)),
        ({"usd_micros": 1_000, "model_calls": 9}, 50, Amounts(usd_micros=495, model_calls=4)),
        ({"usd_micros": 1_000, "model_calls": 3}, 33, None),
        ({"usd_micros": 110}, 1, Amounts(usd_micros=1)),
        ({"usd_micros": 109}, 1, None),
    ],
)
def test_a_share_is_a_part_of_what_is_left(limit: dict[str, int], percent: int, expected: Amounts | None) -> None:
    if expected is None:
        with pytest.raises(BudgetExceeded, match="too little"):
            share_of(state_with(**limit), percent)
    else:
        assert share_of(state_with(**limit), percent) == expected


def test_a_wait_comes_after_what_an_executor_can_do() -> None:
    state = after(*spawning("wait_for_children", "spawn", "ask"))
    first = next_step(state, 0)
    assert isinstance(first, RunTools) and [place for place, _ in first.calls] == [(1, 1)]
    done = after(*spawning("wait_for_children", "spawn", "ask"), finish_tool(1, 1))
    waits = next_step(done, 0)
    assert isinstance(waits, WaitForChildren) and waits.place == (1, 0)
    park = ParkAgent(agent_id="r_t-1", generation=1, cause=ParkCause.PARK_CAUSE_CHILDREN)
    parked = after(*spawning("wait_for_children", "spawn", "ask"), finish_tool(1, 1), finish_tool(1, 0), park)
    assert parked.parked is not None
    assert isinstance(next_step(parked, 0), Ask), "what was not begun is not in doubt, and comes next"


def test_children_are_counted_by_what_has_come_of_the_calls() -> None:
    calls = spawning("spawn", "spawn", "spawn")
    assert spawned(after(*calls, finish_tool(1, 0), failed_tool(1, 1, "denied"))) == 1
