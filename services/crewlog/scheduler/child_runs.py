"""Runs that are tasks of other runs: they are started, stopped, paused and taken up as their parents are, and what
comes of them is told to their parents.

Everything is worked out from both logs, so whatever a crash has cut off is done by whoever looks next.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from crewlog.domain import names
from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import results as run_results
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.scheduler.child_money import Changed, ChildMoney
from crewlog.scheduler.entries import PRINCIPAL
from crewlog.v1.run_pb2 import (
    CancelRun,
    EndTask,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunStatus,
    StartRun,
    TaskFailure,
    TaskResult,
)
from google.protobuf.message import Message

RETRY_SECONDS = 0.2
_TAKEN_UP = (RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)

Wake = Callable[..., None]
Opened = Callable[[str], None]
logger = logging.getLogger(__name__)


class ChildRuns:
    """`wake`, `changed` and `opened` are the reactor's."""

    def __init__(self, owner: Owner[Run], money: ChildMoney, clock: Clock) -> None:
        self._owner = owner
        self._money = money
        self._clock = clock
        self._boot = f"{clock():x}"
        self._numbers = itertools.count(1)
        self._at_work: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._again: set[tuple[str, str]] = set()
        self._seen: dict[str, object] = {}
        self.wake: Wake
        self.changed: Changed
        self.opened: Opened

    def begin(self, run_id: str, task_id: str) -> None:
        """A child run was requested just now, so the log has nothing of it."""
        self._owner.assume_new(names.child_run_id(run_id, task_id))
        self._look_at(run_id, task_id)

    def look(self, run: Run) -> None:
        """Looks at all child runs of a run when something has happened to it that concerns them."""
        run_id, parent = run.started.run_id, run.started.parent
        if run_child_money.waiting(run):
            self._look_at(parent.run_id, parent.task_id)
        if not run.child_runs:
            self._seen.pop(run_id, None)
            return
        for key in self._money.waiting_for(run):
            self._look_at(*key)
        wish = (run.paused is not None, run_state.is_stopping(run), run.cancelling, run.retries, run.limit)
        if self._seen.get(run_id) != wish:
            self._seen[run_id] = wish
            for task_id in run.child_runs:
                self._look_at(run_id, task_id)

    def forget(self, run_id: str) -> None:
        """The next look at the run is one at everything."""
        self._seen.pop(run_id, None)

    def told(self, child: Run) -> None:
        """A run is over: whoever has asked for it hears of it."""
        parent = child.started.parent
        if parent.run_id:
            self.wake(parent.run_id, run_results.end_of(child, self._clock()))

    def stop(self) -> None:
        for looking in self._at_work.values():
            looking.cancel()

    def _look_at(self, run_id: str, task_id: str) -> None:
        key = (run_id, task_id)
        if key in self._at_work:
            self._again.add(key)
            return
        looking = asyncio.get_running_loop().create_task(self._persistently(key))
        self._at_work[key] = looking
        looking.add_done_callback(lambda _: self._done(key))

    def _done(self, key: tuple[str, str]) -> None:
        self._at_work.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self._look_at(*key)

    async def _persistently(self, key: tuple[str, str]) -> None:
        while True:
            try:
                await self._do(*key)
                return
            except (Unavailable, Contention) as reason:
                logger.warning("the child run of %s of run %s waits: %s", key[1], key[0], reason)
                await asyncio.sleep(RETRY_SECONDS)

    async def _do(self, run_id: str, task_id: str) -> None:
        run, _ = await self._owner.state(run_id)
        child_id = run.child_runs.get(task_id)
        if child_id is None:
            self._money.forget((run_id, task_id))
            return
        child, _ = await self._owner.state(child_id)
        if not _is_of(child, run_id, task_id):
            await self._begin(run, run.tasks[task_id], child_id)
            return
        command = wanted(run, run.tasks[task_id], child, self._clock())
        if command is not None:
            await self._ask((run_id, task_id), child_id, command)
        elif run_state.is_over(child):
            self.told(child)
            self._owner.forget(child_id)
        else:
            await self._money.settle((run_id, task_id), child_id)

    async def _ask(self, key: tuple[str, str], child_id: str, command: Message) -> None:
        """A refusal says that the child has gone on meanwhile: what is wanted of it now is worked out anew."""
        try:
            await self._handle(child_id, command)
        except (Unavailable, Contention):
            raise
        except Refused as refusal:
            logger.info("child run %s: %s", child_id, refusal)
            self._again.add(key)
            return
        self.opened(child_id)

    async def _begin(self, run: Run, task: Task, child_id: str) -> None:
        if run_state.is_stopping(run) or run_state.is_to_stop(task):
            end = EndTask(run_id=run.started.run_id, task_id=task.task_id, at_unix_micros=self._clock())
            end.cancelled.CopyFrom(TaskResult())
            self.wake(run.started.run_id, end)
            return
        try:
            outcome = await self._handle(child_id, start_of(run, task, child_id, self._clock()))
        except (Unavailable, Contention):
            raise  # nobody knows whether it has begun: it is looked at again
        except Refused as refusal:
            end = EndTask(run_id=run.started.run_id, task_id=task.task_id, at_unix_micros=self._clock())
            end.failed.CopyFrom(TaskFailure(failure=run_results.not_started(refusal)))
            self.wake(run.started.run_id, end)
            return
        self.changed(child_id, outcome)
        self.opened(child_id)

    async def _handle(self, child_id: str, command: Message) -> Outcome[Run]:
        meta = Meta(f"{self._boot}-c{next(self._numbers)}", PRINCIPAL, correlation_id=child_id)
        return await self._owner.handle(child_id, command, meta)


def _is_of(child: Run, run_id: str, task_id: str) -> bool:
    """Whether it has begun; somebody may have started another run by its name, so that it cannot."""
    parent = child.started.parent
    return (parent.run_id, parent.task_id) == (run_id, task_id)


def wanted(run: Run, task: Task, child: Run, at: int) -> Message | None:
    """What has to be asked of a child run so that it is as its parent wants it."""
    child_id = child.started.run_id
    if run_state.is_over(child):
        request_id = f"{run.started.run_id}-{task.taken_up}"
        may = task.taken_up and not run_state.is_stopping(run) and child.status in _TAKEN_UP
        if may and request_id not in child.requests:
            return RetryRun(run_id=child_id, request_id=request_id, at_unix_micros=at)
        return None
    if run_state.is_stopping(child):
        return None
    if run_state.is_stopping(run) or run_state.is_to_stop(task):
        return CancelRun(run_id=child_id, reason=f"its task {task.task_id} is being stopped", at_unix_micros=at)
    if run.paused is not None and child.paused is None:
        return PauseRun(run_id=child_id, reason="the run that it is part of is paused", by=PRINCIPAL, at_unix_micros=at)
    if run.paused is None and child.paused is not None and child.paused.by == PRINCIPAL:
        return ResumeRun(run_id=child_id, by=PRINCIPAL, at_unix_micros=at)
    return None


def start_of(run: Run, task: Task, child_id: str, at: int) -> StartRun:
    started, node = run.started, run_state.node_of(run, task)
    command = StartRun(
        run_id=child_id,
        project_id=started.project_id,
        workflow=node.workflow.workflow,
        input=task.child_input,
        budget=task.allotment.limit(),
        model=started.model,
        budgets=[each.removeprefix("named_") for each in started.budget_ids if each.startswith("named_")],
        on_exhausted=started.on_exhausted,
        gate_seconds=started.gate_seconds,
        priority=started.priority,
        base_commit=task.base_commit or started.base_commit,
        at_unix_micros=at,
        request_traceparent=started.request_traceparent,
        requested_by=started.requested_by,
    )
    command.parent.run_id, command.parent.task_id = started.run_id, task.task_id
    command.parent.root_run_id = started.parent.root_run_id or started.run_id
    command.parent.depth = started.parent.depth + 1
    return command
