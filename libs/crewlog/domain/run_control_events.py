"""What it means for a run that somebody has paused, resumed, retried or steered it, or that its time was over."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.replacing import replace
from crewlog.domain.run_state import Run, Task, next_task, with_request
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
    task = run.tasks.get(event.task_id) or next_task(run, event.task_id.rpartition("-")[0])
    asked = replace(task, cancel_requested=event)
    return replace(run, tasks=run.tasks.set(task.task_id, asked), cancelling=(*run.cancelling, task.task_id))


def _on_retried(run: Run, event: RunRetried) -> Run:
    """Every node whose dependencies are there and that has not succeeded is ready; what was tried is visited anew."""
    visits, extra = run.visits, run.extra_visits
    for task_id in event.task_ids:
        node_id = task_id.rpartition("-")[0]
        visits = visits.set(node_id, visits[node_id] + 1)
        extra = extra.set(node_id, extra.get(node_id, 0) + 1)
    again = replace(
        run,
        status=RunStatus.RUN_STATUS_RUNNING,
        visits=visits,
        extra_visits=extra,
        failure=None,
        paused=None,
        cancel_requested=None,
        change=None,
        retries=run.retries + 1,
        went_on_at_unix_micros=event.at_unix_micros,
        ended_at_unix_micros=0,
        requests=with_request(run, event.request_id),
    )
    return replace(again, ready=tuple(node_id for node_id in run.graph.nodes if _is_ready(again, node_id)))


def _is_ready(run: Run, node_id: str) -> bool:
    task: Task | None = run.tasks.get(names.task_id(node_id, run.visits[node_id]))
    return run.unmet[node_id] == 0 and (task is None or task.status != TaskStatus.TASK_STATUS_SUCCEEDED)
