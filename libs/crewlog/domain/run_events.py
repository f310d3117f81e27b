"""What the events of a run mean. Never refuses: it has happened. The rules are in crewlog.domain.run."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import amounts, budget, names, run_control_events
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.replacing import replace
from crewlog.domain.run_state import (
    Gate,
    Run,
    Task,
    based_on,
    inherited,
    is_current,
    next_task,
    with_request,
)
from crewlog.domain.workflow import Graph
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    EdgeTaken,
    GateAnswered,
    GateExpired,
    GateOpened,
    GateStatus,
    ParkCause,
    RunBudgetWarned,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunLimitLowered,
    RunLimitRaised,
    RunStarted,
    RunStatus,
    RunSucceeded,
    TaskCancelled,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskParked,
    TaskStatus,
    TaskSucceeded,
    TaskUnparked,
)
from immutables import Map

Event: TypeAlias = (
    RunStarted
    | TaskClaimed
    | TaskClaimLapsed
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | EdgeTaken
    | RunCancelRequested
    | RunSucceeded
    | RunFailed
    | RunCancelled
    | AllotmentGrown
    | AllotmentShrunk
    | TaskParked
    | TaskUnparked
    | RunLimitRaised
    | RunLimitLowered
    | RunBudgetWarned
    | GateOpened
    | GateAnswered
    | GateExpired
    | run_control_events.Event
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
            return replace(
                _on_ended(run, event, TaskStatus.TASK_STATUS_FAILED, event.failure),
                failure=run.failure or event.failure,
            )
        case TaskCancelled():
            return _on_cancelled(run, event)
        case EdgeTaken():
            return _on_edge_taken(run, event)
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
        case AllotmentGrown() | AllotmentShrunk() | RunLimitRaised() | RunLimitLowered() | RunBudgetWarned():
            return _evolve_money(run, event)
        case GateOpened() | GateAnswered() | GateExpired():
            return _evolve_gate(run, event)
        case _:
            return run_control_events.evolve(run, event)


def _evolve_money(
    run: Run, event: AllotmentGrown | AllotmentShrunk | RunLimitRaised | RunLimitLowered | RunBudgetWarned
) -> Run:
    match event:
        case AllotmentGrown():
            task = run.tasks[event.task_id]
            return _reallotted(run, task, task.allotment + Amounts.of(event.by), growths=event.number)
        case AllotmentShrunk():
            shrunk = _reallotted(run, run.tasks[event.task_id], Amounts.of(event.allotment))
            return replace(shrunk, requests=with_request(run, event.request_id))
        case RunLimitRaised():
            return _with_limit(run, run.limit + Amounts.of(event.by), event.request_id)
        case RunLimitLowered():
            return _with_limit(run, budget.lowered(run.limit, Amounts.of(event.by)), event.request_id)
        case RunBudgetWarned():
            return replace(run, warned_percent=event.percent)
        case _:
            assert_never(event)


def _evolve_gate(run: Run, event: GateOpened | GateAnswered | GateExpired) -> Run:
    match event:
        case GateOpened():
            gate = Gate(event)
        case GateAnswered():
            gate = replace(
                run.gates[event.gate_id],
                status=GateStatus.GATE_STATUS_ANSWERED,
                choice=event.choice,
                text=event.text,
                answered_by=event.answered_by,
            )
        case GateExpired():
            gate = replace(run.gates[event.gate_id], status=GateStatus.GATE_STATUS_EXPIRED)
        case _:
            assert_never(event)
    return replace(run, gates=run.gates.set(event.gate_id, gate))


def _on_started(event: RunStarted) -> Run:
    graph = Graph.of(event.workflow)
    return Run(
        status=RunStatus.RUN_STATUS_RUNNING,
        started=event,
        graph=graph,
        visits=Map((node_id, 1) for node_id in graph.nodes),
        unmet=Map((node_id, len(node.depends_on)) for node_id, node in graph.nodes.items()),
        ready=tuple(graph.roots),
        limit=Amounts.of(event.budget),
    )


def _on_claimed(run: Run, event: TaskClaimed) -> Run:
    known = run.tasks.get(event.task_id)
    task = known or Task(event.task_id, event.node_id, event.visit, based_on(run, event.node_id))
    claimed = replace(
        task,
        status=TaskStatus.TASK_STATUS_CLAIMED,
        executor_id=event.executor_id,
        generation=event.generation,
        allotment=Amounts.of(event.allotment),
        has_to_stop=event.has_to_stop,
        started_at_unix_micros=task.started_at_unix_micros or event.at_unix_micros,
    )
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, claimed),
        ready=_without(run.ready, task.node_id),
        open=run.open.set(task.task_id, event.generation),
        adrift=_without(run.adrift, task.task_id),
        parked=_without(run.parked, task.task_id),
        allotted=run.allotted + (ZERO if task.generation else claimed.allotment),
    )


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
    task = ended.tasks[event.task_id]
    if not is_current(run, task):
        return ended
    unmet, ready, since = ended.unmet, list(ended.ready), ended.waiting_since
    for dependent in run.graph.dependents(task.node_id):
        left = unmet[dependent] - 1
        unmet = unmet.set(dependent, left)
        if left == 0:
            ready.append(dependent)
            since = since.set(dependent, event.at_unix_micros)
    return replace(ended, unmet=unmet, ready=tuple(ready), waiting_since=since)


def _on_cancelled(run: Run, event: TaskCancelled) -> Run:
    """A task that somebody has cancelled by itself: the others cannot go on without it."""
    ended = _on_ended(run, event, TaskStatus.TASK_STATUS_CANCELLED, None)
    task = ended.tasks[event.task_id]
    if task.cancel_requested is None or run.status != RunStatus.RUN_STATUS_RUNNING or not is_current(run, task):
        return ended
    failure = Failure(
        reason="task_cancelled",
        message=f"{task.task_id} was cancelled: {task.cancel_requested.reason or 'no reason was given'}",
        what_to_do="take the run up again with `crewlog retry`; what was done is on its branch",
    )
    return replace(ended, failure=run.failure or failure)


def _on_ended(
    run: Run,
    event: TaskSucceeded | TaskFailed | TaskCancelled,
    status: TaskStatus.ValueType,
    failure: Failure | None,
) -> Run:
    task = run.tasks.get(event.task_id) or next_task(run, event.task_id.rpartition("-")[0])
    ended = replace(
        task,
        status=status,
        result=event.result,
        failure=failure,
        commits=(event.result.commit,) if event.result.commit else inherited(run, task.based_on),
        ended_at_unix_micros=event.at_unix_micros,
    )
    spent = Amounts.of(event.result.spent)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, ended),
        ready=_without(run.ready, task.node_id),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        parked=_without(run.parked, task.task_id),
        adrift=_without(run.adrift, task.task_id),
        cancelling=_without(run.cancelling, task.task_id),
        spent=run.spent + spent,
        allotted=run.allotted - task.allotment,
    )


def _on_edge_taken(run: Run, event: EdgeTaken) -> Run:
    """`to` and all that depends on it go into their next visit."""
    again = {event.to_node_id, *run.graph.descendants(event.to_node_id)}
    visits, unmet = run.visits, run.unmet
    for node_id in again:
        visits = visits.set(node_id, visits[node_id] + 1)
        depends_on = run.graph.nodes[node_id].depends_on
        unmet = unmet.set(node_id, sum(other in again or not _is_done(run, other) for other in depends_on))
    unmet = unmet.set(event.to_node_id, 0)
    return replace(
        run,
        visits=visits,
        unmet=unmet,
        feedback=run.feedback.set(event.to_node_id, event.from_task_id),
        waiting_since=run.waiting_since.set(event.to_node_id, run.tasks[event.from_task_id].ended_at_unix_micros),
        ready=(*(node_id for node_id in run.ready if node_id not in again), event.to_node_id),
    )


def _on_over(
    run: Run,
    status: RunStatus.ValueType,
    event: RunSucceeded | RunFailed | RunCancelled,
    failure: Failure | None,
) -> Run:
    change = event.change if event.HasField("change") else None
    return replace(
        run, status=status, change=change, failure=failure, ready=(), ended_at_unix_micros=event.at_unix_micros
    )


def _is_done(run: Run, node_id: str) -> bool:
    task = run.tasks.get(names.task_id(node_id, run.visits[node_id]))
    return task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED


def _without(ready: tuple[str, ...], node_id: str) -> tuple[str, ...]:
    if ready and ready[0] == node_id:
        return ready[1:]
    if node_id not in ready:
        return ready
    return tuple(other for other in ready if other != node_id)


def _on_parked(run: Run, event: TaskParked) -> Run:
    known = run.tasks.get(event.task_id)
    task = known or Task(event.task_id, event.node_id, event.visit, based_on(run, event.node_id))
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
        ready=_without(run.ready, task.node_id),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        parked=(*run.parked, task.task_id),
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
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, ready),
        ready=_queued(run, task) if is_current(run, task) else run.ready,
        waiting_since=run.waiting_since.set(task.node_id, event.at_unix_micros),
        parked=_without(run.parked, task.task_id),
    )


def _queued(run: Run, task: Task) -> tuple[str, ...]:
    """Who had to let go of an executor that ends keeps its place; who has waited for something else lines up."""
    if task.park_cause == ParkCause.PARK_CAUSE_HANDED_OVER:
        return (task.node_id, *run.ready)
    return (*run.ready, task.node_id)


def _reallotted(run: Run, task: Task, allotment: Amounts, *, growths: int | None = None) -> Run:
    changed = replace(task, allotment=allotment, growths=task.growths if growths is None else growths)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, changed),
        allotted=run.allotted - task.allotment + allotment,
    )


def _with_limit(run: Run, limit: Amounts, request_id: str) -> Run:
    warned = min(run.warned_percent, amounts.percent_of(limit, run.spent))
    return replace(run, limit=limit, warned_percent=warned, requests=with_request(run, request_id))
