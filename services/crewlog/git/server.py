"""The git service over gRPC: check, look at the rules, do it, record it.

What is done is done before it is recorded, and can be done again: after a crash in between, the same command finds it
done. git runs in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import ParamSpec, TypeVar

from crewlog.domain import change as change_rules
from crewlog.domain import names
from crewlog.domain import workspace as workspace_rules
from crewlog.domain.errors import NotPermitted
from crewlog.eventlog.owner import Meta, Owner
from crewlog.git import checks, commits, delivery, files, snapshots
from crewlog.git.clones import Clones
from crewlog.git.one_at_a_time import OneAtATime
from crewlog.git.pinning import pin
from crewlog.git.repository import Git
from crewlog.git.worktree import Worktree
from crewlog.git.worktrees import Worktrees
from crewlog.runtime.auth import current_claim, current_principal
from crewlog.v1.workspace_pb2 import (
    Change,
    CommittedWorkspace,
    CommitWorkspace,
    DeliverChange,
    Diff,
    FileContent,
    FileList,
    GetDiff,
    ListFiles,
    MergeCommits,
    MergedCommits,
    PinBase,
    PinnedBase,
    PreparedWorkspace,
    PrepareWorkspace,
    ReadFile,
    RecordCommit,
    RecordDelivery,
    RecordPreparation,
    RemovedWorkspace,
    RemoveWorkspace,
    RestoreSnapshot,
    TakenSnapshot,
    TakeSnapshot,
    WorkspacePrepared,
)
from crewlog.v1.workspace_pb2_grpc import FileServiceServicer, WorkspaceServiceServicer

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Host:
    """What this host has: git, the managed directory, and threads to work in."""

    git: Git
    directory: Path
    threads: ThreadPoolExecutor

    @property
    def clones(self) -> Clones:
        return Clones(self.git, self.directory / "clones")

    @property
    def worktrees(self) -> Worktrees:
        return Worktrees(self.directory / "workspaces")

    async def run(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Does blocking work in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(work, *arguments, **options))


class WorkspaceServer(WorkspaceServiceServicer):
    def __init__(
        self,
        host: Host,
        workspaces: Owner[workspace_rules.Workspace],
        changes: Owner[change_rules.Change],
        one_at_a_time: OneAtATime,
    ) -> None:
        self._host = host
        self._workspaces = workspaces
        self._changes = changes
        self._one_at_a_time = one_at_a_time

    async def Pin(self, request: PinBase, context: object) -> PinnedBase:
        checks.pin(request)
        work = partial(self._host.run, pin, self._host.git, self._host.clones, self._host.directory, request)
        return await self._one_at_a_time.run(f"project/{request.project_id}", work)

    async def Prepare(self, request: PrepareWorkspace, context: object) -> PreparedWorkspace:
        checks.prepare(request)
        _check_claim(request.workspace_id, request.generation)
        return await self._one_at_a_time.run(request.workspace_id, lambda: self._prepare(request))

    async def Snapshot(self, request: TakeSnapshot, context: object) -> TakenSnapshot:
        checks.snapshot(request)
        _check_claim(request.workspace_id, request.generation)
        return await self._one_at_a_time.run(request.workspace_id, lambda: self._snapshot(request))

    async def Restore(self, request: RestoreSnapshot, context: object) -> TakenSnapshot:
        checks.restore(request)
        _check_claim(request.workspace_id, request.generation)
        return await self._one_at_a_time.run(request.workspace_id, lambda: self._restore(request))

    async def Commit(self, request: CommitWorkspace, context: object) -> CommittedWorkspace:
        checks.commit(request)
        _check_claim(request.workspace_id, request.generation)
        return await self._one_at_a_time.run(request.workspace_id, lambda: self._commit(request))

    async def Remove(self, request: RemoveWorkspace, context: object) -> RemovedWorkspace:
        checks.remove(request)
        return await self._one_at_a_time.run(request.workspace_id, lambda: self._remove(request))

    async def Deliver(self, request: DeliverChange, context: object) -> Change:
        checks.deliver(request)
        return await self._one_at_a_time.run(f"change/{request.run_id}", lambda: self._deliver(request))

    async def Merge(self, request: MergeCommits, context: object) -> MergedCommits:
        """Records nothing: whoever asks does. Many take longer than a call may; who asks again waits for the same."""
        checks.merge(request)
        clone = self._host.clones.find(request.project_id)
        key = f"merge/{sha256(request.SerializeToString(deterministic=True)).hexdigest()}"
        return await self._one_at_a_time.share(key, lambda: self._host.run(commits.merge_for_run, clone, request))

    async def _prepare(self, command: PrepareWorkspace) -> PreparedWorkspace:
        state, _ = await self._workspaces.state(command.workspace_id)
        workspace_rules.recorded(state, command)
        clone = self._host.clones.find(command.project_id)
        prepared = await self._host.run(self._host.worktrees.prepare, clone, command)
        record = RecordPreparation(prepare=command, prepared=prepared)
        meta = _meta(f"prepare-{command.generation}", command.run_id, command.generation)
        await self._workspaces.handle(command.workspace_id, record, meta)
        return prepared

    async def _snapshot(self, command: TakeSnapshot) -> TakenSnapshot:
        last = await self._current(command.workspace_id, command.generation)
        worktree = self._worktree(command.workspace_id, last)
        return await self._host.run(snapshots.take, worktree, command.label, last.snapshot)

    async def _restore(self, command: RestoreSnapshot) -> TakenSnapshot:
        last = await self._current(command.workspace_id, command.generation)
        worktree = self._worktree(command.workspace_id, last)
        return await self._host.run(snapshots.restore, worktree, command.snapshot, last.snapshot)

    async def _commit(self, command: CommitWorkspace) -> CommittedWorkspace:
        last = await self._current(command.workspace_id, command.generation)
        state, _ = await self._changes.state(command.run_id)
        known = change_rules.committed(state, command.workspace_id, command.snapshot.tree, last.base_commit)
        if known is not None:
            return CommittedWorkspace(commit=known.commit, stat=known.stat)
        clone = self._host.clones.find(last.project_id)
        committed = await self._host.run(commits.commit_snapshot, clone, command, last.base_commit)
        record = RecordCommit(commit=command, committed=committed, base_commit=last.base_commit)
        meta = _meta(f"commit-{command.workspace_id}-{command.generation}", command.run_id, command.generation)
        await self._changes.handle(command.run_id, record, meta)
        return committed

    async def _remove(self, command: RemoveWorkspace) -> RemovedWorkspace:
        """What is in no snapshot yet gets one first: nobody's work goes with the worktree."""
        state, _ = await self._workspaces.state(command.workspace_id)
        last = state.prepared
        if last is not None and not state.removed and self._is_here(command.workspace_id, last):
            worktree = self._worktree(command.workspace_id, last)
            await self._host.run(snapshots.take, worktree, "removed", last.snapshot)
        await self._host.run(self._host.worktrees.remove, command.workspace_id)
        meta = _meta("remove", names.run_of(command.workspace_id))
        await self._workspaces.handle(command.workspace_id, command, meta)
        self._workspaces.forget(command.workspace_id)
        return RemovedWorkspace()

    async def _deliver(self, command: DeliverChange) -> Change:
        state, _ = await self._changes.state(command.run_id)
        known = change_rules.delivered(state, command)
        if known is not None:
            return known
        clone = self._host.clones.find(command.project_id)
        change = await self._host.run(delivery.deliver, clone, command, state.left_at)
        record = RecordDelivery(deliver=command, change=change)
        command_id = f"deliver-{command.attempt}" if command.attempt else "deliver"
        await self._changes.handle(command.run_id, record, _meta(command_id, command.run_id))
        self._changes.forget(command.run_id)
        return change

    async def _current(self, workspace_id: str, generation: int) -> WorkspacePrepared:
        state, _ = await self._workspaces.state(workspace_id)
        return workspace_rules.current(state, generation)

    def _worktree(self, workspace_id: str, prepared: WorkspacePrepared) -> Worktree:
        clone = self._host.clones.find(prepared.project_id)
        return self._host.worktrees.find(clone, workspace_id, prepared.generation)

    def _is_here(self, workspace_id: str, prepared: WorkspacePrepared) -> bool:
        clone = self._host.clones.find(prepared.project_id)
        return self._host.worktrees.at(clone, workspace_id, prepared.generation).tree.is_dir()


class FileServer(FileServiceServicer):
    def __init__(self, host: Host) -> None:
        self._host = host

    async def List(self, request: ListFiles, context: object) -> FileList:
        checks.list_files(request)
        clone = self._host.clones.find(request.project_id)
        return await self._host.run(files.list_files, clone, request.tree)

    async def Read(self, request: ReadFile, context: object) -> FileContent:
        checks.read_file(request)
        clone = self._host.clones.find(request.project_id)
        return await self._host.run(files.read_file, clone, request.tree, request.path)

    async def Compare(self, request: GetDiff, context: object) -> Diff:
        checks.compare(request)
        clone = self._host.clones.find(request.project_id)
        return await self._host.run(files.compare, clone, request.from_tree, request.to_tree)


def _check_claim(workspace_id: str, generation: int) -> None:
    """Raises NotPermitted unless the caller's claim is on the task of this workspace, in this generation."""
    claim = current_claim()
    if (names.agent_id(claim.run_id, claim.task_id), claim.generation) != (workspace_id, generation):
        raise NotPermitted(
            f"the claim is on {claim.task_id!r} of {claim.run_id!r}, generation {claim.generation}",
            what_to_do="use the token of the grant for this task",
        )


def _meta(command_id: str, run_id: str, generation: int = 0) -> Meta:
    return Meta(command_id, current_principal(), run_id, generation=generation)
