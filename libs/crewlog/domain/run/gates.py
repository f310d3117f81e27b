"""Tasks that wait, and the questions that they wait for: for money, for a person, or for the end of a pause.

No executor holds a task that waits. A gate is answered once, by whoever comes first, or expires as it was declared.
"""

from __future__ import annotations

import json
from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound
from crewlog.domain.run import children as run_children
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run import money as run_money
from crewlog.domain.run.begins import APPROVE
from crewlog.domain.run.events import evolve
from crewlog.domain.run.state import Run, Task, claimable, is_over, is_stopping, next_task
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    AnswerGate,
    ExpireGate,
    GateAnswered,
    GateExpired,
    GateKind,
    GateOpened,
    GateStatus,
    ParkCause,
    ParkTask,
    Question,
    RunPaused,
    TaskParked,
    TaskResult,
    TaskStatus,
    TaskTimedOut,
    TaskUnparked,
)
from google.protobuf.message import Message

SUMMARY_CHARACTERS_MAX = 2_000
Command: TypeAlias = ParkTask | AnswerGate | ExpireGate


def decide(run: Run, command: Command) -> list[Message]:
    """Raises InvalidCommand, NotFound, Conflict or WrongState."""
    match command:
        case ParkTask():
            return _park(run, command)
        case AnswerGate():
            return _answer(run, command)
        case ExpireGate():
            return _expire(run, command)
        case _:
            assert_never(command)


def _park(run: Run, command: ParkTask) -> list[Message]:
    task = _task_to_park(run, command.task_id)
    if task is None or (command.generation and command.generation != task.generation):
        return []
    at = command.at_unix_micros
    if not task.generation:
        return run_ends.unpaid(run, task, command.budget_id, at)
    parked = TaskParked(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        budget_id=command.budget_id,
        wanted=command.wanted,
        so_far=command.so_far if command.HasField("so_far") else None,
        cause=command.cause,
        failure=command.failure if command.HasField("failure") else None,
        at_unix_micros=at,
    )
    return [parked] if is_stopping(run) else [parked, *_because_of(run, task, command)]


def _because_of(run: Run, task: Task, command: ParkTask) -> list[Message]:
    """What has to happen so that the task goes on."""
    at = command.at_unix_micros
    match command.cause:
        case ParkCause.PARK_CAUSE_QUESTION:
            return [_question(run, task, command.question, at)]
        case ParkCause.PARK_CAUSE_CHILDREN:
            waits = any(True for _ in run_children.at_work(run, task))
            return [] if waits else [TaskUnparked(task_id=task.task_id, at_unix_micros=at)]
        case ParkCause.PARK_CAUSE_MODEL:
            return [] if run.paused is not None else [_paused_by(command)]
        case ParkCause.PARK_CAUSE_PAUSED | ParkCause.PARK_CAUSE_HANDED_OVER:
            return [] if run.paused is not None else [TaskUnparked(task_id=task.task_id, at_unix_micros=at)]
        case _:
            return run_money.budget_gate(run, task, command.budget_id, Amounts.of(command.wanted), at)


def _paused_by(command: ParkTask) -> RunPaused:
    return RunPaused(
        reason=command.failure.reason,
        failure=command.failure,
        resumes_at_unix_micros=command.not_before_unix_micros,
        at_unix_micros=command.at_unix_micros,
    )


def _question(run: Run, task: Task, question: Question, at: int) -> GateOpened:
    seconds = question.expires_seconds or run.started.gate_seconds or run_money.GATE_SECONDS_DEFAULT
    return GateOpened(
        gate_id=f"{task.task_id}-{len(run.gates) + 1}",
        kind=question.kind,
        task_id=task.task_id,
        question=question.question,
        choices=question.choices,
        expires_at_unix_micros=at + seconds * 1_000_000,
        default_choice=question.default_choice,
        turn=question.turn,
        index=question.index,
        at_unix_micros=at,
    )


def _task_to_park(run: Run, task_id: str) -> Task | None:
    """One that is worked on, or one that could be."""
    task = run.tasks.get(task_id)
    if task is not None:
        return task if task.status == TaskStatus.TASK_STATUS_CLAIMED else None
    node_id = names.node_of(task_id)
    if node_id not in claimable(run):
        return None
    waiting = next_task(run, node_id)
    return waiting if waiting.task_id == task_id else None


def _answer(run: Run, command: AnswerGate) -> list[Message]:
    gate = run.gates.get(command.gate_id)
    if gate is None:
        raise NotFound(f"run {command.run_id!r} has no gate {command.gate_id!r}", what_to_do="see `crewlog gates`")
    _check_answer(gate.opened, command)
    answer = (command.choice, command.text)
    if gate.status == GateStatus.GATE_STATUS_ANSWERED and (gate.choice, gate.text) == answer:
        return []
    if gate.status != GateStatus.GATE_STATUS_OPEN or is_over(run) or gate.opened.task_id not in run.parked:
        raise Conflict(f"gate {command.gate_id!r} is closed already", what_to_do="see `crewlog gates --all`")
    return _answered(run, command)


def _check_answer(opened: GateOpened, command: AnswerGate) -> None:
    if not opened.choices and (command.choice or not command.text.strip()):
        why = "has to say something; the question has no choices"
        raise InvalidCommand(f"text {why}", violations={"text": why})
    if opened.choices and command.choice not in opened.choices:
        why = f"has to be one of {', '.join(opened.choices)}"
        raise InvalidCommand(f"choice {why}", violations={"choice": why})


def _answered(run: Run, command: AnswerGate) -> list[Message]:
    opened, at = run.gates[command.gate_id].opened, command.at_unix_micros
    answered = GateAnswered(
        gate_id=command.gate_id,
        choice=command.choice,
        text=command.text,
        by=command.by if command.HasField("by") else None,
        answered_by=command.answered_by,
        at_unix_micros=at,
    )
    if opened.node_id:
        return [answered, *_gate_ended(run, opened, command.choice or command.text, command.answered_by, at)]
    if opened.kind != GateKind.GATE_KIND_BUDGET:
        return [answered, TaskUnparked(task_id=opened.task_id, at_unix_micros=at)]
    if opened.task_id not in run.child_runs and command.choice == run_money.STOP:
        return [answered, TaskUnparked(task_id=opened.task_id, has_to_stop=True, at_unix_micros=at)]
    if command.choice == run_money.STOP:
        return [answered]  # what waits in the child run is told
    if run_money.is_given(run, opened.budget_id) or opened.budget_id != run_money.own_budget(run):
        return [answered, TaskUnparked(task_id=opened.task_id, at_unix_micros=at)]
    raised = run_money.limit_raised(run, command.by, f"gate:{command.gate_id}", at)
    return [answered, raised, *run_money.all_unparked(evolve(run, answered), command.answered_by, at)]


def _expire(run: Run, command: ExpireGate) -> list[Message]:
    gate = run.gates.get(command.gate_id)
    if gate is None or gate.status != GateStatus.GATE_STATUS_OPEN or is_over(run):
        return []
    return expired(run, gate.opened, command.at_unix_micros)


def expired(run: Run, opened: GateOpened, at: int) -> list[Message]:
    """Nobody has answered in time: without money the task stops, a question gets its default for an answer."""
    if opened.node_id:
        return _gate_expired(run, opened, at)
    has_to_stop = opened.kind == GateKind.GATE_KIND_BUDGET
    is_waited_for = opened.task_id in run.parked and opened.task_id not in run.child_runs
    unparked = TaskUnparked(task_id=opened.task_id, has_to_stop=has_to_stop, at_unix_micros=at)
    return [GateExpired(gate_id=opened.gate_id, at_unix_micros=at), *([unparked] if is_waited_for else [])]


def _gate_expired(run: Run, opened: GateOpened, at: int) -> list[Message]:
    over = GateExpired(gate_id=opened.gate_id, at_unix_micros=at)
    if opened.task_id not in run.parked or is_stopping(run):
        return [over]
    if opened.default_choice:
        return [over, *_gate_ended(run, opened, opened.default_choice, "", at)]
    failure = Failure(
        reason="gate_expired",
        message=f"nobody has answered {opened.gate_id} in time",
        what_to_do="answer it next time, give it a default, or an edge for `timed_out`; then `crewlog retry`",
    )
    timed_out = TaskTimedOut(task_id=opened.task_id, failure=failure, at_unix_micros=at)
    after = evolve(run, timed_out)
    task = after.tasks[opened.task_id]
    return [over, timed_out, *run_ends.events_of(after, task, run_ends.stopped(task, None, at))]


def _gate_ended(run: Run, opened: GateOpened, answer: str, answered_by: str, at: int) -> list[Message]:
    """The answer is the result of the task; an approval that is refused is its failure."""
    task = run.tasks[opened.task_id]
    result = _gate_result(opened, answer, answered_by)
    if opened.kind == GateKind.GATE_KIND_APPROVAL and answer != APPROVE:
        failure = Failure(
            reason="gate_rejected",
            message=f"{task.task_id} was rejected by {answered_by or 'default'}",
            what_to_do="give the gate an edge for `failed` that says what to do then",
        )
        return run_ends.events_of(run, task, run_ends.failed(failure, result, at))
    return run_ends.events_of(run, task, run_ends.succeeded(result, at))


def _gate_result(opened: GateOpened, answer: str, answered_by: str) -> TaskResult:
    is_choice = bool(opened.choices)
    value = {
        "choice": answer if is_choice else "",
        "text": "" if is_choice else answer,
        "answered_by": answered_by,
        "is_expired": not answered_by,
    }
    return TaskResult(
        output=Body(inline=answer.encode()),
        summary=answer[:SUMMARY_CHARACTERS_MAX],
        structured_json=json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    )
