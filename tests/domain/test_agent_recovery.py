"""What a later generation does with what it finds, what is said to an agent, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.agent.recovery import receipt
from crewlog.domain.agent.state import INTERRUPTED, MODEL, Agent, is_interrupted, readable
from crewlog.domain.agent.steps import WAIT_MILLIS_MAX, Ask, CallModel, RunTools, Succeed, Wait, next_step
from crewlog.domain.decider import fold
from crewlog.domain.errors import WrongState
from crewlog.v1.agent_pb2 import (
    AgentParked,
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
    LateOutcomeRecorded,
    MessageReceived,
    ModelAnswer,
    ModelFailure,
    ParkAgent,
    ReceiveMessage,
    ReconcileEffect,
    RecordLateOutcome,
    StartModelCall,
    ToolCallFailed,
    ToolOutput,
    ToolSpec,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Limit, Reservation
from crewlog.v1.run_pb2 import AgentNode, GateKind, MessageMode, OnUnknown, ParkCause, Role, TaskResult
from google.protobuf.message import Message

CLASSES = {
    "read": EffectClass.EFFECT_CLASS_PURE,
    "bash": EffectClass.EFFECT_CLASS_REVERSIBLE,
    "mail": EffectClass.EFFECT_CLASS_OPAQUE,
    "ask": EffectClass.EFFECT_CLASS_KEYED,
}
TOOLS = [ToolSpec(name=name, effect_class=effect_class) for name, effect_class in CLASSES.items()]
STEER, QUEUE = MessageMode.MESSAGE_MODE_STEER, MessageMode.MESSAGE_MODE_QUEUE
INTERRUPT = MessageMode.MESSAGE_MODE_INTERRUPT
SECOND = 1_000_000


def host(generation: int = 1, on_unknown: OnUnknown.ValueType = OnUnknown.ON_UNKNOWN_TELL, at: int = 0) -> HostAgent:
    return HostAgent(
        agent_id="r_t-1",
        run_id="r",
        task_id="t-1",
        generation=generation,
        executor_id=f"e{generation}",
        node=AgentNode(role=Role(name="implementer", on_unknown=on_unknown)),
        tools=TOOLS,
        allotment=Limit(usd_micros=1_000),
        at_unix_micros=at,
    )


def key(turn: int, index: int = MODEL, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=attempt)


def call(turn: int = 1, attempt: int = 1, generation: int = 1, messages: Sequence[int] = ()) -> StartModelCall:
    reservation = Reservation(usd_micros=100, input_tokens_max=50, output_tokens_max=50)
    return StartModelCall(
        agent_id="r_t-1",
        generation=generation,
        key=key(turn, attempt=attempt),
        reservation=reservation,
        messages=messages,
    )


def answered(*tools: str, turn: int = 1, generation: int = 1, attempt: int = 1) -> FinishModelCall:
    content = [ContentBlock(tool_use=ToolUse(tool_use_id=f"u{n}", tool=tool)) for n, tool in enumerate(tools)]
    answer = ModelAnswer(
        content=content or [ContentBlock(text="done")],
        stop_reason="tool_use" if tools else "end_turn",
        cost_usd_micros=10,
    )
    return FinishModelCall(agent_id="r_t-1", generation=generation, key=key(turn, attempt=attempt), answer=answer)


def refused(retry_after_millis: int = 0, reason: str = "model_rate_limited") -> FinishModelCall:
    failure = ModelFailure(
        failure=Failure(reason=reason, retryable=True), retry_after_millis=retry_after_millis, may_have_charged=False
    )
    return FinishModelCall(agent_id="r_t-1", generation=1, key=key(1), failure=failure)


def ran(index: int, turn: int = 1, generation: int = 1, attempt: int = 1) -> FinishToolCall:
    output = ToolOutput(text=Body(inline=b"ok"))
    return FinishToolCall(agent_id="r_t-1", generation=generation, key=key(turn, index, attempt), output=output)


def said(number: int, mode: MessageMode.ValueType = STEER, generation: int = 1) -> ReceiveMessage:
    return ReceiveMessage(
        agent_id="r_t-1",
        generation=generation,
        message_id=f"m{number}",
        number=number,
        mode=mode,
        text=Body(inline=f"message {number}".encode()),
    )


def park(cause: ParkCause.ValueType = ParkCause.PARK_CAUSE_PAUSED, at: int = 0) -> ParkAgent:
    return ParkAgent(agent_id="r_t-1", generation=1, cause=cause, at_unix_micros=at)


def late(came_of: FinishToolCall | FinishModelCall, generation: int = 1) -> RecordLateOutcome:
    command = RecordLateOutcome(agent_id="r_t-1", generation=generation, executor_id="e1")
    (command.tool_call if isinstance(came_of, FinishToolCall) else command.model_call).CopyFrom(came_of)  # type: ignore[arg-type]
    return command


def after(*commands: agent.Command) -> Agent:
    state = agent.INITIAL
    for command in commands:
        state = fold(agent, agent.decide(state, command), state)
    return state


def types_of(state: Agent, command: agent.Command) -> list[type[Message]]:
    return [type(event) for event in agent.decide(state, command)]


USING = (host(), call(), answered("read", "bash", "mail"))


def test_a_receipt_says_what_is_reused_run_again_restored_and_unknown() -> None:
    found = receipt(after(*USING, ran(0)))
    assert (found.model_answers_reused, found.reused_usd_micros, found.tool_outcomes_reused) == (1, 10, 1)
    assert (found.tool_calls_restored, found.tool_calls_told_unknown, found.tool_calls_run_again) == (1, 1, 0)
    lost = receipt(after(host(), call()))
    assert (lost.model_calls_lost, lost.lost_usd_micros) == (1, 100)


def test_what_a_dry_run_says_is_what_the_take_over_records() -> None:
    state = after(*USING)
    taken = agent.decide(state, host(2))[0]
    assert isinstance(taken, AgentTakenOver) and taken.receipt == receipt(state)
    assert fold(agent, [taken], state).last_receipt == receipt(state)


def test_of_an_agent_that_has_let_go_nothing_is_in_doubt() -> None:
    parked = after(*USING, park())
    assert types_of(parked, host(2)) == [AgentTakenOver]
    assert receipt(parked).tool_calls_not_begun == 3
    step = next_step(after(*USING, park(), host(2)), 0)
    assert isinstance(step, RunTools) and [effect.attempt for _, effect in step.calls] == [1, 1, 1]


def test_an_agent_lets_go_of_nothing_that_is_under_way() -> None:
    with pytest.raises(WrongState):
        agent.decide(after(host(), call()), park())


def test_nothing_is_appended_under_a_claim_that_has_let_go_but_it_can_be_repeated() -> None:
    parked = after(*USING, ran(0), park())
    assert agent.decide(parked, park()) == [] and agent.decide(parked, ran(0)) == []
    for command in (ran(1), FinishAgent(agent_id="r_t-1", generation=1, cancelled=TaskResult())):
        with pytest.raises(WrongState):
            agent.decide(parked, command)
    assert agent.decide(parked, said(1)) == []


def test_the_time_that_an_agent_waits_is_not_its_time() -> None:
    state = after(host(), call(), answered(), park(at=5 * SECOND), host(2, at=1_005 * SECOND))
    assert state.idle_micros == 1_000 * SECOND
    finish = FinishAgent(agent_id="r_t-1", generation=2, succeeded=TaskResult(), at_unix_micros=1_007 * SECOND)
    ended = fold(agent, agent.decide(state, finish), state)
    assert ended.result is not None and ended.result.duration_micros == 7 * SECOND


def test_a_late_outcome_is_evidence_and_decides_nothing() -> None:
    state = after(*USING, host(2))
    events = agent.decide(state, late(ran(2)))
    assert [type(event) for event in events] == [LateOutcomeRecorded]
    evidence = fold(agent, events, state)
    assert evidence.turns == state.turns and evidence.open == state.open
    assert agent.decide(evidence, late(ran(2))) == []
    assert types_of(evidence, late(ran(1))) == [LateOutcomeRecorded]
    with pytest.raises(WrongState):
        agent.decide(state, late(ran(2), generation=2))


def test_a_late_answer_is_not_used_and_its_money_stays_spent() -> None:
    state = after(host(), call(), host(2))
    kept = fold(agent, agent.decide(state, late(answered("read"))), state)
    assert kept.turns == () and kept.spent.usd_micros == 100
    over = after(host(), call(), host(2), FinishAgent(agent_id="r_t-1", generation=2, cancelled=TaskResult()))
    assert types_of(over, late(answered())) == [LateOutcomeRecorded]


def test_a_person_is_asked_about_an_opaque_effect_where_the_role_says_so() -> None:
    asking = OnUnknown.ON_UNKNOWN_ASK
    using = (host(on_unknown=asking), call(), answered("mail", "read"))
    state = after(*using, host(2))
    assert state.open[1, 0].is_asked and receipt(after(*using)).tool_calls_asked == 1
    assert isinstance(next_step(state, 0), RunTools)
    step = next_step(after(*using, host(2), ran(1, generation=2, attempt=2)), 0)
    assert isinstance(step, Ask) and step.kind == GateKind.GATE_KIND_UNKNOWN_OUTCOME
    assert receipt(state).tool_calls_asked == 0


@pytest.mark.parametrize(
    ("resolution", "then"),
    [
        (EffectReconciled.RESOLUTION_RUN_AGAIN, [EffectReconciled]),
        (EffectReconciled.RESOLUTION_TOLD_UNKNOWN, [EffectReconciled, ToolCallFailed]),
    ],
)
def test_what_the_person_says_settles_it_once(
    resolution: EffectReconciled.Resolution.ValueType, then: Sequence[type[Message]]
) -> None:
    asking = OnUnknown.ON_UNKNOWN_ASK
    state = after(host(on_unknown=asking), call(), answered("mail"), host(2))
    command = ReconcileEffect(agent_id="r_t-1", generation=2, key=key(1, 0), resolution=resolution)
    assert types_of(state, command) == then
    settled = fold(agent, agent.decide(state, command), state)
    assert agent.decide(settled, command) == []
    again = settled.open.get((1, 0))
    assert (again is not None and again.attempt == 2) == (resolution == EffectReconciled.RESOLUTION_RUN_AGAIN)


def test_a_question_waits_until_everything_else_is_done() -> None:
    using = (host(), call(), answered("ask", "read"))
    step = next_step(after(*using), 0)
    assert isinstance(step, RunTools) and [place for place, _ in step.calls] == [(1, 1)]
    step = next_step(after(*using, ran(1)), 0)
    assert isinstance(step, Ask) and (step.place, step.kind) == ((1, 0), GateKind.GATE_KIND_QUESTION)


def test_messages_are_received_in_order_and_once() -> None:
    state = after(host(), said(1))
    assert agent.decide(state, said(1)) == []
    with pytest.raises(WrongState):
        agent.decide(state, said(3))
    assert types_of(state, said(2)) == [MessageReceived]


def test_a_call_reads_what_it_names_and_nothing_that_was_not_said() -> None:
    state = after(host(), said(1), call(messages=[1]))
    assert (state.inbox, state.read) == ((), (1,))
    assert [body.inline for body in state.told[1]] == [b"message 1"]
    with pytest.raises(WrongState):
        agent.decide(after(host(), said(1)), call(messages=[1, 2]))


def test_steering_keeps_an_agent_going_that_thinks_it_is_done() -> None:
    done = (host(), call(), answered())
    assert isinstance(next_step(after(*done), 0), Succeed)
    state = after(*done, said(1))
    assert isinstance(next_step(state, 0), CallModel)
    with pytest.raises(WrongState):
        agent.decide(state, FinishAgent(agent_id="r_t-1", generation=1, succeeded=TaskResult()))


def test_what_is_queued_waits_until_all_is_said_and_comes_one_by_one() -> None:
    queued = (said(1, QUEUE), said(2, QUEUE), said(3))
    numbers = [message.number for message in readable(after(host(), *queued))]
    assert numbers == [3]
    done = after(host(), *queued, call(messages=[3]), answered())
    assert [message.number for message in readable(done)] == [1]


def test_an_interruption_is_no_failure_and_needs_no_pause() -> None:
    cut = FinishModelCall(agent_id="r_t-1", generation=1, key=key(1))
    cut.failure.CopyFrom(ModelFailure(failure=Failure(reason=INTERRUPTED, retryable=True), may_have_charged=True))
    state = after(host(), call(), said(1, INTERRUPT), cut)
    assert is_interrupted(state) and state.failures == 0 and state.spent.usd_micros == 100
    step = next_step(state, 0)
    assert isinstance(step, CallModel) and (step.attempt, step.after_millis) == (2, 0)


def test_a_provider_that_wants_to_wait_long_is_not_waited_for_by_an_executor() -> None:
    step = next_step(after(host(), call(), refused(WAIT_MILLIS_MAX + 1)), 0)
    assert isinstance(step, Wait) and step.millis == WAIT_MILLIS_MAX + 1
    step = next_step(after(host(), call(), refused(WAIT_MILLIS_MAX)), 0)
    assert isinstance(step, CallModel) and step.after_millis_min == WAIT_MILLIS_MAX


def test_what_was_refused_is_tried_anew_after_a_pause() -> None:
    cause = ParkCause.PARK_CAUSE_MODEL
    parked = after(host(), call(), refused(reason="model_key_refused"), park(cause))
    assert isinstance(agent.decide(after(host(), call(), refused()), park(cause))[0], AgentParked)
    state = fold(agent, agent.decide(parked, host(2)), parked)
    step = next_step(state, 0)
    assert isinstance(step, CallModel) and (step.attempt, step.after_millis) == (2, 0)


def test_a_doubt_is_put_on_record_before_it_is_settled() -> None:
    assert types_of(after(*USING), host(2)) == [
        AgentTakenOver,
        EffectPutInDoubt,
        EffectReconciled,
        EffectPutInDoubt,
        EffectReconciled,
        EffectPutInDoubt,
        EffectReconciled,
        ToolCallFailed,
    ]
