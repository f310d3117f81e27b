"""All worktrees of this host: made, found, removed.

    <root>/<workspace>/<generation>/tree             the files that the agent works on
                                   /index, ...       what this service keeps beside them
                                   /prepared.json    written last: without it the directory is half made

Nothing outside of the root is ever removed, and no link out of it is followed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crewlog.domain.errors import Conflict, WrongState
from crewlog.git import agent_git, commits, snapshots
from crewlog.git.clones import Clone
from crewlog.git.repository import write_file
from crewlog.git.worktree import Position, Worktree, look
from crewlog.v1.workspace_pb2 import PreparedWorkspace, PrepareWorkspace, Snapshot

BASES = "refs/crewlog/workspaces"
ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Worktrees:
    """`root` holds nothing but workspaces."""

    root: Path

    def at(self, clone: Clone, workspace_id: str, generation: int) -> Worktree:
        """Where the worktree of a generation is, or would be."""
        return Worktree(clone, workspace_id, generation, self.root / workspace_id / str(generation))

    def find(self, clone: Clone, workspace_id: str, generation: int) -> Worktree:
        """Raises WrongState when it is not on this host, or is damaged."""
        worktree = self.at(clone, workspace_id, generation)
        if not (worktree.directory / "prepared.json").is_file() or not _is_real_directory(worktree.tree):
            raise WrongState(
                f"the worktree of {workspace_id!r}, generation {generation}, is not here",
                what_to_do="prepare it again",
            )
        return worktree

    def prepare(self, clone: Clone, command: PrepareWorkspace) -> PreparedWorkspace:
        """Makes the worktree, or finds the one that this command has made.

        Raises NotFound for files that are not in the clone, WrongState for bases that contradict each other, and
        Conflict when the generation was prepared from other files.
        """
        worktree = self.at(clone, command.workspace_id, command.generation)
        known = _prepared(worktree, command)
        if known is not None:
            return known
        base_commit, conflicts = _base(clone, command)
        base_tree, *full = commits.trees_of(clone, base_commit, *([command.tree] if command.tree else []))
        self._clear(worktree.directory)
        worktree.tree.mkdir(parents=True)
        _check_out(worktree, base_tree, full[0] if full else base_tree)
        branch = f"crewlog/{command.run_id}/{command.task_id}"
        agent_git.write_agent_git(worktree.tree, clone, branch, base_commit, worktree.index)
        commits.keep(clone, {f"{BASES}/{command.workspace_id}/{command.generation}": base_commit})
        prepared = _answer(worktree, base_commit, _first_snapshot(worktree, base_tree, bool(full)), conflicts)
        _write_prepared(worktree, command, prepared)
        return prepared

    def remove(self, workspace_id: str) -> None:
        """Removes every generation of a workspace. Nothing to remove is fine."""
        self._clear(self.root / workspace_id)

    def _clear(self, directory: Path) -> None:
        self._check_inside(directory)
        for _ in range(ATTEMPTS_MAX):
            if not os.path.lexists(directory):
                return
            _make_writable(directory)
            shutil.rmtree(directory, ignore_errors=True)
        if os.path.lexists(directory):
            raise WrongState(f"{directory} cannot be removed", what_to_do="end what still writes there, and try again")

    def _check_inside(self, directory: Path) -> None:
        root = self.root.resolve()
        if directory.is_symlink() or not directory.resolve().is_relative_to(root) or directory.resolve() == root:
            raise WrongState(f"{directory} is not a directory below {root}", what_to_do="look who put it there")


def _base(clone: Clone, command: PrepareWorkspace) -> tuple[str, Sequence[str]]:
    if not command.with_conflicts:
        return commits.merged(clone, command.base_commits), ()
    merged = commits.merge(clone, command.base_commits, with_conflicts=True)
    return merged.commit, merged.conflicts[: commits.CONFLICTS_NAMED_MAX]


def _check_out(worktree: Worktree, base_tree: str, full_tree: str) -> None:
    """The files of `full_tree`, and the index of `base_tree`: what differs is the work that was done before."""
    worktree.git("read-tree", "--reset", "-u", full_tree)
    if full_tree != base_tree:
        worktree.git("read-tree", "--reset", base_tree)


def _first_snapshot(worktree: Worktree, base_tree: str, has_work: bool) -> Snapshot:
    untouched = Snapshot(tree=base_tree, full_tree=base_tree)
    if has_work:
        return snapshots.take(worktree, "base", untouched).snapshot
    Position("base", untouched, untouched, look(worktree).signature).save(worktree)
    return untouched


def _answer(
    worktree: Worktree, base_commit: str, snapshot: Snapshot, conflicts: Sequence[str] = ()
) -> PreparedWorkspace:
    return PreparedWorkspace(
        path=str(worktree.tree),
        base_commit=base_commit,
        snapshot=snapshot,
        read_only_paths=[str(worktree.clone.objects)],
        conflicts=conflicts,
    )


def _write_prepared(worktree: Worktree, command: PrepareWorkspace, prepared: PreparedWorkspace) -> None:
    snapshot = prepared.snapshot
    made: list[object] = [prepared.base_commit, snapshot.tree, snapshot.full_tree, snapshot.files_left_out]
    made.append(list(prepared.conflicts))
    write_file(worktree.directory / "prepared.json", json.dumps([_asked(command), made]).encode())


def _prepared(worktree: Worktree, command: PrepareWorkspace) -> PreparedWorkspace | None:
    """What the same command has made; None when the directory is not there, or half made."""
    path = worktree.directory / "prepared.json"
    if not path.is_file() or not _is_real_directory(worktree.tree):
        return None
    asked, (base_commit, tree, full_tree, left_out, *conflicts) = json.loads(path.read_bytes())
    if asked != _asked(command):
        raise Conflict(f"generation {command.generation} of {command.workspace_id!r} was prepared from other files")
    snapshot = Snapshot(tree=tree, full_tree=full_tree, files_left_out=left_out)
    return _answer(worktree, base_commit, snapshot, conflicts[0] if conflicts else ())


def _asked(command: PrepareWorkspace) -> list[object]:
    asked: list[object] = [command.project_id, list(command.base_commits), command.tree]
    return [*asked, True] if command.with_conflicts else asked


def _is_real_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _make_writable(directory: Path) -> None:
    """An agent, or a tool such as a package cache, may have left directories that nothing can be removed from."""
    for name, directories, _ in os.walk(directory):
        for inner in directories:
            path = Path(name) / inner
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
