"""What it means for a run that its limit, or the allotment of a task, has changed."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import amounts, budget
from crewlog.domain.amounts import Amounts
from crewlog.domain.replacing import replace
from crewlog.domain.run.state import Run, Task, with_request
from crewlog.v1.run_pb2 import AllotmentGrown, AllotmentShrunk, RunBudgetWarned, RunLimitLowered, RunLimitRaised

Event: TypeAlias = AllotmentGrown | AllotmentShrunk | RunLimitRaised | RunLimitLowered | RunBudgetWarned


def evolve(run: Run, event: Event) -> Run:
    match event:
        case AllotmentGrown():
            task = run.tasks[event.task_id]
            return _reallotted(run, task, task.allotment + Amounts.of(event.by), growths=event.number)
        case AllotmentShrunk():
            shrunk = _reallotted(run, run.tasks[event.task_id], Amounts.of(event.allotment))
            return replace(shrunk, requests=with_request(run, event.request_id))
        case RunLimitRaised():
            return _with_limit(run, run.limit + Amounts.of(event.by), event)
        case RunLimitLowered():
            return _with_limit(run, budget.lowered(run.limit, Amounts.of(event.by)), event)
        case RunBudgetWarned():
            return replace(run, warned_percent=event.percent)
        case _:
            assert_never(event)


def held(run: Run, task: Task) -> Amounts:
    """What the task holds of the run's money, beyond what is counted as spent: a child's share is its own before it has
    begun, and a child run that was taken up again has said already what it had spent."""
    spawned = run.spawned.get(task.node_id)
    if spawned is not None and not task.generation:
        return spawned.allotment
    if task.child_run_id and task.result is not None:
        return task.allotment - Amounts.of(task.result.spent)
    return task.allotment


def _reallotted(run: Run, task: Task, allotment: Amounts, *, growths: int | None = None) -> Run:
    number = task.growths if growths is None else growths
    changed = replace(task, allotment=allotment, growths=number, changes=task.changes + 1)
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, changed),
        allotted=run.allotted - task.allotment + allotment,
    )


def _with_limit(run: Run, limit: Amounts, event: RunLimitRaised | RunLimitLowered) -> Run:
    return replace(
        run,
        limit=limit,
        warned_percent=min(run.warned_percent, amounts.percent_of(limit, run.spent)),
        followed=max(run.followed, event.number),
        requests=with_request(run, event.request_id),
    )
