"""What the events of a run mean. Never refuses: it has happened. The rules are in crewlog.domain.run."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias, assert_never

from crewlog.domain import amounts, budget, names
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.run_state import (
    Gate,
    Run,
    Task,
    based_on,
    inherited,
    is_current,
    next_task,
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
)

REQUESTS_KEPT_MAX = 1_000


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
            return _on_ended(run, event, TaskStatus.TASK_STATUS_CANCELLED, None)
        case EdgeTaken():
            return _on_edge_taken(run, event)
        case RunCancelRequested():
            return replace(run, status=RunStatus.RUN_STATUS_CANCELLING)
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
        case _:
            return _evolve_money(run, event)


def _evolve_money(
    run: Run,
    event: AllotmentGrown
    | AllotmentShrunk
    | RunLimitRaised
    | RunLimitLowered
    | RunBudgetWarned
    | GateOpened
    | GateAnswered
    | GateExpired,
) -> Run:
    match event:
        case AllotmentGrown():
            task = run.tasks[event.task_id]
            return _reallotted(run, task, task.allotment + Amounts.of(event.by), growths=event.number)
        case AllotmentShrunk():
            shrunk = _reallotted(run, run.tasks[event.task_id], Amounts.of(event.allotment))
            return replace(shrunk, requests=_with_request(run, event.request_id))
        case RunLimitRaised():
            return _with_limit(run, run.limit + Amounts.of(event.by), event.request_id)
        case RunLimitLowered():
            return _with_limit(run, budget.lowered(run.limit, Amounts.of(event.by)), event.request_id)
        case RunBudgetWarned():
            return replace(run, warned_percent=event.percent)
        case GateOpened():
            return replace(run, gates=run.gates.set(event.gate_id, Gate(event)))
        case GateAnswered():
            answered = GateStatus.GATE_STATUS_ANSWERED
            return _with_gate(run, event.gate_id, status=answered, choice=event.choice, answered_by=event.answered_by)
        case GateExpired():
            return _with_gate(run, event.gate_id, status=GateStatus.GATE_STATUS_EXPIRED)
        case _:
            assert_never(event)


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
        allotted=run.allotted + (ZERO if task.generation else claimed.allotment),
    )


def _on_lapsed(run: Run, event: TaskClaimLapsed) -> Run:
    task = run.tasks[event.task_id]
    result = event.so_far if event.HasField("so_far") else task.result
    lapsed = replace(task, status=TaskStatus.TASK_STATUS_READY, executor_id="", result=result)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, lapsed),
        ready=(task.node_id, *run.ready) if is_current(run, task) else run.ready,
        open=run.open.delete(task.task_id),
    )


def _on_succeeded(run: Run, event: TaskSucceeded) -> Run:
    ended = _on_ended(run, event, TaskStatus.TASK_STATUS_SUCCEEDED, None)
    task = ended.tasks[event.task_id]
    if not is_current(run, task):
        return ended
    unmet, ready = ended.unmet, list(ended.ready)
    for dependent in run.graph.dependents(task.node_id):
        left = unmet[dependent] - 1
        unmet = unmet.set(dependent, left)
        if left == 0:
            ready.append(dependent)
    return replace(ended, unmet=unmet, ready=tuple(ready))


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
    return tuple(other for other in ready if other != node_id)


def _on_parked(run: Run, event: TaskParked) -> Run:
    known = run.tasks.get(event.task_id)
    task = known or Task(event.task_id, event.node_id, event.visit, based_on(run, event.node_id))
    parked = replace(
        task,
        status=TaskStatus.TASK_STATUS_PARKED,
        executor_id="",
        parked_on=event.budget_id,
        wanted=Amounts.of(event.wanted),
        result=event.so_far if event.HasField("so_far") else task.result,
    )
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, parked),
        ready=_without(run.ready, task.node_id),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        parked=(*run.parked, task.task_id),
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
        ready=(*run.ready, task.node_id) if is_current(run, task) else run.ready,
        parked=_without(run.parked, task.task_id),
    )


def _reallotted(run: Run, task: Task, allotment: Amounts, *, growths: int | None = None) -> Run:
    changed = replace(task, allotment=allotment, growths=task.growths if growths is None else growths)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, changed),
        allotted=run.allotted - task.allotment + allotment,
    )


def _with_limit(run: Run, limit: Amounts, request_id: str) -> Run:
    warned = min(run.warned_percent, amounts.percent_of(limit, run.spent))
    return replace(run, limit=limit, warned_percent=warned, requests=_with_request(run, request_id))


def _with_request(run: Run, request_id: str) -> tuple[str, ...]:
    return (*run.requests, request_id)[-REQUESTS_KEPT_MAX:] if request_id else run.requests


def _with_gate(run: Run, gate_id: str, *, status: GateStatus.ValueType, choice: str = "", answered_by: str = "") -> Run:
    gate = replace(run.gates[gate_id], status=status, choice=choice, answered_by=answered_by)
    return replace(run, gates=run.gates.set(gate_id, gate))
