"""What it means for a run that its limit, or the allotment of a task, has changed."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import amounts, budget
from crewlog.domain.amounts import Amounts
from crewlog.domain.replacing import replace
from crewlog.domain.run_state import Run, Task, with_request
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
            return _with_limit(run, run.limit + Amounts.of(event.by), event.request_id)
        case RunLimitLowered():
            return _with_limit(run, budget.lowered(run.limit, Amounts.of(event.by)), event.request_id)
        case RunBudgetWarned():
            return replace(run, warned_percent=event.percent)
        case _:
            assert_never(event)


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
