"""What is told about control: who stops and starts what, what is read when, and what a take-over has cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crewlog.cli import receipts, wording
from crewlog.cli.lines import Line, Tone
from crewlog.cli.story import tell_all
from crewlog.v1.agent_pb2 import (
    AgentParked,
    AgentTakenOver,
    EffectKey,
    LateOutcomeRecorded,
    MessageReceived,
    ModelCallStarted,
    ResumeReceipt,
    ToolCallStarted,
    ToolOutput,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import (
    GateAnswered,
    GateExpired,
    GateOpened,
    MessageMode,
    MessageSent,
    MessageUndelivered,
    ParkCause,
    RunCancelRequested,
    RunPaused,
    RunResumed,
    RunRetried,
    RunTimedOut,
    TaskCancelRequested,
    TaskClaimed,
    TaskParked,
)
from google.protobuf.message import Message

Record = Callable[..., RecordedEntry]
AGENT = "demo_implementer-1"
TASK = "implementer-1"
RECEIPT = ResumeReceipt(
    model_answers_reused=12,
    reused_usd_micros=840_000,
    tool_outcomes_reused=15,
    model_calls_lost=1,
    lost_usd_micros=20_000,
    tool_calls_run_again=1,
    tool_calls_told_unknown=2,
    tree="3f2a91c0de77aa",
)
KEY_REFUSED = Failure(reason="model_key_refused", message="no such key", what_to_do="set a valid key")


@pytest.fixture
def of_run(record: Record) -> Callable[[Message], list[Line]]:
    return lambda fact: tell_all([record("run", "demo", fact)])


@pytest.fixture
def of_agent(record: Record) -> Callable[[Message], list[Line]]:
    return lambda fact: tell_all([record("agent", AGENT, fact)])


@pytest.mark.parametrize(
    ("fact", "who", "text"),
    [
        (RunPaused(by="local", reason="lunch"), "run", "paused by local: lunch"),
        (RunPaused(by="local"), "run", "paused by local"),
        (RunResumed(by="local"), "run", "goes on, says local"),
        (RunResumed(), "run", "goes on by itself"),
        (
            RunRetried(by="local", task_ids=["tester-1"]),
            "run",
            "taken up again by local: in place of tester-1, their nodes are visited again",
        ),
        (
            RunTimedOut(failure=Failure(reason="run_timed_out", message="too long")),
            "run",
            "out of time: run_timed_out: too long",
        ),
        (
            RunCancelRequested(by="local", grace_seconds=30, reason="enough"),
            "run",
            "is being cancelled by local, within 30 s: enough",
        ),
        (TaskCancelRequested(task_id=TASK, by="local"), TASK, "is being cancelled by local"),
        (
            MessageSent(task_id=TASK, number=2, sent_by="local", text=Body(inline=b"use tabs")),
            TASK,
            "message 2 by local (steer, read before its next model call): use tabs",
        ),
        (
            MessageSent(task_id=TASK, number=1, mode=MessageMode.MESSAGE_MODE_INTERRUPT, text=Body(inline=b"stop")),
            TASK,
            "message 1 (interrupt, read at once): stop",
        ),
        (
            MessageUndelivered(task_id=TASK, message_id="m1"),
            TASK,
            "has not read message m1: it has ended before",
        ),
        (
            TaskParked(task_id=TASK, cause=ParkCause.PARK_CAUSE_MODEL, failure=KEY_REFUSED),
            TASK,
            "the model's provider refuses: waits until its run is resumed (model_key_refused: no such key)",
        ),
        (TaskParked(task_id=TASK, cause=ParkCause.PARK_CAUSE_HANDED_OVER), TASK, "waits for another executor"),
        (
            TaskParked(task_id=TASK, budget_id="run_demo", wanted=Amounts(usd_micros=500_000)),
            TASK,
            "waits: of run_demo it needs $0.5000 more",
        ),
        (GateExpired(gate_id="g", needless_because="a-1 has ended"), "run", "gate g is closed: a-1 has ended"),
        (GateExpired(gate_id="g"), "run", "nobody has answered gate g in time"),
        (
            GateAnswered(gate_id="g", text="tabs\nplease", answered_by="local"),
            "run",
            "gate g answered: tabs please, says local",
        ),
        (
            TaskClaimed(task_id=TASK, executor_id="scheduler", generation=3, to_close=True),
            TASK,
            "claimed by scheduler (generation 3, to close it: nobody hosts its agent any more)",
        ),
    ],
)
def test_what_happens_to_a_run_is_told(
    of_run: Callable[[Message], list[Line]], fact: Message, who: str, text: str
) -> None:
    assert [(line.who, line.text) for line in of_run(fact)] == [(who, text)]


def test_a_pause_by_a_failure_says_why_and_what_to_do(of_run: Callable[[Message], list[Line]]) -> None:
    assert [line.text for line in of_run(RunPaused(failure=KEY_REFUSED))] == [
        "paused: model_key_refused: no such key",
        "to do: set a valid key",
    ]


def test_a_pause_that_ends_by_itself_says_when(of_run: Callable[[Message], list[Line]]) -> None:
    at = 1_700_000_000_000_000
    [line] = of_run(RunPaused(failure=Failure(reason="model_rate_limited", message="slow"), resumes_at_unix_micros=at))
    assert line.text.endswith(f"slow; it goes on by itself at {wording.date_and_time(at)}")


@pytest.mark.parametrize(
    ("choices", "default", "said"),
    [(["a", "b"], "", "a | b"), ([], "tabs", "any text"), (["run_again"], "", "run_again")],
)
def test_a_question_says_how_it_can_be_answered(
    of_run: Callable[[Message], list[Line]], choices: list[str], default: str, said: str
) -> None:
    at = 1_700_000_000_000_000
    gate = GateOpened(
        gate_id="g", task_id=TASK, question="Tabs?", choices=choices, default_choice=default, expires_at_unix_micros=at
    )
    asks, how = of_run(gate)
    assert (asks.text, asks.tone) == ("asks: Tabs?", Tone.BAD)
    after = f", after that {default} holds" if default else ""
    assert how.text == f"answer gate g with {said}, until {wording.date_and_time(at)}{after}"


@pytest.mark.parametrize(
    "cause",
    [
        ParkCause.PARK_CAUSE_PAUSED,
        ParkCause.PARK_CAUSE_QUESTION,
        ParkCause.PARK_CAUSE_MODEL,
        ParkCause.PARK_CAUSE_HANDED_OVER,
    ],
)
def test_a_parking_that_something_else_explains_is_a_detail(
    of_run: Callable[[Message], list[Line]], cause: ParkCause.ValueType
) -> None:
    [line] = of_run(TaskParked(task_id=TASK, cause=cause))
    assert line.tone is Tone.DETAIL


def test_a_parked_agent_says_that_it_lets_go(of_agent: Callable[[Message], list[Line]]) -> None:
    [line] = of_agent(AgentParked(cause=ParkCause.PARK_CAUSE_PAUSED))
    assert line.text == "lets go of its executor: paused: waits until its run is resumed"


def test_a_message_is_told_when_it_comes_and_when_it_is_read(of_agent: Callable[[Message], list[Line]]) -> None:
    [has] = of_agent(MessageReceived(number=1))
    assert (has.text, has.tone) == ("has message 1", Tone.DETAIL)
    asks, reads = of_agent(ModelCallStarted(key=EffectKey(turn=4, index=-1), model="m", messages=[1]))
    assert (asks.tone, reads.text, reads.tone) == (Tone.DETAIL, "turn 4: reads message 1", Tone.PLAIN)


def test_a_take_over_says_what_is_reused_and_what_is_lost(of_agent: Callable[[Message], list[Line]]) -> None:
    [line] = of_agent(AgentTakenOver(generation=2, executor_id="executor-2", receipt=RECEIPT))
    assert line.text == (
        "goes on on executor-2 (generation 2): 12 answers reused ($0.8400 not paid again), 15 tool outcomes reused, "
        "1 model call lost ($0.0200 counts as spent), 1 tool call run again, "
        "2 tool calls of which nobody knows the outcome"
    )
    assert line.tone is Tone.BAD


def test_a_take_over_where_nothing_was_under_way_is_no_alarm(of_agent: Callable[[Message], list[Line]]) -> None:
    receipt = ResumeReceipt(model_answers_reused=1, tool_calls_not_begun=2)
    [line] = of_agent(AgentTakenOver(generation=2, executor_id="e", receipt=receipt))
    assert (line.text, line.tone) == (
        "goes on on e (generation 2): 1 answer reused, 2 tool calls not begun before",
        Tone.PLAIN,
    )


def test_a_late_outcome_decides_nothing_and_says_so(record: Record) -> None:
    key = EffectKey(turn=1, index=0, attempt=1)
    call = ToolUse(tool="bash", input_json=Body(inline=b'{"command": "make"}'))
    late = LateOutcomeRecorded(generation=1, executor_id="executor-1", key=key, tool_output=ToolOutput())
    lines = tell_all(
        [record("agent", AGENT, ToolCallStarted(key=key, call=call)), record("agent", AGENT, late)],
    )
    assert lines[-1].text == (
        "executor-1 (generation 1) says too late what came of it: bash make; kept, and decides nothing"
    )


def test_a_receipt_is_said_line_by_line_without_what_there_is_none_of() -> None:
    assert list(receipts.facts(RECEIPT)) == [
        ("reused", "12 answers ($0.8400, not paid again), 15 tool outcomes"),
        ("lost", "1 model call under way: asked again, and the $0.0200 reserved for it count as spent"),
        ("run again", "1 tool call under way: run again"),
        ("unknown", "2 tool calls under way: the model is told that nobody knows whether anything happened"),
        ("files", "as recorded last (tree 3f2a91c0de)"),
    ]
    assert list(receipts.facts(ResumeReceipt())) == [
        ("reused", "nothing: no answer is recorded yet"),
        ("files", "as at its start"),
    ]
    assert receipts.in_words(ResumeReceipt()) == "nothing was recorded yet"
