"""A workspace: the worktree of one task. Every generation of the claim gets a worktree of its own.

    NONE --prepare(generation)--> PREPARED --prepare(later generation)--> PREPARED
                                     |  ^
                                  remove  prepare(later generation)
                                     v  |
                                   REMOVED

Only the latest generation may work; an older one is refused as StaleClaim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, StaleClaim, WrongState
from crewlog.v1.workspace_pb2 import (
    PrepareWorkspace,
    RecordPreparation,
    RemoveWorkspace,
    WorkspacePrepared,
    WorkspaceRemoved,
)
from google.protobuf.message import Message

KIND = "workspace"
VERSION = 1

Command: TypeAlias = RecordPreparation | RemoveWorkspace
Event: TypeAlias = WorkspacePrepared | WorkspaceRemoved


@dataclass(frozen=True, slots=True)
class Workspace:
    """`prepared` is the latest preparation; it stays known after the removal."""

    prepared: WorkspacePrepared | None = None
    removed: bool = False


INITIAL = Workspace()


def decide(workspace: Workspace, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand, NotFound, Conflict, WrongState or StaleClaim."""
    match command:
        case RecordPreparation():
            return _record_preparation(workspace, command)
        case RemoveWorkspace():
            return _remove(workspace, command)
        case _:
            assert_never(command)


def evolve(workspace: Workspace, event: Event) -> Workspace:
    """What an event means."""
    match event:
        case WorkspacePrepared():
            return Workspace(prepared=event)
        case WorkspaceRemoved():
            return replace(workspace, removed=True)
        case _:
            assert_never(event)


def recorded(workspace: Workspace, command: PrepareWorkspace) -> WorkspacePrepared | None:
    """What was recorded for this very command; None when it has to be done. Raises as `decide` does."""
    if command.generation == 0:
        raise InvalidCommand("generation is missing", violations={"generation": "has to be that of the claim"})
    last = workspace.prepared
    if last is None:
        return None
    if command.generation < last.generation:
        raise _stale(command.generation, last)
    if (command.project_id, command.run_id, command.task_id) != (last.project_id, last.run_id, last.task_id):
        raise Conflict(f"workspace {command.workspace_id!r} belongs to task {last.task_id!r} of run {last.run_id!r}")
    if command.generation > last.generation:
        return None
    if workspace.removed:
        raise WrongState(f"workspace {command.workspace_id!r} was removed", what_to_do="claim the task again")
    return last


def current(workspace: Workspace, generation: int) -> WorkspacePrepared:
    """The preparation that `generation` works on. Raises NotFound, StaleClaim or WrongState."""
    last = workspace.prepared
    if last is None:
        raise NotFound("there is no such workspace", what_to_do="prepare it first")
    if generation < last.generation:
        raise _stale(generation, last)
    if generation > last.generation:
        raise WrongState(f"generation {generation} has prepared no worktree", what_to_do="prepare the workspace first")
    if workspace.removed:
        raise WrongState("the workspace was removed", what_to_do="claim the task again")
    return last


def _record_preparation(workspace: Workspace, command: RecordPreparation) -> list[Message]:
    prepare, prepared = command.prepare, command.prepared
    last = recorded(workspace, prepare)
    if last is None:
        return [
            WorkspacePrepared(
                project_id=prepare.project_id,
                run_id=prepare.run_id,
                task_id=prepare.task_id,
                generation=prepare.generation,
                base_commit=prepared.base_commit,
                snapshot=prepared.snapshot,
                at_unix_micros=prepare.at_unix_micros,
            )
        ]
    if last.base_commit != prepared.base_commit:
        raise Conflict(f"generation {last.generation} was prepared from {last.base_commit[:12]}")
    return []


def _remove(workspace: Workspace, command: RemoveWorkspace) -> list[Message]:
    if workspace.prepared is None or workspace.removed:
        return []
    return [WorkspaceRemoved(at_unix_micros=command.at_unix_micros)]


def _stale(generation: int, last: WorkspacePrepared) -> StaleClaim:
    return StaleClaim(
        f"generation {generation} has lost the task to generation {last.generation}",
        what_to_do="stop: somebody else works on the task",
    )
