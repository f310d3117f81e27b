"""The git service as an executor sees it: the worktree of one task, under one claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from crewlog.executor.patience import patiently
from crewlog.runtime.channel import claim_metadata
from crewlog.runtime.clock import now_micros
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.workspace_pb2 import (
    CommittedWorkspace,
    CommitWorkspace,
    PreparedWorkspace,
    PrepareWorkspace,
    Snapshot,
    TakenSnapshot,
    TakeSnapshot,
)

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub

CALL_SECONDS = 120.0

T = TypeVar("T")


class Workspace:
    """Every call may be repeated, so a git service that is being restarted is waited for."""

    def __init__(self, git: WorkspaceServiceAsyncStub, grant: Grant) -> None:
        self._git = git
        self._grant = grant
        self._metadata = claim_metadata(grant.claim_token)

    async def prepare(self, snapshot: Snapshot | None) -> PreparedWorkspace:
        """A fresh worktree with the files of the snapshot, or with those that the task starts from."""
        grant = self._grant
        command = PrepareWorkspace(
            workspace_id=grant.agent_id,
            project_id=grant.project_id,
            run_id=grant.run_id,
            task_id=grant.task_id,
            generation=grant.generation,
            base_commits=grant.base_commits,
            tree=self._tree(snapshot),
            with_conflicts=grant.with_conflicts,
            at_unix_micros=now_micros(),
        )
        return await self._call(self._git.Prepare, command)

    def _tree(self, snapshot: Snapshot | None) -> str:
        """Its own files, or those of the agent that it is a child of, or those of the task before it."""
        if snapshot is not None:
            return snapshot.full_tree
        return self._grant.base_snapshot.full_tree or self._grant.base_tree

    async def snapshot(self, label: str) -> TakenSnapshot:
        command = TakeSnapshot(workspace_id=self._grant.agent_id, generation=self._grant.generation, label=label)
        return await self._call(self._git.Snapshot, command)

    async def commit(self, snapshot: Snapshot, message: str, revision: int, at: int) -> CommittedWorkspace:
        grant = self._grant
        command = CommitWorkspace(
            workspace_id=grant.agent_id,
            generation=grant.generation,
            run_id=grant.run_id,
            snapshot=snapshot,
            message=message,
            revision=revision,
            role=grant.node.agent.role.name,
            at_unix_micros=at,
        )
        return await self._call(self._git.Commit, command)

    async def _call(self, method: Callable[..., Awaitable[T]], command: Any) -> T:
        return await patiently(lambda: method(command, metadata=self._metadata, timeout=CALL_SECONDS), "git")
