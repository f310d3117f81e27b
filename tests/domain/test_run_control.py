"""Tables of what people and the clock ask of a run, and of the questions that it asks people."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.decider import fold
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.domain.run.deadlines import RUN_SECONDS_MAX, WAITING_SECONDS_MAX, next_due_at
from crewlog.domain.run.state import Run
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Amounts, Limit
from crewlog.v1.run_pb2 import (
    AgentNode,
    AnswerGate,
    CancelRun,
    CancelTask,
    CheckDeadlines,
    ClaimTask,
    EndTask,
    FinishRun,
    GateAnswered,
    GateExpired,
    GateKind,
    GateOpened,
    LapseClaim,
    MessageMode,
    MessageSent,
    MessageUndelivered,
    Node,
    Parent,
    ParkCause,
    ParkTask,
    PauseRun,
    Question,
    ResumeRun,
    RetryRun,
    Role,
    RunLimitRaised,
    RunLimits,
    RunPaused,
    RunResumed,
    RunRetried,
    RunStatus,
    RunTimedOut,
    SendMessage,
    StartRun,
    TaskCancelled,
    TaskCancelRequested,
    TaskClaimed,
    TaskFailure,
    TaskParked,
    TaskResult,
    TaskStatus,
    TaskSucceeded,
    TaskUnparked,
    Workflow,
)

SECOND = 1_000_000
BEGIN = 1_000 * SECOND


def agent_node(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, agent=AgentNode(role=Role(name=node_id, prompt="do it")))


WIDE = Workflow(name="wide", nodes=[agent_node("a"), agent_node("b"), agent_node("c", "a", "b")])


def start(**changes: object) -> StartRun:
    fields: dict[str, object] = {"run_id": "r", "workflow": WIDE, "input": "x", "at_unix_micros": BEGIN, **changes}
    return StartRun(**fields)  # type: ignore[arg-type]


def claim(task: str = "a-1", *, to_close: bool = False, at: int = BEGIN) -> ClaimTask:
    executor = "scheduler" if to_close else "e"
    return ClaimTask(run_id="r", task_id=task, executor_id=executor, to_close=to_close, at_unix_micros=at)


def end(task: str = "a-1", read: Sequence[int] = (), commit: str = "") -> EndTask:
    return EndTask(run_id="r", task_id=task, succeeded=TaskResult(messages_read=read, commit=commit))


def failed(task: str = "a-1", commit: str = "") -> EndTask:
    failure = TaskFailure(failure=Failure(reason="model_refused"), result=TaskResult(commit=commit))
    return EndTask(run_id="r", task_id=task, failed=failure)


def cancelled(task: str = "a-1") -> EndTask:
    return EndTask(run_id="r", task_id=task, cancelled=TaskResult())


def park(cause: ParkCause.ValueType, task: str = "a-1", **changes: object) -> ParkTask:
    fields: dict[str, object] = {"run_id": "r", "task_id": task, "cause": cause, "at_unix_micros": BEGIN, **changes}
    return ParkTask(**fields)  # type: ignore[arg-type]


def send(
    text: str = "look", task: str = "a-1", number: int = 1, mode: MessageMode.ValueType = MessageMode.MESSAGE_MODE_STEER
) -> SendMessage:
    return SendMessage(run_id="r", task_id=task, message_id=f"m{number}", mode=mode, text=text)


def cancel_task(task: str = "a-1") -> CancelTask:
    return CancelTask(run_id="r", task_id=task, reason="enough")


def check(at: int) -> CheckDeadlines:
    return CheckDeadlines(run_id="r", at_unix_micros=at)


def answer(gate: str = "a-1-1", choice: str = "", text: str = "") -> AnswerGate:
    return AnswerGate(run_id="r", gate_id=gate, choice=choice, text=text)


PAUSED, HANDED_OVER = ParkCause.PARK_CAUSE_PAUSED, ParkCause.PARK_CAUSE_HANDED_OVER
MODEL, ASKED = ParkCause.PARK_CAUSE_MODEL, ParkCause.PARK_CAUSE_QUESTION
PAUSE, RESUME = PauseRun(run_id="r", reason="lunch"), ResumeRun(run_id="r", at_unix_micros=BEGIN)
CANCEL, FINISH = CancelRun(run_id="r"), FinishRun(run_id="r")
RETRY = RetryRun(run_id="r", request_id="again", at_unix_micros=BEGIN)
QUESTION = Question(turn=2, index=0, kind=GateKind.GATE_KIND_QUESTION, question="red or blue?")
CHOICE = Question(turn=2, index=0, kind=GateKind.GATE_KIND_QUESTION, question="?", choices=["red", "blue"])
KEY = Failure(reason="model_key_refused")
WORKING = (start(), claim())
ASKING = (*WORKING, park(ASKED, question=QUESTION))
CHOOSING = (*WORKING, park(ASKED, question=CHOICE))
BROKEN = (*WORKING, claim("b-1"), failed(), cancelled("b-1"), FINISH)


def after(*commands: run.Command) -> Run:
    state = run.INITIAL
    for command in commands:
        state = fold(run, run.decide(state, command), state)
    return state


def lapse(task: str = "a-1", generation: int = 1) -> LapseClaim:
    return LapseClaim(run_id="r", task_id=task, generation=generation, at_unix_micros=BEGIN)


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        (WORKING, PAUSE, [RunPaused]),
        ((*WORKING, PAUSE), PAUSE, []),
        ((*WORKING, CANCEL), PAUSE, WrongState),
        (BROKEN, PAUSE, WrongState),
        ((*WORKING, PAUSE), claim("b-1"), WrongState),
        ((*WORKING, PAUSE), park(PAUSED), [TaskParked]),
        (WORKING, park(PAUSED), [TaskParked, TaskUnparked]),
        (WORKING, park(HANDED_OVER), [TaskParked, TaskUnparked]),
        ((*WORKING, PAUSE), park(HANDED_OVER), [TaskParked]),
        ((*WORKING, PAUSE, park(PAUSED)), RESUME, [RunResumed, TaskUnparked]),
        ((*WORKING, PAUSE, park(HANDED_OVER)), RESUME, [RunResumed, TaskUnparked]),
        ((*WORKING, PAUSE, park(ASKED, question=QUESTION)), RESUME, [RunResumed]),
        (WORKING, RESUME, []),
        (BROKEN, RESUME, WrongState),
        ((*WORKING, PAUSE), FINISH, WrongState),
        ((*WORKING, PAUSE), end(), [TaskSucceeded]),
        (WORKING, park(MODEL, failure=KEY), [TaskParked, RunPaused]),
        ((*WORKING, claim("b-1"), park(MODEL, failure=KEY)), park(MODEL, "b-1", failure=KEY), [TaskParked]),
        ((*WORKING, park(MODEL, failure=KEY)), RESUME, [RunResumed, TaskUnparked]),
        ((*WORKING, CANCEL), park(ASKED, question=QUESTION), [TaskParked]),
        (WORKING, park(ASKED, question=QUESTION), [TaskParked, GateOpened]),
        (ASKING, answer(text="red"), [GateAnswered, TaskUnparked]),
        (ASKING, answer(choice="red"), InvalidCommand),
        (ASKING, answer(text=" "), InvalidCommand),
        ((*ASKING, answer(text="red")), answer(text="red"), []),
        ((*ASKING, answer(text="red")), answer(text="blue"), Conflict),
        (CHOOSING, answer(choice="red"), [GateAnswered, TaskUnparked]),
        (CHOOSING, answer(choice="green"), InvalidCommand),
        (WORKING, cancel_task(), [TaskCancelRequested]),
        ((*WORKING, cancel_task()), cancel_task(), []),
        ((*WORKING, end()), cancel_task(), []),
        (WORKING, cancel_task("b-1"), [TaskCancelRequested, TaskCancelled]),
        (WORKING, cancel_task("c-1"), WrongState),
        (WORKING, cancel_task("a-2"), NotFound),
        (WORKING, cancel_task("nobody-1"), NotFound),
        (ASKING, cancel_task(), [TaskCancelRequested]),
        ((*ASKING, cancel_task()), claim(to_close=True), [TaskClaimed]),
        (ASKING, claim(to_close=True), WrongState),
        (WORKING, send(), [MessageSent]),
        (WORKING, send(task=""), [MessageSent]),
        ((*WORKING, claim("b-1")), send(task=""), InvalidCommand),
        ((start(),), send(task=""), WrongState),
        (WORKING, send(task="b-1"), [MessageSent]),
        (WORKING, send(task="a-2"), WrongState),
        (WORKING, send(task="nobody-1"), NotFound),
        (WORKING, SendMessage(run_id="r", task_id="a-1", message_id="not/a/name", text="x"), InvalidCommand),
        ((*WORKING, send()), send(), []),
        ((*WORKING, send()), send("other words"), Conflict),
        ((*WORKING, send()), send(mode=MessageMode.MESSAGE_MODE_INTERRUPT), Conflict),
        ((*WORKING, end()), send(), WrongState),
        ((*WORKING, CANCEL), send(), WrongState),
        ((*WORKING, send()), end(), [TaskSucceeded, MessageUndelivered]),
        ((*WORKING, send()), end(read=[1]), [TaskSucceeded]),
        (WORKING, RETRY, WrongState),
        (BROKEN, RETRY, [RunRetried]),
        ((*BROKEN, RETRY), RETRY, []),
        (BROKEN, RetryRun(run_id="r", by=Amounts(usd_micros=5)), InvalidCommand),
        (WORKING, check(BEGIN), []),
        (WORKING, check(BEGIN + RUN_SECONDS_MAX * SECOND), [RunTimedOut]),
        (WORKING, check(BEGIN + WAITING_SECONDS_MAX * SECOND), [RunTimedOut]),
        ((*WORKING, claim("b-1")), check(BEGIN + WAITING_SECONDS_MAX * SECOND), []),
        ((*WORKING, PAUSE), check(BEGIN + WAITING_SECONDS_MAX * SECOND), []),
        ((*WORKING, CANCEL), check(BEGIN + RUN_SECONDS_MAX * SECOND), []),
        (BROKEN, check(BEGIN + RUN_SECONDS_MAX * SECOND), []),
        ((*ASKING, claim("b-1")), check(BEGIN + 8 * 86_400 * SECOND), [GateExpired, TaskUnparked]),
    ],
)
def test_decide(given: Sequence[run.Command], when: run.Command, then: object) -> None:
    state = after(*given)
    if isinstance(then, type):
        with pytest.raises(then):
            run.decide(state, when)
    else:
        assert [type(event) for event in run.decide(state, when)] == then


def test_nothing_is_claimed_while_a_run_is_paused_and_everything_after() -> None:
    state = after(*WORKING, PAUSE, park(PAUSED))
    assert run_state.claimable(state) == () and not run_state.is_finishing(state)
    assert set(run_state.claimable(after(*WORKING, PAUSE, park(PAUSED), RESUME))) == {"a", "b"}


@pytest.mark.parametrize(
    ("commands", "has_to_do"),
    [((*WORKING, end(), claim("b-1"), end("b-1"), claim("c-1"), end("c-1"), FINISH), False), (BROKEN, True)],
    ids=["succeeded", "failed"],
)
@pytest.mark.parametrize("command", [PAUSE, RESUME])
def test_a_retry_is_advised_only_where_there_can_be_one(
    commands: Sequence[run.Command], command: run.Command, has_to_do: bool
) -> None:
    with pytest.raises(WrongState) as refused:
        run.decide(after(*commands), command)
    assert ("crewlog retry" in refused.value.what_to_do) is has_to_do


def test_who_had_to_let_go_of_an_executor_that_ends_is_first_in_line() -> None:
    assert run_state.claimable(after(*WORKING, park(HANDED_OVER))) == ("a", "b")
    assert run_state.claimable(after(*WORKING, park(PAUSED))) == ("b", "a")


def test_a_handover_is_no_lapse() -> None:
    commands: list[run.Command] = [start()]
    for _ in range(run_state.CLAIMS_MAX + 2):
        commands += [claim(), park(HANDED_OVER)]
    assert run_state.closable(after(*commands)) == []


def test_a_provider_that_says_how_long_to_wait_is_asked_again_by_itself() -> None:
    resumes_at = BEGIN + 600 * SECOND
    state = after(*WORKING, claim("b-1"), park(MODEL, failure=KEY, not_before_unix_micros=resumes_at))
    assert next_due_at(state) == resumes_at
    assert run.decide(state, check(resumes_at - 1)) == []
    assert [type(event) for event in run.decide(state, check(resumes_at))] == [RunResumed, TaskUnparked]


def test_a_cancelled_task_fails_the_run_and_only_by_itself() -> None:
    state = after(*WORKING, claim("b-1"), cancel_task(), cancelled())
    assert state.failure is not None and state.failure.reason == "task_cancelled"
    assert run_state.is_stopping(state) and state.tasks["b-1"].cancel_requested is None


def test_a_late_request_to_stop_a_task_does_not_stop_its_successor() -> None:
    again = (*BROKEN, RETRY, claim("a-2"))
    assert run.decide(after(*again), cancel_task("a-1")) == []
    state = after(*again, cancel_task("a-1"))
    assert state.tasks["a-2"].cancel_requested is None and state.cancelling == ()


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        (WORKING, "neither failed"),
        ((*WORKING, PAUSE), "neither failed"),
        ((*WORKING, CANCEL), "still being stopped"),
        ((*WORKING, end(), claim("b-1"), end("b-1"), claim("c-1"), end("c-1"), FINISH), "neither failed"),
    ],
    ids=["at work", "paused", "being stopped", "succeeded"],
)
def test_who_retries_too_soon_hears_when_it_is_time(commands: Sequence[run.Command], why: str) -> None:
    with pytest.raises(WrongState, match=why) as refused:
        run.decide(after(*commands), RETRY)
    assert ("crewlog watch r" in refused.value.what_to_do) == (why == "still being stopped")


def test_a_retry_keeps_what_succeeded_and_visits_the_rest_again() -> None:
    first = (start(), claim(), claim("b-1"), end("b-1", commit="1" * 40), failed(commit="2" * 40), FINISH)
    state = after(*first, RETRY)
    assert state.status == RunStatus.RUN_STATUS_RUNNING and state.failure is None and state.retries == 1
    assert run_state.claimable(state) == ("a",)
    state = after(*first, RETRY, claim("a-2"), end("a-2", commit="3" * 40), claim("c-1"))
    assert state.tasks["c-1"].based_on == ("a-2", "b-1")
    ended = after(*first, RETRY, claim("a-2"), end("a-2", commit="3" * 40), claim("c-1"), end("c-1", commit="4" * 40))
    assert run_state.tips(ended) == ("4" * 40,)
    assert run_state.is_over(fold(run, run.decide(ended, FINISH), ended))


def test_what_was_tried_in_vain_is_not_delivered_once_it_is_replaced() -> None:
    state = after(start(), claim(), claim("b-1"), failed(commit="2" * 40), cancelled("b-1"), FINISH, RETRY)
    assert run_state.tips(state) == ()


def test_only_its_parent_takes_a_child_run_up() -> None:
    part = start(parent=Parent(run_id="p", task_id="sub-1", root_run_id="p", depth=1))
    state = after(part, claim(), claim("b-1"), failed(), cancelled("b-1"), FINISH)
    with pytest.raises(WrongState) as refused:
        run.decide(state, RetryRun(run_id="r", requested_by="local"))
    assert "crewlog retry p" in refused.value.what_to_do
    assert isinstance(run.decide(state, RetryRun(run_id="r"))[0], RunRetried)


def test_a_retry_can_bring_money() -> None:
    poor = (start(budget=Limit(usd_micros=10)), claim(), claim("b-1"), failed(), cancelled("b-1"), FINISH)
    events = run.decide(after(*poor), RetryRun(run_id="r", by=Amounts(usd_micros=90)))
    assert [type(event) for event in events] == [RunLimitRaised, RunRetried]
    assert fold(run, events, after(*poor)).limit.usd_micros == 100


def test_messages_to_a_task_that_never_began_are_given_up_once() -> None:
    asked = (*WORKING, claim("b-1"), send(task="c-1"), failed(), cancelled("b-1"))
    events = run.decide(after(*asked), FINISH)
    assert [type(event) for event in events][:1] == [MessageUndelivered]
    again = after(*asked, FINISH, RETRY)
    assert again.visits["c"] == 2
    ends = (claim("a-2"), end("a-2"), claim("b-2"), end("b-2"), claim("c-2"))
    assert [type(e) for e in run.decide(after(*asked, FINISH, RETRY, *ends), end("c-2"))] == [TaskSucceeded]


def test_nobody_reads_what_was_said_to_a_task_that_is_closed() -> None:
    state = after(*WORKING, send(), CANCEL, lapse(), claim(to_close=True))
    assert [type(event) for event in run.decide(state, cancelled())] == [TaskCancelled, MessageUndelivered]


def test_limits_of_the_run_are_kept() -> None:
    limits = RunLimits(duration_seconds_max=60, waiting_seconds_max=10)
    state = after(start(limits=limits))
    assert next_due_at(state) == BEGIN + 10 * SECOND
    claimed = after(start(limits=limits), claim(), claim("b-1"))
    assert next_due_at(claimed) == BEGIN + 60 * SECOND
    timed_out = fold(run, run.decide(claimed, check(BEGIN + 60 * SECOND)), claimed)
    assert timed_out.failure is not None and timed_out.failure.reason == "run_timed_out"
    assert run_state.is_stopping(timed_out)


def test_a_retry_gives_a_run_its_time_anew() -> None:
    limits = RunLimits(duration_seconds_max=60)
    late = BEGIN + 3_600 * SECOND
    state = after(start(limits=limits), claim(), claim("b-1"), failed(), cancelled("b-1"), FINISH)
    retried = fold(run, run.decide(state, RetryRun(run_id="r", at_unix_micros=late)), state)
    assert next_due_at(retried) == late + 60 * SECOND


def test_an_answer_wakes_the_task_and_the_run_can_be_over_nowhere_in_between() -> None:
    state = after(*ASKING, claim("b-1"), end("b-1"))
    assert not run_state.is_finishing(state)
    assert state.tasks["a-1"].status == TaskStatus.TASK_STATUS_PARKED
