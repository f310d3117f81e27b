"""What the events of a run mean. Never refuses: it has happened. The rules are in crewlog.domain.run.decider."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.amounts import Amounts
from crewlog.domain.replacing import replace
from crewlog.domain.run import control_events as run_control_events
from crewlog.domain.run import graph_events as run_graph_events
from crewlog.domain.run import money_events as run_money_events
from crewlog.domain.run.graph_events import begun, plain_ways, with_deadline, without, without_due, without_signal
from crewlog.domain.run.map_events import item_ended, on_expanded
from crewlog.domain.run.money_events import held
from crewlog.domain.run.state import (
    GATE,
    RETRY,
    TASK,
    WAIT,
    Gate,
    Run,
    Task,
    files_of,
    inherited,
    is_current,
    is_performed,
    new_task,
    next_task,
    parts_of,
)
from crewlog.domain.workflow.graph import Graph
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    GateAnswered,
    GateExpired,
    GateOpened,
    GateStatus,
    Handling,
    MapExpanded,
    MessageSent,
    MessageUndelivered,
    ParkCause,
    RunBudgetWarned,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunLimitLowered,
    RunLimitRaised,
    RunPaused,
    RunResumed,
    RunRetried,
    RunStarted,
    RunStatus,
    RunSucceeded,
    RunTimedOut,
    TaskCancelled,
    TaskCancelRequested,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskParked,
    TaskStatus,
    TaskSucceeded,
    TaskUnparked,
)
from google.protobuf.message import Message
from immutables import Map

Event: TypeAlias = (
    RunStarted
    | TaskClaimed
    | TaskClaimLapsed
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | RunCancelRequested
    | RunSucceeded
    | RunFailed
    | RunCancelled
    | TaskParked
    | TaskUnparked
    | GateOpened
    | GateAnswered
    | GateExpired
    | run_money_events.Event
    | run_control_events.Event
    | run_graph_events.Event
    | MapExpanded
)


def evolve(run: Run, event: Event) -> Run:
    """What an event means."""
    match event:
        case RunStarted():
            return _on_started(event)
        case TaskClaimed():
            return _on_claimed(run, event)
        case TaskClaimLapsed():
            return _on_lapsed(run, event)
        case TaskSucceeded():
            return _on_succeeded(run, event)
        case TaskFailed():
            return _on_failed(run, event)
        case TaskCancelled():
            return _on_cancelled(run, event)
        case RunCancelRequested():
            return replace(run, status=RunStatus.RUN_STATUS_CANCELLING, cancel_requested=event, paused=None)
        case TaskParked():
            return _on_parked(run, event)
        case TaskUnparked():
            return _on_unparked(run, event)
        case RunSucceeded():
            return _on_over(run, RunStatus.RUN_STATUS_SUCCEEDED, event, None)
        case RunFailed():
            return _on_over(run, RunStatus.RUN_STATUS_FAILED, event, event.failure)
        case RunCancelled():
            return _on_over(run, RunStatus.RUN_STATUS_CANCELLED, event, None)
        case GateOpened() | GateAnswered() | GateExpired():
            return _evolve_gate(run, event)
        case MapExpanded():
            return on_expanded(run, event)
        case _:
            return _evolve_part(run, event)


def fold_all(run: Run, events: Iterable[Message]) -> Run:
    for event in events:
        run = evolve(run, event)  # type: ignore[arg-type]
    return run


def _evolve_part(run: Run, event: run_money_events.Event | run_control_events.Event | run_graph_events.Event) -> Run:
    match event:
        case AllotmentGrown() | AllotmentShrunk() | RunLimitRaised() | RunLimitLowered() | RunBudgetWarned():
            return run_money_events.evolve(run, event)
        case (
            RunPaused()
            | RunResumed()
            | RunRetried()
            | RunTimedOut()
            | TaskCancelRequested()
            | MessageSent()
            | MessageUndelivered()
        ):
            return run_control_events.evolve(run, event)
        case _:
            return run_graph_events.evolve(run, event)


def _evolve_gate(run: Run, event: GateOpened | GateAnswered | GateExpired) -> Run:
    match event:
        case GateOpened():
            return _on_opened(run, event)
        case GateAnswered():
            gate = replace(
                run.gates[event.gate_id],
                status=GateStatus.GATE_STATUS_ANSWERED,
                choice=event.choice,
                text=event.text,
                answered_by=event.answered_by,
            )
        case GateExpired():
            needless, expired = GateStatus.GATE_STATUS_CLOSED, GateStatus.GATE_STATUS_EXPIRED
            gate = replace(run.gates[event.gate_id], status=needless if event.needless_because else expired)
        case _:
            assert_never(event)
    return replace(run, gates=run.gates.set(event.gate_id, gate), due=without_due(run.due, GATE + event.gate_id))


def _on_opened(run: Run, event: GateOpened) -> Run:
    """A gate that is a node of the graph is a task that begins with it."""
    if event.node_id:
        cause, at = ParkCause.PARK_CAUSE_GATE, event.at_unix_micros
        run = begun(run, event.task_id, event.node_id, event.visit, at, cause)
    due = run.due.set(GATE + event.gate_id, event.expires_at_unix_micros)
    return replace(run, gates=run.gates.set(event.gate_id, Gate(event)), due=due)


def _on_started(event: RunStarted) -> Run:
    run = Run(
        status=RunStatus.RUN_STATUS_RUNNING,
        started=event,
        graph=Graph.of(event.workflow),
        limit=Amounts.of(event.budget),
    )
    return run_graph_events.started(run)


def _on_claimed(run: Run, event: TaskClaimed) -> Run:
    known = run.tasks.get(event.task_id)
    task = known or new_task(run, event.task_id, event.node_id, event.visit)
    claimed = replace(
        task,
        status=TaskStatus.TASK_STATUS_CLAIMED,
        executor_id=event.executor_id,
        generation=event.generation,
        allotment=Amounts.of(event.allotment),
        has_to_stop=event.has_to_stop,
        files_from=tuple(event.files_from.task_ids) if event.HasField("files_from") else task.files_from,
        started_at_unix_micros=task.started_at_unix_micros or event.at_unix_micros,
    )
    claimed_run = replace(
        run,
        visits=run_graph_events.at_least(run.visits, task),
        tasks=run.tasks.set(task.task_id, claimed),
        ready=run_graph_events.without_turn(run.ready, run, task),
        open=run.open.set(task.task_id, event.generation),
        adrift=without(run.adrift, task.task_id),
        parked=run_graph_events.without_parked(run, task),
        allotted=run.allotted + claimed.allotment - held(run, task),
    )
    return with_deadline(claimed_run, claimed)


def _on_lapsed(run: Run, event: TaskClaimLapsed) -> Run:
    task = run.tasks[event.task_id]
    result = event.so_far if event.HasField("so_far") else task.result
    lapsed = replace(task, status=TaskStatus.TASK_STATUS_READY, executor_id="", result=result, lapses=task.lapses + 1)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, lapsed),
        ready=(task.node_id, *run.ready) if is_current(run, task) else run.ready,
        waiting_since=run.waiting_since.set(task.node_id, event.at_unix_micros),
        open=run.open.delete(task.task_id),
        adrift=(*run.adrift, task.task_id),
    )


def _on_succeeded(run: Run, event: TaskSucceeded) -> Run:
    ended = _on_ended(run, event, TaskStatus.TASK_STATUS_SUCCEEDED, None)
    heard = without_signal(ended, ended.tasks[event.task_id].signal)
    return _gone_on(heard, ended.tasks[event.task_id], event.at_unix_micros)


def _gone_on(run: Run, task: Task, at: int) -> Run:
    """What a success leads to without a word in the log, and a failure that counts as done."""
    if not is_current(run, task):
        return run
    if run.graph.is_item(task.node_id):
        return item_ended(run, task, at, is_failed=task.status != TaskStatus.TASK_STATUS_SUCCEEDED)
    return run_graph_events.decided(run, task.task_id, plain_ways(run, task.node_id), at)


def _on_failed(run: Run, event: TaskFailed) -> Run:
    ended = _on_ended(run, event, TaskStatus.TASK_STATUS_FAILED, event.failure)
    return _handled(ended, event.task_id, event.handling, event.failure, event.at_unix_micros)


def _on_cancelled(run: Run, event: TaskCancelled) -> Run:
    """A task that somebody, or the time, has ended by itself: the others go on only where the graph says how."""
    known = run.tasks.get(event.task_id)
    timed_out = known.timed_out if known is not None else None
    status = TaskStatus.TASK_STATUS_TIMED_OUT if timed_out else TaskStatus.TASK_STATUS_CANCELLED
    ended = _on_ended(run, event, status, timed_out)
    task = ended.tasks[event.task_id]
    if event.handling:
        return _handled(ended, task.task_id, event.handling, timed_out or Failure(), event.at_unix_micros)
    was_asked = task.cancel_requested is not None or timed_out is not None
    if not was_asked or run.status != RunStatus.RUN_STATUS_RUNNING or not is_current(run, task):
        return ended
    return replace(ended, failure=run.failure or timed_out or run_control_events.cancelled(task))


def _handled(run: Run, task_id: str, handling: Handling.ValueType, failure: Failure, at: int) -> Run:
    """A failure fails the run, unless the graph can go on."""
    task = replace(run.tasks[task_id], handling=handling)
    run = replace(run, tasks=run.tasks.set(task_id, task))
    if not handling:
        return replace(run, failure=run.failure or failure)
    is_done_with = handling == Handling.HANDLING_CONTINUE or (
        handling == Handling.HANDLING_TOLERATED and run.graph.is_item(task.node_id)
    )
    return _gone_on(run, task, at) if is_done_with else run


def _on_ended(
    run: Run,
    event: TaskSucceeded | TaskFailed | TaskCancelled,
    status: TaskStatus.ValueType,
    failure: Failure | None,
) -> Run:
    task = run.tasks.get(event.task_id) or next_task(run, names.node_of(event.task_id))
    ended = replace(
        task,
        status=status,
        result=event.result,
        failure=failure,
        commits=_commits(run, task, event.result.commit),
        ended_at_unix_micros=event.at_unix_micros,
    )
    spent = Amounts.of(event.result.spent)
    if task.child_run_id and task.result is not None:
        spent = spent - Amounts.of(task.result.spent)  # it was taken up again, and says what it came to in all
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, ended),
        ready=run_graph_events.without_turn(run.ready, run, task),
        pending=run_graph_events.without_turn(run.pending, run, task),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        parked=run_graph_events.without_parked(run, task),
        adrift=without(run.adrift, task.task_id),
        cancelling=without(run.cancelling, task.task_id),
        merging=without(run.merging, task.task_id),
        child_runs=run.child_runs.delete(task.task_id) if task.task_id in run.child_runs else run.child_runs,
        due=_without_all_due(run, task.task_id),
        spent=run.spent + spent,
        allotted=run.allotted - held(run, task),
    )


def _without_all_due(run: Run, task_id: str) -> Map[str, int]:
    due = run.due
    for kind in (TASK, WAIT, RETRY) if due else ():
        due = without_due(due, kind + task_id)
    return due


def _commits(run: Run, task: Task, commit: str) -> tuple[str, ...]:
    """What the files of the task are made of: its own commit, or those that it started from, and those of its parts."""
    own = (commit,) if commit else inherited(run, files_of(task))
    parts = (part for part in parts_of(run, task) if part.status == TaskStatus.TASK_STATUS_SUCCEEDED)
    others = dict.fromkeys(each for part in parts for each in part.commits)
    if task.task_id in run.expansions:
        return tuple(others) or own  # each item has started from what the map would
    return tuple(dict.fromkeys((*own, *others))) if others else own


def _on_over(
    run: Run,
    status: RunStatus.ValueType,
    event: RunSucceeded | RunFailed | RunCancelled,
    failure: Failure | None,
) -> Run:
    change, at = event.change if event.HasField("change") else None, event.at_unix_micros
    return replace(
        run,
        status=status,
        change=change,
        failure=failure,
        ready=(),
        pending=(),
        ended_at_unix_micros=at,
    )


def _on_parked(run: Run, event: TaskParked) -> Run:
    task = run.tasks.get(event.task_id) or new_task(run, event.task_id, event.node_id, event.visit)
    parked = replace(
        task,
        status=TaskStatus.TASK_STATUS_PARKED,
        executor_id="",
        parked_on=event.budget_id,
        park_cause=event.cause or ParkCause.PARK_CAUSE_BUDGET,
        wanted=Amounts.of(event.wanted),
        result=event.so_far if event.HasField("so_far") else task.result,
    )
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, parked),
        ready=run_graph_events.without_turn(run.ready, run, task),
        pending=run_graph_events.without_turn(run.pending, run, task),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        parked=(*run_graph_events.without_parked(run, task), task.task_id),
        merging=without(run.merging, task.task_id),
        adrift=(*run.adrift, task.task_id) if task.generation else run.adrift,
    )


def _on_unparked(run: Run, event: TaskUnparked) -> Run:
    task = run.tasks[event.task_id]
    ready = replace(
        task,
        status=TaskStatus.TASK_STATUS_READY,
        parked_on="",
        has_to_stop=event.has_to_stop,
    )
    is_own = is_performed(run.graph.node(task.node_id))
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, ready),
        ready=_queued(run, task) if is_current(run, task) and is_own else run.ready,
        pending=run.pending if is_own else (*run.pending, task.node_id),
        waiting_since=run.waiting_since.set(task.node_id, event.at_unix_micros),
        parked=run_graph_events.without_parked(run, task),
        due=without_due(run.due, RETRY + task.task_id),
    )


def _queued(run: Run, task: Task) -> tuple[str, ...]:
    """Who had to let go of an executor that ends keeps its place; who has waited for something else lines up."""
    if task.park_cause == ParkCause.PARK_CAUSE_HANDED_OVER:
        return (task.node_id, *run.ready)
    return (*run.ready, task.node_id)
