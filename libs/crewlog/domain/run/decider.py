"""A run: one execution of a workflow, with its tasks and its money.

    start -> RUNNING --(every task ended)--------------> SUCCEEDED
                |  \\--(a task failed, the rest ended)--> FAILED ----retry--> RUNNING
                \\----cancel--> CANCELLING --------------> CANCELLED --retry--> RUNNING

A task is one visit of a node:

    waiting -> ready --claim--> claimed --end--> succeeded | failed | cancelled
                 ^ ^---lapse-------/ |
                 \\--unpark-- parked <-/

A task that has begun is ended by who holds it. Where nobody does and nobody shall any more, the scheduler claims it to
end it: only a new generation can say that an agent does nothing any more.

Nothing says that a task is ready: `evolve` works it out, once per event and at a cost that does not grow with the
number of tasks. What the run does itself when it is a node's turn, and what the end of a task leads to, is decided with
what has led to it, in the same entry: crewlog.domain.run.begins and crewlog.domain.run.ends.

The money of a run is taken in allotments: the claim and its allotment are one event, and what a task did not spend
returns when it ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

from crewlog.domain import amounts, names
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.errors import Conflict, NotFound, WrongState
from crewlog.domain.run import begins as run_begins
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import children as run_children
from crewlog.domain.run import context as run_context
from crewlog.domain.run import control as run_control
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run import gates as run_gates
from crewlog.domain.run import money as run_money
from crewlog.domain.run import stopping as run_stopping
from crewlog.domain.run.events import evolve, fold_all
from crewlog.domain.run.state import (
    ENDED,
    INITIAL,
    Run,
    Task,
    claimable,
    closable,
    is_finishing,
    is_over,
    is_stopping,
    is_to_stop,
    next_task,
)
from crewlog.domain.workflow import validation as workflow
from crewlog.domain.workflow.expressions import ExpressionFailed
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    AnswerGate,
    AskForAllotment,
    CancelRun,
    CancelTask,
    CheckDeadlines,
    ClaimTask,
    EndTask,
    ExpireGate,
    FilesFrom,
    FinishRun,
    FitRunLimit,
    LapseClaim,
    ParkTask,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunStarted,
    RunStatus,
    RunSucceeded,
    SendMessage,
    SignalRun,
    SpawnChild,
    StartRun,
    TaskCancelRequested,
    TaskClaimed,
    TaskClaimLapsed,
    TaskStatus,
)
from google.protobuf.message import Message

__all__ = ["INITIAL", "KIND", "VERSION", "Command", "decide", "evolve", "fold_all"]

KIND = "run"
VERSION = 2
PRIORITY_MAX = 10

Command: TypeAlias = (
    StartRun
    | ClaimTask
    | LapseClaim
    | EndTask
    | CancelRun
    | FinishRun
    | SpawnChild
    | run_control.Command
    | run_gates.Command
    | run_money.Command
    | run_child_money.Command
)


def decide(run: Run, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand, NotFound, Conflict, StaleClaim, WrongState or BudgetExceeded."""
    return decide_and_evolve(run, command)[0]


def decide_and_evolve(run: Run, command: Command) -> tuple[list[Message], Run]:
    """As `decide`, with the state that the events lead to."""
    events, at = _decide(run, command), command.at_unix_micros
    after = fold_all(run, events)
    if not _leads_on(after, command, events):
        return events, after
    if isinstance(command, EndTask):
        events, after = _with(events, after, run_money.warnings(run, after, at))
    events, after = _with_all_that_follows(run, events, after, at)
    if after.messages:
        events, after = _with(events, after, run_control.given_back(after, events, at))
    if after.due and not is_over(after):
        events, after = _with(events, after, run_money.needless_gates(after, events, at))
    return events, after


def _with_all_that_follows(before: Run, events: list[Message], run: Run, at: int) -> tuple[list[Message], Run]:
    """What one node stops may be what another waits for."""
    while True:
        seen = run
        events, run = _with(events, run, run_stopping.failed_maps(before, run, at))
        events, run = _with(events, run, run_stopping.overtaken(before, run, at))
        if run.pending and sum(event.ByteSize() for event in events) < run_begins.FOLLOWING_BYTES_MAX:
            events, run = _with(events, run, run_begins.following(run, at))
        if run is seen:
            return events, run
        before = seen


def _with(events: list[Message], run: Run, more: list[Message]) -> tuple[list[Message], Run]:
    return ([*events, *more], fold_all(run, more)) if more else (events, run)


def _leads_on(run: Run, command: Command, events: Sequence[Message]) -> bool:
    """Whether it may be the turn of a node that no executor performs. A claim only says that a task is worked on."""
    if not events:
        return isinstance(command, CheckDeadlines) and run_begins.is_going_on(run)
    return not isinstance(command, ClaimTask) or not isinstance(events[0], TaskClaimed)


def _decide(run: Run, command: Command) -> list[Message]:
    if isinstance(command, StartRun):
        return _start(run, command)
    if run.status == RunStatus.RUN_STATUS_UNSPECIFIED:
        raise NotFound(f"there is no run {command.run_id!r}", what_to_do="see `crewlog runs`")
    match command:
        case ClaimTask():
            return _claim(run, command)
        case LapseClaim():
            return _lapse(run, command)
        case EndTask():
            return _end(run, command)
        case CancelRun():
            return _cancel(run, command)
        case FinishRun():
            return _finish(run, command)
        case SpawnChild():
            return run_children.spawn(run, command)
        case PauseRun() | ResumeRun() | CancelTask() | RetryRun() | SendMessage() | SignalRun() | CheckDeadlines():
            return run_control.decide(run, command)
        case ParkTask() | AnswerGate() | ExpireGate():
            return run_gates.decide(run, command)
        case FitRunLimit() | AskForAllotment():
            return run_child_money.decide(run, command)
        case _:
            return run_money.decide(run, command)


def _start(run: Run, command: StartRun) -> list[Message]:
    request_hash = _request_hash(command)
    if run.status != RunStatus.RUN_STATUS_UNSPECIFIED:
        if run.started.request_hash == request_hash:
            return []
        raise Conflict(f"run {command.run_id!r} exists with other content", what_to_do="choose another run id")
    names.check_name("run_id", command.run_id, names.RUN_ID_CHARACTERS_MAX)
    workflow.validate(command.workflow)
    amounts.check("budget", command.budget)
    return [
        RunStarted(
            run_id=command.run_id,
            project_id=command.project_id,
            workflow=command.workflow,
            input=Body(inline=command.input.encode()),
            budget=command.budget,
            model=command.model,
            base_commit=command.base_commit,
            at_unix_micros=command.at_unix_micros,
            request_hash=request_hash,
            request_traceparent=command.request_traceparent,
            requested_by=command.requested_by,
            budget_ids=run_money.budget_ids(command),
            on_exhausted=command.on_exhausted,
            gate_seconds=command.gate_seconds,
            limits=command.limits if command.HasField("limits") else None,
            priority=max(-PRIORITY_MAX, min(PRIORITY_MAX, command.priority)),
            parent=command.parent if command.HasField("parent") else None,
        )
    ]


def _request_hash(command: StartRun) -> bytes:
    """Of what the client asked for, without what the gateway adds."""
    asked = StartRun()
    asked.CopyFrom(command)
    asked.ClearField("base_commit")
    asked.ClearField("at_unix_micros")
    asked.ClearField("request_traceparent")
    asked.ClearField("requested_by")
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()


def _claim(run: Run, command: ClaimTask) -> list[Message]:
    if command.to_close:
        return _claim_to_close(run, command)
    task = _task_of(run, command.task_id)
    if task.node_id not in claimable(run):
        raise WrongState(f"task {command.task_id!r} of run {command.run_id!r} cannot be claimed now")
    if task.generation:
        return [_claimed(task, command, task.allotment)]
    if task.has_to_stop:
        return run_ends.unpaid(run, task, run_money.own_budget(run), command.at_unix_micros)
    try:
        task = run_begins.with_files(run, task)
        run_context.check_rendered(run, task.node_id)
    except ExpressionFailed as problem:
        return run_ends.events_of(run, task, _not_begun(task, problem, command.at_unix_micros))
    given = Amounts.of(command.given) if command.HasField("given") else ZERO
    allotment = run_money.first_allotment(run, task.node_id, given)
    if allotment is None:
        return run_ends.unpaid(run, task, run_money.own_budget(run), command.at_unix_micros)
    return [_claimed(task, command, allotment)]


def _not_begun(task: Task, problem: ExpressionFailed, at: int) -> run_ends.End:
    failure = Failure(
        reason=run_ends.EXPRESSION_FAILED,
        message=f"what {task.node_id!r} starts from cannot be worked out: {problem}",
        what_to_do=f"{run_ends.MEND_AND_START}; the expression was given what the nodes before it handed over",
    )
    return run_ends.failed(failure, None, at)


def _claim_to_close(run: Run, command: ClaimTask) -> list[Message]:
    task = next((task for task in closable(run) if task.task_id == command.task_id), None)
    if task is None:
        raise WrongState(f"task {command.task_id!r} of run {command.run_id!r} does not have to be closed")
    return [_claimed(task, command, task.allotment)]


def _claimed(task: Task, command: ClaimTask, allotment: Amounts) -> TaskClaimed:
    return TaskClaimed(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        executor_id=command.executor_id,
        generation=task.generation + 1,
        allotment=allotment.limit(),
        has_to_stop=task.has_to_stop,
        to_close=command.to_close,
        files_from=None if task.files_from is None or task.generation else FilesFrom(task_ids=task.files_from),
        at_unix_micros=command.at_unix_micros,
    )


def _lapse(run: Run, command: LapseClaim) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None or task.status != TaskStatus.TASK_STATUS_CLAIMED or task.generation != command.generation:
        return []
    lapsed = TaskClaimLapsed(
        task_id=task.task_id,
        generation=task.generation,
        reason=command.reason,
        so_far=command.so_far if command.HasField("so_far") else None,
        at_unix_micros=command.at_unix_micros,
    )
    return [lapsed]


def _end(run: Run, command: EndTask) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None:
        raise NotFound(f"run {command.run_id!r} has no task {command.task_id!r}")
    if task.status in ENDED or (command.is_merge and task.task_id not in run.merging):
        return []
    return _ended(run, task, command)


def _ended(run: Run, task: Task, command: EndTask) -> list[Message]:
    at = command.at_unix_micros
    match command.WhichOneof("end"):
        case "succeeded" if task.task_id in run.merging:
            return run_begins.merged(run, task, command.succeeded.commit, at)
        case "succeeded":
            return run_ends.events_of(run, task, run_ends.succeeded(command.succeeded, at))
        case "failed" if task.timed_out is None:
            end = command.failed
            return run_ends.events_of(run, task, run_ends.failed(end.failure, end.result, at))
        case "failed":
            return run_ends.events_of(run, task, run_ends.stopped(task, command.failed.result, at))
        case _:
            return _cancelled(run, task, command)


def _cancelled(run: Run, task: Task, command: EndTask) -> list[Message]:
    """Also where this run has not asked for it: somebody has cancelled the child run itself."""
    asked: list[Message] = []
    if not is_to_stop(task) and not is_stopping(run):
        reason = f"its run {task.child_run_id} was cancelled" if task.child_run_id else ""
        asked = [TaskCancelRequested(task_id=task.task_id, reason=reason, at_unix_micros=command.at_unix_micros)]
        run = fold_all(run, asked)
        task = run.tasks[task.task_id]
    end = run_ends.stopped(task, command.cancelled, command.at_unix_micros)
    return [*asked, *run_ends.events_of(run, task, end)]


def _cancel(run: Run, command: CancelRun) -> list[Message]:
    if run.status != RunStatus.RUN_STATUS_RUNNING:
        return []
    return [
        RunCancelRequested(
            reason=command.reason,
            grace_seconds=command.grace_seconds,
            by=command.by,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def _finish(run: Run, command: FinishRun) -> list[Message]:
    if is_over(run):
        return []
    if not is_finishing(run):
        raise WrongState(f"run {command.run_id!r} still has something to do")
    change = command.change if command.HasField("change") else None
    at = command.at_unix_micros
    waiting = run_money.given_up(run, at)
    given_up = [*waiting, *run_money.needless_gates(run, waiting, at), *run_control.all_undelivered(run, at)]
    failure = run.failure or (command.failure if command.HasField("failure") else None)
    if run.status == RunStatus.RUN_STATUS_CANCELLING:
        return [*given_up, RunCancelled(change=change, at_unix_micros=at)]
    if failure is not None:
        return [*given_up, RunFailed(failure=failure, change=change, at_unix_micros=at)]
    return [*given_up, RunSucceeded(change=change, at_unix_micros=at)]


def _task_of(run: Run, task_id: str) -> Task:
    node_id = names.node_of(task_id)
    if node_id not in run.visits:
        raise NotFound(f"run {run.started.run_id!r} has no task {task_id!r}")
    task = next_task(run, node_id)
    if task.task_id != task_id:
        raise WrongState(f"task {task_id!r} is not the current visit of node {node_id!r}")
    return task
