"""The end of a run: its change is brought home, its worktrees are removed, then it is closed.

A run without a commit is closed at once. The git service repeats each of its commands safely, so a crash in between
only means that the same is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from crewlog.domain import names
from crewlog.domain.errors import Refused
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog.owner import Clock
from crewlog.scheduler import merging
from crewlog.scheduler.persistence import persistently
from crewlog.telemetry import traces
from crewlog.telemetry.ids import ROOT_STEP
from crewlog.telemetry.traces import Link
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import FinishRun, RunStatus
from crewlog.v1.workspace_pb2 import DeliverChange, RemoveWorkspace

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub
from google.protobuf.message import Message

CALL_SECONDS = 120.0
REMOVALS_AT_ONCE_MAX = 8
BRANCH_PREFIX = "crewlog/"

Wake = Callable[..., None]

logger = logging.getLogger(__name__)


class Finisher:
    def __init__(self, workspaces: WorkspaceServiceAsyncStub, clock: Clock) -> None:
        self._workspaces = workspaces
        self._clock = clock
        self._at_work: dict[str, asyncio.Task[None]] = {}

    def is_at_work(self, run_id: str) -> bool:
        return run_id in self._at_work

    def commands(self, run: Run, wake: Wake) -> list[Message]:
        """The command that closes the run, where nothing has to be done before; else it is woken with it later."""
        run_id = run.started.run_id
        if not _has_workspaces(run):
            return [FinishRun(run_id=run_id, at_unix_micros=self._clock())]
        if run_id not in self._at_work:
            self._at_work[run_id] = asyncio.get_running_loop().create_task(self._finish(run, wake))
        return []

    def emit_span(self, run: Run) -> None:
        """`invoke_workflow`, once, when its beginning and its end are known."""
        started = run.started
        traces.emit_span(
            f"invoke_workflow {started.workflow.name}",
            run_id=started.run_id,
            step=ROOT_STEP,
            start_micros=started.at_unix_micros,
            end_micros=run.ended_at_unix_micros,
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": started.workflow.name,
                "crewlog.run_id": started.run_id,
                "crewlog.run_status": RunStatus.Name(run.status),
            },
            links=[Link(started.request_traceparent, "request")] if started.request_traceparent else [],
            error=run.failure.reason if run.failure else "",
        )

    def stop(self) -> None:
        for finishing in self._at_work.values():
            finishing.cancel()

    async def _finish(self, run: Run, wake: Wake) -> None:
        run_id = run.started.run_id
        try:
            with traces.within_step(run_id, ROOT_STEP):
                command = await self._bring_home(run)
                await self._clean_up(run)
            wake(run_id, command)
        finally:
            del self._at_work[run_id]

    async def _bring_home(self, run: Run) -> FinishRun:
        """A run that is part of another one hands its files over as a commit; else they become a branch."""
        finish = FinishRun(run_id=run.started.run_id)
        try:
            if run.started.HasField("parent"):
                await self._merge(run, finish)
            else:
                deliver = self._delivery(run)
                finish.change.CopyFrom(
                    await persistently(lambda: self._workspaces.Deliver(deliver, timeout=CALL_SECONDS))
                )
        except Refused as refusal:
            finish.failure.CopyFrom(
                Failure(reason="delivery_refused", message=refusal.message, what_to_do=refusal.what_to_do)
            )
        finish.at_unix_micros = self._clock()
        return finish

    async def _merge(self, run: Run, finish: FinishRun) -> None:
        commits = run_state.tips(run)
        finish.change.base_commit = run.started.base_commit
        if len(commits) <= 1:
            finish.change.commit = commits[0] if commits else run.started.base_commit
            return
        merged = await merging.merge(self._workspaces, run, commits)
        finish.change.commit = merged.commit
        if not merged.commit:
            finish.failure.CopyFrom(merging.conflict(merged.conflicts))

    def _delivery(self, run: Run) -> DeliverChange:
        started = run.started
        return DeliverChange(
            run_id=started.run_id,
            project_id=started.project_id,
            base_commit=started.base_commit,
            commits=run_state.tips(run),
            branch=BRANCH_PREFIX + started.run_id,
            attempt=run.retries,
            at_unix_micros=self._clock(),
        )

    async def _clean_up(self, run: Run) -> None:
        gate = asyncio.Semaphore(REMOVALS_AT_ONCE_MAX)

        async def remove(task: Task) -> None:
            async with gate:
                workspace_id = names.agent_id(run.started.run_id, task.task_id)
                await self._clean(RemoveWorkspace(workspace_id=workspace_id, at_unix_micros=self._clock()))

        await asyncio.gather(*(remove(task) for task in run.tasks.values() if _has_workspace(run, task)))

    async def _clean(self, command: RemoveWorkspace) -> None:
        try:
            await persistently(lambda: self._workspaces.Remove(command, timeout=CALL_SECONDS))
        except Refused as refusal:
            logger.warning("workspace %s stays: %s", command.workspace_id, refusal)


def _has_workspaces(run: Run) -> bool:
    return any(_has_workspace(run, task) for task in run.tasks.values()) or bool(
        run.started.HasField("parent") and run_state.tips(run)
    )


def _has_workspace(run: Run, task: Task) -> bool:
    kind = run_state.kind(run_state.node_of(run, task)) if run.graph.knows(task.node_id) else "agent"
    return bool(task.generation) and kind in ("agent", "command")
