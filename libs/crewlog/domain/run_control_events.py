"""What it means for a run that somebody has paused, resumed, retried or steered it, or that its time was over."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.replacing import replace
from crewlog.domain.run_graph_events import activated, more_items
from crewlog.domain.run_state import Run, Task, current, map_task_id, next_task, with_request
from crewlog.v1.run_pb2 import (
    MessageSent,
    MessageUndelivered,
    RunPaused,
    RunResumed,
    RunRetried,
    RunStatus,
    RunTimedOut,
    TaskCancelRequested,
    TaskStatus,
)

Event: TypeAlias = (
    RunPaused | RunResumed | RunRetried | RunTimedOut | TaskCancelRequested | MessageSent | MessageUndelivered
)


def evolve(run: Run, event: Event) -> Run:
    match event:
        case RunPaused():
            return replace(run, paused=event)
        case RunResumed():
            return replace(run, paused=None, went_on_at_unix_micros=event.at_unix_micros)
        case RunRetried():
            return _on_retried(run, event)
        case RunTimedOut():
            return replace(run, failure=run.failure or event.failure)
        case TaskCancelRequested():
            return _on_cancel_requested(run, event)
        case MessageSent():
            sent = (*run.messages.get(event.task_id, ()), event)
            return replace(run, messages=run.messages.set(event.task_id, sent))
        case MessageUndelivered():
            return run
        case _:
            assert_never(event)


def _on_cancel_requested(run: Run, event: TaskCancelRequested) -> Run:
    task = run.tasks.get(event.task_id) or next_task(run, names.node_of(event.task_id))
    asked = replace(task, cancel_requested=event)
    return replace(run, tasks=run.tasks.set(task.task_id, asked), cancelling=(*run.cancelling, task.task_id))


def _on_retried(run: Run, event: RunRetried) -> Run:
    """What was tried is visited anew; a map and a child run take up what they have left. Every node whose turn it is
    goes on."""
    at = event.at_unix_micros
    run = replace(
        run,
        status=RunStatus.RUN_STATUS_RUNNING,
        failure=None,
        paused=None,
        cancel_requested=None,
        change=None,
        ready=(),
        pending=(),
        retries=run.retries + 1,
        went_on_at_unix_micros=at,
        ended_at_unix_micros=0,
        requests=with_request(run, event.request_id),
    )
    items = [task_id for task_id in event.task_ids if run.graph.is_item(names.node_of(task_id))]
    for task_id in event.task_ids:
        run = run if task_id in items else _taken_up(run, task_id)
    for task_id in items:
        run = _taken_up(run, task_id)
    run = activated(run, [node_id for node_id in run.graph.nodes if _is_its_turn(run, node_id)], at)
    for task_id in event.task_ids:
        if task_id in run.expansions:
            run = more_items(run, task_id, run.expansions[task_id], at)
    return run


def _taken_up(run: Run, task_id: str) -> Run:
    task, node_id = run.tasks.get(task_id), names.node_of(task_id)
    if task is not None and (task_id in run.expansions or task.child_run_id):
        return _reopened(run, task)
    run = replace(
        run,
        visits=run.visits.set(node_id, run.visits[node_id] + 1),
        extra_visits=run.extra_visits.set(node_id, run.extra_visits.get(node_id, 0) + 1),
    )
    return _with_item(run, node_id) if run.graph.is_item(node_id) else run


def _reopened(run: Run, task: Task) -> Run:
    reopened = replace(
        task,
        status=TaskStatus.TASK_STATUS_PARKED,
        failure=None,
        cancel_requested=None,
        timed_out=None,
        ended_at_unix_micros=0,
        taken_up=run.retries,
    )
    run = replace(run, tasks=run.tasks.set(task.task_id, reopened), parked=(*run.parked, task.task_id))
    if task.child_run_id:
        child_runs = run.child_runs.set(task.task_id, task.child_run_id)
        return replace(run, child_runs=child_runs, allotted=run.allotted + task.allotment)
    expansion = replace(run.expansions[task.task_id], open=0, failed=0)
    return replace(run, expansions=run.expansions.set(task.task_id, expansion))


def _with_item(run: Run, node_id: str) -> Run:
    """The item is open again."""
    task_id = map_task_id(run, node_id)
    expansion = run.expansions[task_id]
    run = replace(run, expansions=run.expansions.set(task_id, replace(expansion, open=expansion.open + 1)))
    return activated(run, (node_id,), run.went_on_at_unix_micros)


def _is_its_turn(run: Run, node_id: str) -> bool:
    """Everything that leads to the node is decided, or enough of it, and it has not begun."""
    if node_id in run.spawned or current(run, node_id) is not None:
        return False
    arrived = len(run.arrivals.get(node_id, ()))
    return run.unmet[node_id] == 0 or (run.graph.is_early(node_id) and arrived >= run.graph.needed(node_id))
