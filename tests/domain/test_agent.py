"""Tables of the agent's rules: given the events, when the command, then the events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.agent.state import MODEL, Agent
from crewlog.domain.agent.steps import CallModel, Fail, RunTools, Succeed, Wait, next_step
from crewlog.domain.decider import fold
from crewlog.domain.errors import BudgetExceeded, NotFound, Refused, StaleClaim, WrongState
from crewlog.v1.agent_pb2 import (
    AgentTakenOver,
    ContentBlock,
    EffectClass,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    FinishAgent,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelFailure,
    StartModelCall,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailure,
    ToolOutput,
    ToolSpec,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Limit, Reservation, Usage
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, NoopNode, Role, TaskResult
from crewlog.v1.workspace_pb2 import Snapshot
from google.protobuf.message import Message

TOOLS = [
    ToolSpec(name="read", effect_class=EffectClass.EFFECT_CLASS_PURE),
    ToolSpec(name="bash", effect_class=EffectClass.EFFECT_CLASS_REVERSIBLE),
    ToolSpec(name="mail", effect_class=EffectClass.EFFECT_CLASS_OPAQUE),
]


def host(generation: int = 1, executor: str = "e1", **changes: object) -> HostAgent:
    fields: dict[str, object] = {
        "agent_id": "r_t-1",
        "run_id": "r",
        "task_id": "t-1",
        "generation": generation,
        "executor_id": executor,
        "node": AgentNode(role=Role(name="implementer")),
        "tools": TOOLS,
        "allotment": Limit(usd_micros=1_000),
        **changes,
    }
    return HostAgent(**fields)  # type: ignore[arg-type]


def key(turn: int, index: int = MODEL, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=attempt)


def start_call(turn: int = 1, attempt: int = 1, reserved: int = 100, generation: int = 1) -> StartModelCall:
    reservation = Reservation(usd_micros=reserved, input_tokens_max=50, output_tokens_max=50)
    return StartModelCall(
        agent_id="r_t-1", generation=generation, key=key(turn, attempt=attempt), reservation=reservation
    )


def answer(*calls: str, text: str = "", stop_reason: str = "", cost: int = 10) -> ModelAnswer:
    content = [ContentBlock(text=text)] if text else []
    content += [ContentBlock(tool_use=ToolUse(tool_use_id=f"u{n}", tool=call)) for n, call in enumerate(calls)]
    return ModelAnswer(
        content=content,
        stop_reason=stop_reason or ("tool_use" if calls else "end_turn"),
        usage=Usage(input_tokens=5, output_tokens=2),
        cost_usd_micros=cost,
    )


def finish_call(given: ModelAnswer, turn: int = 1, generation: int = 1) -> FinishModelCall:
    return FinishModelCall(agent_id="r_t-1", generation=generation, key=key(turn), answer=given)


def finish_tool(turn: int, index: int, text: str = "ok", generation: int = 1, attempt: int = 1) -> FinishToolCall:
    output = ToolOutput(text=Body(inline=text.encode()))
    return FinishToolCall(agent_id="r_t-1", generation=generation, key=key(turn, index, attempt), output=output)


def after(*commands: agent.Command) -> Agent:
    state = agent.INITIAL
    for command in commands:
        state = fold(agent, agent.decide(state, command), state)
    return state


CALLING = (host(), start_call())
TWO_TOOLS = (*CALLING, finish_call(answer("read", "bash")))

EndOf = Sequence[type[Message] | type[Refused]]


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ((), start_call(), NotFound),
        ((host(),), host(), []),
        ((host(),), host(generation=2, executor="e2"), [AgentTakenOver]),
        ((host(generation=2),), host(generation=1, executor="e2"), StaleClaim),
        ((host(),), start_call(), [ModelCallStarted]),
        ((host(),), start_call(turn=2), WrongState),
        ((host(),), start_call(reserved=1_001), BudgetExceeded),
        (CALLING, start_call(), []),
        (CALLING, start_call(attempt=2), WrongState),
        (CALLING, finish_call(answer()), [ModelCallSucceeded]),
        (CALLING, finish_call(answer("read", "bash")), [ModelCallSucceeded, ToolCallStarted, ToolCallStarted]),
        (TWO_TOOLS, finish_call(answer("read")), []),
        (TWO_TOOLS, start_call(turn=2), WrongState),
        (TWO_TOOLS, finish_tool(1, 1), [ToolCallSucceeded]),
        ((*TWO_TOOLS, finish_tool(1, 1)), finish_tool(1, 1), []),
        ((host(), host(generation=2, executor="e2")), start_call(), StaleClaim),
        ((host(),), start_call(generation=2), WrongState),
    ],
)
def test_decide(given: Sequence[agent.Command], when: agent.Command, then: object) -> None:
    state = after(*given)
    if isinstance(then, type):
        with pytest.raises(then):
            agent.decide(state, when)
    else:
        assert [type(event) for event in agent.decide(state, when)] == then


def test_a_takeover_settles_what_was_open_by_its_class() -> None:
    state = after(*CALLING, finish_call(answer("read", "bash", "mail")), finish_tool(1, 0))
    events = agent.decide(state, host(generation=2, executor="e2"))
    assert [type(event) for event in events] == [
        AgentTakenOver,
        EffectPutInDoubt,
        EffectReconciled,
        EffectPutInDoubt,
        EffectReconciled,
        ToolCallFailed,
    ]
    resolutions = [event.resolution for event in events if isinstance(event, EffectReconciled)]
    assert resolutions == [
        EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN,
        EffectReconciled.RESOLUTION_TOLD_UNKNOWN,
    ]
    taken_over = fold(agent, events, state)
    step = next_step(taken_over, 0)
    assert isinstance(step, RunTools)
    assert [(place, effect.attempt) for place, effect in step.calls] == [((1, 1), 2)]


def test_a_lost_model_call_counts_as_spent_and_is_called_again() -> None:
    taken_over = after(*CALLING, host(generation=2, executor="e2"))
    assert (taken_over.spent.usd_micros, taken_over.reserved.usd_micros) == (100, 0)
    step = next_step(taken_over, 0)
    assert isinstance(step, CallModel) and (step.turn, step.attempt) == (1, 2)


def test_the_outcome_of_an_attempt_that_was_given_up_changes_nothing() -> None:
    state = after(*TWO_TOOLS, host(generation=2, executor="e2"))
    assert agent.decide(state, finish_tool(1, 0, generation=2, attempt=1)) == []
    assert len(agent.decide(state, finish_tool(1, 0, generation=2, attempt=2))) == 1


def test_settling_returns_what_the_call_did_not_cost() -> None:
    state = after(*CALLING)
    assert (state.spent.usd_micros, state.reserved.usd_micros) == (0, 100)
    settled = after(*CALLING, finish_call(answer(cost=10)))
    assert (settled.spent.usd_micros, settled.reserved.usd_micros) == (10, 0)


def test_a_failed_call_is_tried_again_later_as_the_provider_wishes() -> None:
    failure = ModelFailure(failure=Failure(reason="model_rate_limited", retryable=True), retry_after_millis=9_000)
    failed = FinishModelCall(agent_id="r_t-1", generation=1, key=key(1), failure=failure)
    state = after(*CALLING, failed)
    assert isinstance(agent.decide(after(*CALLING), failed)[0], ModelCallFailed)
    step = next_step(state, 0)
    assert isinstance(step, CallModel) and (step.attempt, step.after_millis) == (2, 9_000)


def test_a_refused_call_lets_the_agent_wait_with_its_reason() -> None:
    failure = ModelFailure(failure=Failure(reason="model_unknown"))
    state = after(*CALLING, FinishModelCall(agent_id="r_t-1", generation=1, key=key(1), failure=failure))
    step = next_step(state, 0)
    assert isinstance(step, Wait) and (step.failure.reason, step.millis) == ("model_unknown", 0)


def test_the_conversation_goes_on_until_a_turn_has_no_calls() -> None:
    state = after(*TWO_TOOLS, finish_tool(1, 0), finish_tool(1, 1))
    assert isinstance(next_step(state, 0), CallModel)
    ended = after(
        *TWO_TOOLS,
        finish_tool(1, 0),
        finish_tool(1, 1),
        start_call(turn=2),
        finish_call(answer(text="all done"), turn=2),
    )
    assert next_step(ended, 0) == Succeed("all done")


@pytest.mark.parametrize(
    ("limits", "now", "reason"),
    [
        (AgentLimits(turns_max=1), 0, "turns_exhausted"),
        (AgentLimits(duration_seconds_max=10), 10_000_000, "seconds_exhausted"),
        (AgentLimits(tokens_max=7), 0, "tokens_exhausted"),
    ],
)
def test_limits_end_the_agent(limits: AgentLimits, now: int, reason: str) -> None:
    state = after(host(limits=limits), start_call(), finish_call(answer("read")), finish_tool(1, 0))
    step = next_step(state, now)
    assert isinstance(step, Fail) and step.failure.reason == reason


def test_the_totals_of_the_result_come_from_the_log() -> None:
    claimed = TaskResult(cost_usd_micros=1, turns=99, commit="c" * 40)
    state = after(*CALLING, finish_call(answer(text="done", cost=10)))
    finished = agent.decide(state, FinishAgent(agent_id="r_t-1", generation=1, succeeded=claimed))
    result = fold(agent, finished, state).result
    assert result is not None
    assert (result.cost_usd_micros, result.turns, result.commit, result.usage.input_tokens) == (10, 1, "c" * 40, 5)


def test_an_agent_cannot_succeed_while_an_effect_is_open() -> None:
    with pytest.raises(WrongState):
        agent.decide(after(*TWO_TOOLS), FinishAgent(agent_id="r_t-1", generation=1, succeeded=TaskResult()))


def test_a_cancelled_agent_spends_what_was_still_reserved() -> None:
    state = after(*CALLING, FinishAgent(agent_id="r_t-1", generation=1, cancelled=TaskResult()))
    assert state.result is not None and state.result.cost_usd_micros == 100


def test_the_last_snapshot_is_the_one_of_the_last_change() -> None:
    failure = ToolFailure(reason="killed", snapshot=Snapshot(tree="b" * 40))
    output = ToolOutput(snapshot=Snapshot(tree="a" * 40))
    state = after(
        *TWO_TOOLS,
        FinishToolCall(agent_id="r_t-1", generation=1, key=key(1, 0), output=output),
        FinishToolCall(agent_id="r_t-1", generation=1, key=key(1, 1), failure=failure),
    )
    assert state.snapshot is not None and state.snapshot.tree == "b" * 40


def test_a_noop_takes_one_durable_step_after_the_other() -> None:
    state = after(HostAgent(agent_id="r_t-1", generation=1, executor_id="e1", noop=NoopNode(steps=3)))
    for turn in (1, 2, 3):
        step = next_step(state, 0)
        assert isinstance(step, RunTools) and [place for place, _ in step.calls] == [(turn, 0)]
        finished = FinishToolCall(agent_id="r_t-1", generation=1, key=key(turn, 0), output=ToolOutput())
        state = fold(agent, agent.decide(state, finished), state)
    assert next_step(state, 0) == Succeed("")
