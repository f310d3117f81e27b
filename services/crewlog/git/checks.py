"""What comes from outside is looked at here, before anything else is done with it.

Every function raises InvalidCommand with the field that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.domain import git_names, names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.graph import RUN_VISITS_MAX
from crewlog.v1.workspace_pb2 import (
    CommitWorkspace,
    DeliverChange,
    GetDiff,
    ListFiles,
    MergeCommits,
    PinBase,
    PrepareWorkspace,
    ReadFile,
    RemoveWorkspace,
    RestoreSnapshot,
    Snapshot,
    TakeSnapshot,
)

ID_CHARACTERS_MAX = 48
COMMITS_MAX = RUN_VISITS_MAX
"""As many as a run can have tasks."""
MESSAGE_BYTES_MAX = 64 * 1024
ROLE_CHARACTERS_MAX = 64


def pin(command: PinBase) -> None:
    _project(command.project_id)
    git_names.check_host_path("path", command.path)
    if command.base:
        git_names.check_revision("base", command.base)


def prepare(command: PrepareWorkspace) -> None:
    _project(command.project_id)
    names.check_name("run_id", command.run_id, names.RUN_ID_CHARACTERS_MAX)
    names.check_task_id("task_id", command.task_id)
    if command.workspace_id != names.agent_id(command.run_id, command.task_id):
        raise _invalid("workspace_id", f"has to be {names.agent_id(command.run_id, command.task_id)!r}")
    if not command.base_commits:
        raise _invalid("base_commits", "has to name a commit to start from")
    _objects("base_commits", command.base_commits)
    if command.tree:
        names.check_object_id("tree", command.tree)


def snapshot(command: TakeSnapshot) -> None:
    _workspace(command.workspace_id)
    git_names.check_label("label", command.label)


def restore(command: RestoreSnapshot) -> None:
    _workspace(command.workspace_id)
    _snapshot(command.snapshot)


def commit(command: CommitWorkspace) -> None:
    _workspace(command.workspace_id)
    _snapshot(command.snapshot)
    if command.run_id != names.run_of(command.workspace_id):
        raise _invalid("run_id", f"has to be {names.run_of(command.workspace_id)!r}")
    if "\0" in command.message or len(command.message.encode()) > MESSAGE_BYTES_MAX:
        raise _invalid("message", f"has to be at most {MESSAGE_BYTES_MAX} bytes without NUL")
    if len(command.role) > ROLE_CHARACTERS_MAX or not (command.role.isprintable()):
        raise _invalid("role", f"has to be at most {ROLE_CHARACTERS_MAX} printable characters")


def remove(command: RemoveWorkspace) -> None:
    _workspace(command.workspace_id)


def deliver(command: DeliverChange) -> None:
    _project(command.project_id)
    names.check_name("run_id", command.run_id, names.RUN_ID_CHARACTERS_MAX)
    names.check_object_id("base_commit", command.base_commit)
    _objects("commits", command.commits)
    git_names.check_branch("branch", command.branch)
    if command.attempt < 0:
        raise _invalid("attempt", "has to be 0 or more")


def merge(command: MergeCommits) -> None:
    _project(command.project_id)
    names.check_name("run_id", command.run_id, names.RUN_ID_CHARACTERS_MAX)
    names.check_object_id("base_commit", command.base_commit)
    if not command.commits:
        raise _invalid("commits", "has to name a commit")
    _objects("commits", command.commits)


def list_files(query: ListFiles) -> None:
    _project(query.project_id)
    names.check_object_id("tree", query.tree)


def read_file(query: ReadFile) -> None:
    _project(query.project_id)
    names.check_object_id("tree", query.tree)
    git_names.check_file_path("path", query.path)


def compare(query: GetDiff) -> None:
    _project(query.project_id)
    for field, value in (("from_tree", query.from_tree), ("to_tree", query.to_tree)):
        if value:
            names.check_object_id(field, value)


def _project(project_id: str) -> None:
    names.check_name("project_id", project_id, ID_CHARACTERS_MAX)


def _workspace(workspace_id: str) -> None:
    if not names.is_aggregate_id(workspace_id) or "_" not in workspace_id:
        raise _invalid("workspace_id", "has to be a run and a task, such as `fix-slug-7_implementer-2`")


def _snapshot(value: Snapshot) -> None:
    names.check_object_id("snapshot.tree", value.tree)
    names.check_object_id("snapshot.full_tree", value.full_tree)


def _objects(field: str, values: Sequence[str]) -> None:
    if len(values) > COMMITS_MAX:
        raise _invalid(field, f"has to be at most {COMMITS_MAX}")
    for value in values:
        names.check_object_id(field, value)


def _invalid(field: str, why: str) -> InvalidCommand:
    return InvalidCommand(f"{field} {why}", violations={field: why})
