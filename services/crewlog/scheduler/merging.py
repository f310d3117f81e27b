"""Several files become one: what a run has asked the git service to merge, and what came of it.

The same merge asked for twice is the same commit, so a crash in between only means that it is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from crewlog.domain.errors import Refused, Unavailable
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import MERGE_CONFLICT, Run, Task
from crewlog.eventlog.owner import Clock
from crewlog.scheduler.persistence import persistently
from crewlog.telemetry import traces
from crewlog.telemetry.ids import ROOT_STEP
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import EndTask, TaskFailure, TaskResult
from crewlog.v1.workspace_pb2 import MergeCommits, MergedCommits

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub

CALL_SECONDS = 120.0
PATHS_SHOWN_MAX = 20
TASKS_SHOWN_MAX = 5
_WHAT_TO_DO = (
    "let one of them start from the other's files (`depends_on`), or let an edge `on: [conflicted]` lead from where "
    "they meet to an agent, which gets both sides with conflict markers, or to a gate"
)

Wake = Callable[..., None]


class Merger:
    """`wake` is the reactor's."""

    def __init__(self, workspaces: WorkspaceServiceAsyncStub, clock: Clock) -> None:
        self._workspaces = workspaces
        self._clock = clock
        self._at_work: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.wake: Wake

    def look(self, run: Run) -> None:
        """Everything that the run waits for is being merged. Doing it twice is doing it once."""
        for task_id in run.merging:
            key = (run.started.run_id, task_id)
            if key not in self._at_work:
                merging = asyncio.get_running_loop().create_task(self._merge(run, run.tasks[task_id]))
                self._at_work[key] = merging
                merging.add_done_callback(lambda _, key=key: self._at_work.pop(key, None))  # type: ignore[misc]

    def stop(self) -> None:
        for merging in self._at_work.values():
            merging.cancel()

    async def _merge(self, run: Run, task: Task) -> None:
        run_id = run.started.run_id
        end = EndTask(run_id=run_id, task_id=task.task_id, is_merge=True)
        try:
            with traces.within_step(run_id, ROOT_STEP):
                merged = await merge(self._workspaces, run, task.merging, with_conflicts=task.with_conflicts)
        except Refused as refusal:
            end.failed.CopyFrom(TaskFailure(failure=as_failure(refusal)))
        else:
            _tell(end, merged, makers_of(run, task))
        end.at_unix_micros = self._clock()
        self.wake(run_id, end)


async def merge(
    workspaces: WorkspaceServiceAsyncStub, run: Run, commits: tuple[str, ...], *, with_conflicts: bool = False
) -> MergedCommits:
    """Waits for a git service that does not answer. Raises Refused."""
    started = run.started
    command = MergeCommits(
        project_id=started.project_id,
        run_id=started.run_id,
        base_commit=started.base_commit,
        commits=commits,
        with_conflicts=with_conflicts,
        at_unix_micros=started.at_unix_micros,
    )
    return await persistently(lambda: workspaces.Merge(command, timeout=CALL_SECONDS))


def conflict(paths: Sequence[str], makers: Sequence[str] = ()) -> Failure:
    """`makers`: the tasks whose files do not fit."""
    by = f" by {_few(makers, TASKS_SHOWN_MAX)}" if makers else ""
    return Failure(
        reason=MERGE_CONFLICT,
        message=f"what was done side by side{by} cannot be merged: {_few(paths, PATHS_SHOWN_MAX)}",
        what_to_do=_WHAT_TO_DO,
    )


def makers_of(run: Run, task: Task) -> list[str]:
    """The tasks before it that have what is being merged."""
    wanted = set(task.merging)
    return [task_id for task_id in run_state.files_of(task) if wanted.intersection(run.tasks[task_id].commits)]


def _few(names: Sequence[str], shown_max: int) -> str:
    return ", ".join(names[:shown_max]) + (" ..." if len(names) > shown_max else "")


def as_failure(refusal: Refused) -> Failure:
    assert not isinstance(refusal, Unavailable)
    return Failure(reason="merge_refused", message=refusal.message, what_to_do=refusal.what_to_do)


def _tell(end: EndTask, merged: MergedCommits, makers: Sequence[str]) -> None:
    if merged.commit:
        end.succeeded.CopyFrom(TaskResult(commit=merged.commit))
    else:
        end.failed.CopyFrom(TaskFailure(failure=conflict(merged.conflicts, makers)))
