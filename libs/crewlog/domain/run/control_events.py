"""What it means for a run that somebody has paused, resumed, retried or steered it, or that its time was over."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.replacing import replace
from crewlog.domain.run.graph_events import activated, with_cancelling
from crewlog.domain.run.map_events import more_items, reopened
from crewlog.domain.run.state import Run, Task, current, next_task, with_request
from crewlog.v1.answer_pb2 import Failure
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
from immutables import Map

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
            return replace(run, returned=run.returned.set(event.message_id, True))
        case _:
            assert_never(event)


def _on_cancel_requested(run: Run, event: TaskCancelRequested) -> Run:
    task = run.tasks.get(event.task_id) or next_task(run, names.node_of(event.task_id))
    asked = replace(task, cancel_requested=event)
    return replace(run, tasks=run.tasks.set(task.task_id, asked), cancelling=with_cancelling(run, task.task_id))


def _on_retried(run: Run, event: RunRetried) -> Run:
    """What was tried is visited anew, as often as its node may be tried; a map and a child run take up what they have
    left. Every node whose turn it is goes on."""
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
        tries=Map(),
        went_on_at_unix_micros=at,
        ended_at_unix_micros=0,
        requests=with_request(run, event.request_id),
    )
    for task_id in event.task_ids:
        run = _taken_up(run, task_id)
    run = activated(run, [node_id for node_id in run.graph.nodes if _is_its_turn(run, node_id)], at)
    for task_id in event.task_ids:
        if task_id in run.expansions:
            run = more_items(run, task_id, run.expansions[task_id], at)
    return run


def _taken_up(run: Run, task_id: str) -> Run:
    task, node_id = run.tasks.get(task_id), names.node_of(task_id)
    if run.graph.is_item(node_id) and task is not None:
        return run  # its map knows
    if task is not None and task_id in run.expansions:
        return _with_items_again(reopened(run, task, run.went_on_at_unix_micros), task)
    if task is not None and task.child_run_id:
        return reopened(run, task, run.went_on_at_unix_micros)
    return replace(
        run,
        visits=run.visits.set(node_id, run.visits[node_id] + 1),
        extra_visits=run.extra_visits.set(node_id, run.extra_visits.get(node_id, 0) + 1),
    )


def _with_items_again(run: Run, task: Task) -> Run:
    """What was given out and has not succeeded, also where nobody had taken it."""
    expansion = run.expansions[task.task_id]
    node_ids = (names.item_node_id(task.node_id, index) for index in range(expansion.begun))
    again = tuple(node_id for node_id in node_ids if not _has_succeeded(current(run, node_id)))
    expansion = replace(expansion, open=0, failed=0, again=again)
    return replace(run, expansions=run.expansions.set(task.task_id, expansion))


def _has_succeeded(task: Task | None) -> bool:
    return task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED


def _is_its_turn(run: Run, node_id: str) -> bool:
    """Everything that leads to the node is decided, or enough of it, and it has not begun."""
    if node_id in run.spawned or current(run, node_id) is not None:
        return False
    arrived = len(run.arrivals.get(node_id, ()))
    return run.unmet[node_id] == 0 or (run.graph.is_early(node_id) and arrived >= run.graph.needed(node_id))


def cancelled(task: Task) -> Failure:
    """Of a run whose task somebody has cancelled by itself."""
    reason = task.cancel_requested.reason if task.cancel_requested is not None else ""
    return Failure(
        reason="task_cancelled",
        message=f"{task.task_id} was cancelled: {reason or 'no reason was given'}",
        what_to_do="take the run up again with `crewlog retry`; what was done is on its branch",
    )
