"""What happens to a run by itself, and when: gates expire, waits end, tasks and the run take too long, retries begin.

What is due is part of the folded state, so the clock of the scheduler only has to know the first of it.
"""

from __future__ import annotations

from crewlog.domain import names
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run import gates as run_gates
from crewlog.domain.run import stopping as run_stopping
from crewlog.domain.run.begins import is_going_on
from crewlog.domain.run.events import evolve
from crewlog.domain.run.resuming import resumed
from crewlog.domain.run.state import (
    GATE,
    RETRY,
    TASK,
    WAIT,
    Run,
    Task,
    claimable,
    is_over,
    is_stopping,
    node_of,
    run_due_at,
    waits_since,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import GateStatus, RunTimedOut, TaskTimedOut, TaskUnparked
from google.protobuf.message import Message

RUN_SECONDS_MAX = 30 * 24 * 3_600
WAITING_SECONDS_MAX = 7 * 24 * 3_600


def next_due_at(run: Run) -> int | None:
    """When the clock has to be looked at next for this run, in microseconds since 1970; None when nothing is due by
    itself. Each of these times has to be gone once `check` has seen it: the clock would look again without end."""
    if is_over(run):
        return None
    if is_going_on(run):
        return 0
    due = [*run.due.values()]
    if not is_stopping(run):
        due.append(run_due_at(run, RUN_SECONDS_MAX))
        due += [run.paused.resumes_at_unix_micros] if run.paused and run.paused.resumes_at_unix_micros else []
    waiting = claimable(run)
    return min([*due, *(_waiting_due_at(run, node_id) for node_id in waiting[:1])], default=None)


def _waiting_due_at(run: Run, node_id: str) -> int:
    seconds = run.started.limits.waiting_seconds_max or WAITING_SECONDS_MAX
    return waits_since(run, node_id) + seconds * 1_000_000


def check(run: Run, now: int) -> list[Message]:
    """Everything that is due, one after the other, as it became so."""
    if is_over(run):
        return []
    events: list[Message] = []
    for _, key in sorted((at, key) for key, at in run.due.items() if at <= now):
        for event in _due(run, key, now) if key in run.due else ():
            events.append(event)
            run = evolve(run, event)  # type: ignore[arg-type]
    if run.paused is not None and 0 < run.paused.resumes_at_unix_micros <= now and not is_stopping(run):
        events += resumed(run, "", now)
    failure = None if is_stopping(run) else _overdue(run, now)
    return [*events, RunTimedOut(failure=failure, at_unix_micros=now)] if failure is not None else events


def _due(run: Run, key: str, now: int) -> list[Message]:
    kind, name = key[: key.index(":") + 1], key[key.index(":") + 1 :]
    if kind == GATE:
        gate = run.gates[name]
        return run_gates.expired(run, gate.opened, now) if gate.status == GateStatus.GATE_STATUS_OPEN else []
    if kind == RETRY:
        return [TaskUnparked(task_id=name, at_unix_micros=now)]
    task = run.tasks[name]
    if kind == WAIT and not task.signal:
        return run_ends.events_of(run, task, run_ends.succeeded(None, now))
    return _timed_out(run, task, now) if kind in (TASK, WAIT) else []


def _timed_out(run: Run, task: Task, now: int) -> list[Message]:
    timed_out = TaskTimedOut(task_id=task.task_id, failure=_took_too_long(run, task), at_unix_micros=now)
    return run_stopping.stop(run, task, timed_out) or [timed_out]


def _took_too_long(run: Run, task: Task) -> Failure:
    run_id = run.started.run_id
    if task.signal:
        return Failure(
            reason="wait_timed_out",
            message=f"{task.task_id} has waited for the signal {task.signal!r} for too long",
            what_to_do=f"take it up (`crewlog retry {run_id}`), then send it (`crewlog signal {run_id} {task.signal}`)",
        )
    return Failure(
        reason="task_timed_out",
        message=f"{task.task_id} has taken longer than {node_of(run, task).timeout_seconds} s",
        what_to_do="give its node more time (`timeout`), or an edge for `timed_out`",
    )


def _overdue(run: Run, now: int) -> Failure | None:
    if run_due_at(run, RUN_SECONDS_MAX) <= now:
        return Failure(
            reason="run_timed_out",
            message="the run has taken longer than its time",
            what_to_do="give it more time (`crewlog run --max-time`), or take it up again with `crewlog retry`",
        )
    waiting = next((node_id for node_id in claimable(run) if _waiting_due_at(run, node_id) <= now), None)
    if waiting is None:
        return None
    return Failure(
        reason="waiting_timed_out",
        message=f"no executor has taken {names.task_id(waiting, run.visits[waiting])} in time",
        what_to_do="start more executors, with the labels that it asks for; then `crewlog retry`",
    )
