"""Histories of runs and agents: what may happen passes, and each thing that must never be written is seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.agent.steps import MODEL_ATTEMPTS_MAX
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.run.state import CLAIMS_MAX
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentParked,
    AgentStarted,
    AgentSucceeded,
    AgentTakenOver,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    LateOutcomeRecorded,
    MessageReceived,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelFailure,
    ResumeReceipt,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    BackEdge,
    EdgeTaken,
    GateAnswered,
    GateExpired,
    GateOpened,
    MessageSent,
    MessageUndelivered,
    Node,
    NoopNode,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunLimitRaised,
    RunPaused,
    RunResumed,
    RunRetried,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    TaskCancelled,
    TaskCancelRequested,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskParked,
    TaskResult,
    TaskSucceeded,
    TaskUnparked,
    Workflow,
)
from google.protobuf.message import Message

from tests.domain.written import Fact, entries, log

T = "a-1"


def key(turn: int = 1, index: int = -1, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=attempt)


def call(turn: int = 1, attempt: int = 1, messages: Sequence[int] = ()) -> ModelCallStarted:
    return ModelCallStarted(key=key(turn, attempt=attempt), messages=messages)


def failed(attempt: int, *, retryable: bool = True, reason: str = "overloaded") -> ModelCallFailed:
    failure = ModelFailure(failure=Failure(reason=reason, retryable=retryable))
    return ModelCallFailed(key=key(attempt=attempt), failure=failure)


def doubt(index: int, resolution: EffectReconciled.Resolution.ValueType) -> list[Message]:
    return [EffectPutInDoubt(key=key(index=index)), EffectReconciled(key=key(index=index), resolution=resolution)]


def take_over(generation: int = 2, **receipt: int) -> AgentTakenOver:
    return AgentTakenOver(generation=generation, receipt=ResumeReceipt(**receipt) if receipt else None)  # type: ignore[arg-type]


def late(generation: int = 1, attempt: int = 1, index: int = 0) -> LateOutcomeRecorded:
    return LateOutcomeRecorded(generation=generation, key=key(index=index, attempt=attempt))


def heard(number: int = 1) -> MessageReceived:
    return MessageReceived(message_id=f"m{number}", number=number, text=Body(inline=b"hurry"))


def read(*numbers: int) -> TaskResult:
    return TaskResult(messages_read=numbers)


AGAIN = EffectReconciled.RESOLUTION_RUN_AGAIN
RESTORED = EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN
TOLD = EffectReconciled.RESOLUTION_TOLD_UNKNOWN
ASKED = EffectReconciled.RESOLUTION_ASKED

STARTED = AgentStarted(generation=1)
ANSWERED = ModelCallSucceeded(key=key())
TOOLS = tuple(ToolCallStarted(key=key(index=index)) for index in range(2))
TURN: list[Fact] = [STARTED, call(), (ANSWERED, *TOOLS)]
SECOND = key(index=1)
DONE = ToolCallSucceeded(key=key(index=0))
RETRIES: list[Fact] = [fact for n in range(1, 1 + MODEL_ATTEMPTS_MAX) for fact in (call(attempt=n), failed(n))]
SETTLED = (*doubt(0, AGAIN), *doubt(1, TOLD), ToolCallFailed(key=key(index=1)))
RECEIPT = {"model_answers_reused": 1, "tool_calls_run_again": 1, "tool_calls_told_unknown": 1}
WAITS = AgentParked()


@pytest.mark.parametrize(
    "facts",
    [
        [*TURN, (take_over(**RECEIPT), *SETTLED), ToolCallSucceeded(key=key(index=0, attempt=2))],
        [STARTED, call(), (take_over(model_calls_lost=1), *doubt(-1, AGAIN)), call(attempt=2)],
        [*TURN, WAITS, take_over(model_answers_reused=1, tool_calls_not_begun=2), DONE],
        [
            *TURN,
            DONE,
            (take_over(model_answers_reused=1, tool_outcomes_reused=1, tool_calls_restored=1), *doubt(1, RESTORED)),
        ],
        [
            *TURN,
            DONE,
            (take_over(), *doubt(1, ASKED)),
            WAITS,
            take_over(3),
            EffectReconciled(key=SECOND, resolution=AGAIN),
        ],
        [
            *TURN,
            DONE,
            (take_over(), *doubt(1, ASKED)),
            (take_over(3), EffectReconciled(key=SECOND, resolution=TOLD), ToolCallFailed(key=SECOND)),
        ],
        [
            *TURN,
            (take_over(), *SETTLED),
            late(),
            ToolCallSucceeded(key=key(index=0, attempt=2)),
            AgentCancelled(),
            late(index=-1),
        ],
        [
            STARTED,
            heard(),
            call(messages=[1]),
            ANSWERED,
            heard(2),
            call(2, messages=[2]),
            ModelCallSucceeded(key=key(2)),
            AgentSucceeded(result=read(1, 2)),
        ],
        [STARTED, heard(), AgentCancelled()],
        [STARTED, *RETRIES],
        [STARTED, call(), failed(1, retryable=False), WAITS, take_over(), call(attempt=2)],
        [STARTED, call(), failed(1, retryable=False, reason="interrupted"), call(attempt=2)],
    ],
)
def test_what_an_agent_may_do(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([*TURN, take_over()], "effect (1, 0) was under way, and was not put in doubt"),
        ([STARTED, call(), EffectPutInDoubt(key=key())], "is in doubt, and nothing is done about it"),
        ([*TURN, EffectReconciled(key=key(index=0), resolution=AGAIN)], "was not in doubt"),
        ([*TURN, (take_over(), *SETTLED), DONE], "an outcome of effect (1, 0), attempt 1, which is not open"),
        ([*TURN, WAITS, DONE], "ToolCallSucceeded, while the agent waits"),
        ([*TURN, WAITS, heard()], "MessageReceived, while the agent waits"),
        ([*TURN, WAITS, WAITS], "AgentParked, while the agent waits"),
        ([*TURN, (take_over(1), *SETTLED)], "generation 1 takes over from generation 1"),
        ([*TURN, (take_over(**RECEIPT | {"model_answers_reused": 2}), *SETTLED)], "reused 2, and it is 1"),
        ([*TURN, (take_over(**RECEIPT | {"tool_calls_run_again": 2}), *SETTLED)], "again 2, and it is 1"),
        ([*TURN, (take_over(model_answers_reused=1), *SETTLED)], "tool_calls_told_unknown 0, and it is 1"),
        ([STARTED, call(), (take_over(model_answers_reused=1), *doubt(-1, AGAIN))], "model_calls_lost 0, and it is 1"),
        ([*TURN, WAITS, take_over(model_answers_reused=1)], "tool_calls_not_begun 0, and it is 2"),
        ([*TURN, late()], "an outcome of generation 1 comes too late for generation 1"),
        ([*TURN, (take_over(), *SETTLED), late(), late()], "is recorded twice"),
        ([*TURN, (take_over(), *SETTLED), late(attempt=3)], "attempt 3, which was not begun"),
        ([STARTED, heard(2)], "message 2 follows message 0"),
        ([STARTED, heard(), heard()], "message 1 follows message 1"),
        ([STARTED, call(messages=[1])], "the model reads message 1, which the agent has not heard"),
        ([STARTED, heard(), call(messages=[1]), ANSWERED, call(2, messages=[1])], "reads message 1 a second time"),
        ([STARTED, heard(), call(), ANSWERED, AgentSucceeded()], "message 1 was not read"),
        ([STARTED, heard(), call(messages=[1]), ANSWERED, AgentSucceeded()], "the result says that messages []"),
        ([STARTED, AgentCancelled(), take_over()], "AgentTakenOver follows the end"),
        ([STARTED, *RETRIES, call(attempt=7)], "after 6 failures in a row"),
        ([STARTED, call(), failed(1, retryable=False), call(attempt=2)], "after a failure that no retry mends"),
    ],
)
def test_what_an_agent_must_never_do_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


def test_only_evidence_comes_from_an_older_generation() -> None:
    history = entries(*TURN, (take_over(), *SETTLED), late(), ToolCallSucceeded(key=key(index=0, attempt=2)))
    history[-2].generation = 1
    assert list(violations(history)) == []
    history[-1].generation = 1
    assert any("is of generation 1, after one of generation 2" in what for what in violations(history))


def test_a_generation_begins_by_taking_over() -> None:
    history = entries(*TURN, DONE)
    history[-1].generation = 2
    assert any("which has not taken over from 1" in what for what in violations(history))


def claim(generation: int = 1, task_id: str = T, **fields: object) -> TaskClaimed:
    given = {"executor_id": "e", **fields}
    return TaskClaimed(task_id=task_id, node_id=task_id[0], visit=1, generation=generation, **given)  # type: ignore[arg-type]


def lapse(generation: int = 1) -> TaskClaimLapsed:
    return TaskClaimLapsed(task_id=T, generation=generation)


def sent(number: int = 1, task_id: str = T) -> MessageSent:
    return MessageSent(message_id=f"m{number}", task_id=task_id, number=number, text=Body(inline=b"hurry"))


def ended(*numbers: int) -> TaskSucceeded:
    return TaskSucceeded(task_id=T, result=read(*numbers))


RUN = RunStarted(
    workflow=Workflow(
        nodes=[Node(node_id="a", noop=NoopNode()), Node(node_id="b", depends_on=["a"], noop=NoopNode())],
        back_edges=[BackEdge(**{"from": "b", "to": "a"}, visits_max=2)],
    )
)
LATE, OVER = RunTimedOut(), RunFailed()
MISSED = TaskFailed(task_id="a-2", failure=Failure(reason="join_missed"))
UNREAD = MessageUndelivered(message_id="m1", task_id=T)
BACK = (TaskSucceeded(task_id="b-1"), EdgeTaken(from_task_id="b-1", to_node_id="a"))
CANCEL = TaskCancelRequested(task_id=T)
GATE = GateOpened(gate_id="g", task_id=T)


@pytest.mark.parametrize(
    "facts",
    [
        [RUN, claim(), RunPaused(), TaskParked(task_id=T), (RunResumed(), TaskUnparked(task_id=T)), claim(2)],
        [RUN, claim(), RunPaused(), lapse(), RunCancelRequested(), claim(2, to_close=True), TaskCancelled(task_id=T)],
        [RUN, claim(), CANCEL, lapse(), claim(2, to_close=True), TaskCancelled(task_id=T), OVER],
        [RUN, claim(), TaskParked(task_id=T), RunCancelRequested(), claim(2, to_close=True), TaskCancelled(task_id=T)],
        [RUN, *[fact for n in range(1, CLAIMS_MAX + 1) for fact in (claim(n), lapse(n))], claim(11, to_close=True)],
        [RUN, TaskFailed(task_id=T), OVER, (RunLimitRaised(), RunRetried(task_ids=[T])), claim(task_id="a-2")],
        [RUN, RunTimedOut(), TaskFailed(task_id=T), OVER, RunRetried(task_ids=[T]), RunTimedOut()],
        [RUN, claim(), sent(), sent(2), ended(1, 2), LATE, OVER],
        [RUN, claim(), sent(), (ended(), UNREAD), LATE, OVER],
        [RUN, sent(), LATE, (UNREAD, OVER)],
        [RUN, BACK, LATE, OVER],
        [RUN, claim(), ended(), TaskSucceeded(task_id="b-1"), OVER],
        [RUN, GATE, GateAnswered(gate_id="g")],
        [RUN, GATE, GateExpired(gate_id="g")],
    ],
)
def test_what_may_happen_to_a_run(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts, kind="run"))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([RUN, claim(), claim(2)], "is claimed while somebody has it"),
        ([RUN, claim(), lapse(), claim(3)], "generation 3 of a-1 follows generation 1"),
        ([RUN, claim(2)], "generation 2 of a-1 follows generation 0"),
        ([RUN, claim(), lapse(2)], "under generation 2 lapses, and nobody has it"),
        ([RUN, claim(), lapse(), lapse()], "lapses, and nobody has it"),
        ([RUN, *[fact for n in range(1, 11) for fact in (claim(n), lapse(n))], claim(11)], "after 10 claims were lost"),
        ([RUN, claim(), TaskParked(task_id=T), claim(2)], "while it waits"),
        ([RUN, RunPaused(), claim()], "is claimed while the run is paused"),
        ([RUN, RunPaused(), RunPaused()], "RunPaused, and the run is paused"),
        ([RUN, RunResumed()], "RunResumed, and the run is not paused"),
        ([RUN, RunPaused(), RunCancelRequested(), RunResumed()], "RunResumed, and the run is not paused"),
        ([RUN, RunPaused(), RunSucceeded()], "RunSucceeded, and the run is paused"),
        ([RUN, OVER], "RunFailed, and a-1 has not ended"),
        ([RUN, claim(), ended(), BACK, MISSED], "the work was sent back to it"),
        ([RUN, RunRetried()], "has neither failed nor been cancelled"),
        ([RUN, RunSucceeded(), RunRetried()], "has neither failed nor been cancelled"),
        ([RUN, claim(), ended(), OVER, RunRetried(task_ids=[T])], "is tried again, and has not failed"),
        ([RUN, OVER, RunLimitRaised()], "RunLimitRaised follows the end"),
        ([RUN, RunCancelled(), claim()], "TaskClaimed follows the end"),
        ([RUN, claim(), RunSucceeded()], "RunSucceeded, and a-1 is worked on"),
        ([RUN, RunCancelRequested(), RunCancelRequested()], "RunCancelRequested comes again"),
        ([RUN, RunTimedOut(), RunTimedOut()], "RunTimedOut comes again"),
        ([RUN, claim(), CANCEL, lapse(), claim(2)], "is claimed after it was cancelled"),
        ([RUN, claim(), CANCEL, CANCEL], "is cancelled again"),
        ([RUN, claim(), ended(), CANCEL], "is cancelled after its end"),
        ([RUN, sent(2)], "message 2 to a-1 follows message 0"),
        ([RUN, sent(), sent(1, "b-1")], "message 'm1' is sent twice"),
        ([RUN, claim(), ended(), sent()], "is sent to a-1, which has ended"),
        ([RUN, claim(), sent(), ended()], "message 'm1' was neither read nor given back"),
        ([RUN, sent(), OVER], "message 'm1' was neither read nor given back"),
        ([RUN, claim(), ended(1)], "has read message 1, which was not sent"),
        ([RUN, claim(), sent(), (ended(1), UNREAD)], "is undelivered, and was read"),
        ([RUN, claim(), sent(), UNREAD, ended(1)], "has read 'm1', which was undelivered"),
        ([RUN, claim(), sent(), UNREAD, UNREAD], "is undelivered twice"),
        ([RUN, UNREAD], "is undelivered, and was not sent"),
        ([RUN, claim(), BACK, claim(task_id="a-2"), BACK], "once more than the 2 visits that the workflow allows"),
        ([RUN, GATE, GATE], "gate g is opened again"),
        ([RUN, GateAnswered(gate_id="g")], "GateAnswered of gate g, which is not open"),
        ([RUN, GATE, GateAnswered(gate_id="g"), GateExpired(gate_id="g")], "GateExpired of gate g, which is not open"),
    ],
)
def test_what_must_never_happen_to_a_run_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts, kind="run")))


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([RUN, claim(), AgentStarted(generation=1, executor_id="e"), AgentSucceeded(), ended()], ""),
        ([RUN, AgentStarted(generation=1, executor_id="e")], "which has no such claim"),
        ([RUN, claim(), AgentStarted(generation=1, executor_id="another")], "which has no such claim"),
        ([RUN, claim(), AgentStarted(generation=1, executor_id="e"), take_over()], "which has no such claim"),
        ([RUN, claim(), AgentStarted(generation=1, executor_id="e"), ended()], "and its agent has not ended"),
        ([RUN, claim(), AgentStarted(generation=1, executor_id="e"), heard()], "message 1 was not sent like this"),
        ([RUN, sent(), claim(), AgentStarted(generation=1, executor_id="e"), heard()], ""),
    ],
)
def test_a_run_and_its_agents_agree(facts: Sequence[Message], word: str) -> None:
    """Each fact goes to the log of what it is about."""
    agents = ("Agent", "MessageReceived")
    kinds = ["agent" if fact.DESCRIPTOR.name.startswith(agents) else "run" for fact in facts]
    history = log(*((kind, "x_a-1" if kind == "agent" else "x", fact) for kind, fact in zip(kinds, facts, strict=True)))
    found = list(violations(history))
    assert any(word in what for what in found) if word else found == []
