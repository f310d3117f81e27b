"""The git service of a simulation: worktrees, snapshots and commits as dictionaries of lines by file.

It does what the real one promises: a fresh worktree for each generation, and an older generation is refused. A zombie
that still has the path of its worktree writes into an orphan.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from crewlog.domain.errors import MergeConflict, NotFound, StaleClaim
from crewlog.v1.workspace_pb2 import (
    Change,
    CommittedWorkspace,
    CommitWorkspace,
    DeliverChange,
    MergeCommits,
    MergedCommits,
    PinBase,
    PinnedBase,
    PreparedWorkspace,
    PrepareWorkspace,
    RemovedWorkspace,
    RemoveWorkspace,
    RestoreSnapshot,
    Snapshot,
    TakenSnapshot,
    TakeSnapshot,
)
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceServicer

Files = dict[str, list[str]]
BASE_COMMIT = "b" * 40
ROOT = "/worktrees/"
CONFLICTS = 60
"""Of 256 merges."""


@dataclass(slots=True)
class Worktree:
    generation: int
    files: Files
    taken: str
    base_commit: str
    before: str = ""
    label: str = ""


@dataclass(slots=True)
class Git(WorkspaceServiceServicer):
    """`worktrees` by workspace, the latest only; `orphans` counts what was written into older ones."""

    paths: Counter[str]
    trees: dict[str, Files] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    worktrees: dict[str, Worktree] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commits[BASE_COMMIT] = self.tree({})

    def files(self, path: str) -> Files:
        """The files of a worktree, by its path."""
        workspace_id, _, generation = path.removeprefix(ROOT).rpartition("/")
        worktree = self.worktrees.get(workspace_id)
        if worktree is None or worktree.generation != int(generation):
            self.paths["write into an orphaned worktree"] += 1
            return {}
        return worktree.files

    def tree(self, files: Files) -> str:
        id = hashlib.sha1(json.dumps(files, sort_keys=True).encode()).hexdigest()
        self.trees[id] = {name: list(lines) for name, lines in files.items()}
        return id

    async def Pin(self, request: PinBase, context: Any) -> PinnedBase:
        return PinnedBase(commit=BASE_COMMIT)

    async def Prepare(self, request: PrepareWorkspace, context: Any) -> PreparedWorkspace:
        worktree = self.worktrees.get(request.workspace_id)
        if worktree is not None and worktree.generation > request.generation:
            raise StaleClaim(f"{request.workspace_id} is at generation {worktree.generation}")
        conflicts = self._conflicts(request.base_commits)
        if conflicts and not request.with_conflicts:
            raise MergeConflict(f"both change {conflicts[0]}")
        if worktree is None or worktree.generation < request.generation:
            worktree = self._fresh(request)
        path = f"{ROOT}{request.workspace_id}/{worktree.generation}"
        base, first = worktree.base_commit, _snapshot(worktree.taken)
        return PreparedWorkspace(path=path, base_commit=base, snapshot=first, conflicts=conflicts)

    async def Snapshot(self, request: TakeSnapshot, context: Any) -> TakenSnapshot:
        worktree = self._of(request.workspace_id, request.generation)
        if worktree.label != request.label:  # the same command again gets the same answer
            worktree.label, worktree.before = request.label, worktree.taken
        worktree.taken = self.tree(worktree.files)
        return TakenSnapshot(snapshot=_snapshot(worktree.taken), changed=worktree.taken != worktree.before)

    async def Restore(self, request: RestoreSnapshot, context: Any) -> TakenSnapshot:
        worktree = self._of(request.workspace_id, request.generation)
        self.paths["restored"] += 1
        worktree.files.clear()
        worktree.files.update({name: list(lines) for name, lines in self.trees[request.snapshot.full_tree].items()})
        worktree.taken = request.snapshot.full_tree
        return TakenSnapshot(snapshot=request.snapshot, changed=True)

    async def Commit(self, request: CommitWorkspace, context: Any) -> CommittedWorkspace:
        worktree = self._of(request.workspace_id, request.generation)
        tree = request.snapshot.tree
        if tree == self.commits[worktree.base_commit]:
            return CommittedWorkspace(commit=worktree.base_commit)
        commit = hashlib.sha1(f"{request.workspace_id} {tree} {worktree.base_commit}".encode()).hexdigest()
        self.commits[commit] = tree
        return CommittedWorkspace(commit=commit)

    async def Remove(self, request: RemoveWorkspace, context: Any) -> RemovedWorkspace:
        return RemovedWorkspace()

    async def Deliver(self, request: DeliverChange, context: Any) -> Change:
        commit = request.commits[0] if request.commits else request.base_commit
        change = Change(branch=request.branch, commit=commit, base_commit=request.base_commit)
        return self.changes.setdefault(f"{request.run_id} {request.attempt}", change)

    async def Merge(self, request: MergeCommits, context: Any) -> MergedCommits:
        self.paths["merged"] += 1
        conflicts = self._conflicts(request.commits)
        if conflicts and not request.with_conflicts:
            return MergedCommits(conflicts=conflicts)
        return MergedCommits(commit=self._merge(request.commits), conflicts=conflicts)

    def _conflicts(self, commits: Sequence[str]) -> list[str]:
        """Some changes do not fit together: always the same ones."""
        different = sorted(set(commits) - {BASE_COMMIT})
        fits_not = len(different) > 1 and hashlib.sha1(" ".join(different).encode()).digest()[0] < CONFLICTS
        self.paths["conflict of files"] += fits_not
        return ["contested"] if fits_not else []

    def _merge(self, commits: Sequence[str]) -> str:
        """The same commits give the same one."""
        merged = hashlib.sha1(" ".join(commits).encode()).hexdigest()
        self.commits[merged] = self.tree(_merged([self.trees[self.commits[each]] for each in commits]))
        return merged

    def _fresh(self, request: PrepareWorkspace) -> Worktree:
        base = request.base_commits[0]
        tree = request.tree or self.tree(_merged([self.trees[self.commits[each]] for each in request.base_commits]))
        if len(request.base_commits) > 1:
            base = self._merge(request.base_commits)
        files = {name: list(lines) for name, lines in self.trees[tree].items()}
        worktree = Worktree(request.generation, files, tree, base)
        self.worktrees[request.workspace_id] = worktree
        return worktree

    def _of(self, workspace_id: str, generation: int) -> Worktree:
        worktree = self.worktrees.get(workspace_id)
        if worktree is None:
            raise NotFound(f"there is no workspace {workspace_id}")
        if worktree.generation != generation:
            raise StaleClaim(f"{workspace_id} is at generation {worktree.generation}, not {generation}")
        return worktree


def _merged(trees: list[Files]) -> Files:
    """Each agent writes into a file of its own, so nothing conflicts; of one that several have, the longest counts."""
    merged: Files = {}
    for tree in trees:
        for name, lines in tree.items():
            if len(lines) > len(merged.get(name, [])):
                merged[name] = list(lines)
    return merged


def _snapshot(tree: str) -> Snapshot:
    return Snapshot(tree=tree, full_tree=tree)
