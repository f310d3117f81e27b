"""Several commits become one without a workspace, or the conflict is named; on real git."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.domain.errors import MergeConflict, NotFound
from crewlog.git import commits, snapshots
from crewlog.git.worktree import Worktree
from crewlog.v1.workspace_pb2 import CommitWorkspace, MergeCommits, MergedCommits, PrepareWorkspace

from tests.service.git.places import PROJECT, RUN, TASK, WORKSPACE, Bench, UserRepository
from tests.service.git.serving import Service, serving

Change = Callable[[Path], object]


def work(bench: Bench, base: str, generation: int, change: Change) -> str:
    """The commit of an agent that has changed its worktree so."""
    worktree, prepared = bench.prepare(base, generation=generation)
    change(worktree.tree)
    taken = snapshots.take(worktree, "1-0", prepared.snapshot).snapshot
    command = CommitWorkspace(workspace_id=WORKSPACE, run_id=RUN, snapshot=taken, message="Work", revision=generation)
    made = commits.commit_snapshot(bench.clone, command, base).commit
    bench.managed("update-ref", f"refs/crewlog/kept/{generation}", made)
    return made


def write(**files: str) -> Change:
    return lambda top: [(top / path).write_text(text) for path, text in files.items()]


def merge(bench: Bench, base: str, *made: str, with_conflicts: bool = False) -> MergedCommits:
    command = MergeCommits(
        project_id=PROJECT, run_id=RUN, base_commit=base, commits=made, with_conflicts=with_conflicts
    )
    return commits.merge_for_run(bench.clone, command)


def test_what_was_done_side_by_side_becomes_one_commit_the_same_every_time(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, number, write(**{name: name})) for number, name in enumerate("abc", 1)]
    merged = merge(bench, head, *made)
    assert {"a", "b", "c"} <= bench.files(merged.commit).keys()
    assert (merged.stat.files, list(merged.conflicts)) == (3, [])
    assert merge(bench, head, *made) == merged
    assert merged.commit in bench.managed("for-each-ref", "--format=%(objectname)", "refs/crewlog/merges")


def test_what_another_one_contains_already_drops_out(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    first = work(bench, head, 1, write(a="a"))
    assert merge(bench, head, head, first, first).commit == first


@pytest.mark.parametrize(
    "ours,theirs",
    [
        (write(f="one\n"), write(f="two\n")),
        (lambda top: (top / "README.md").unlink(), write(**{"README.md": "changed\n"})),
        (lambda top: (top / "x").write_bytes(b"\0\1"), lambda top: (top / "x").write_bytes(b"\0\2")),
        (write(d="a file\n"), lambda top: ((top / "d").mkdir(), (top / "d" / "e").write_text("within\n"))),
    ],
    ids=["text", "removed", "binary", "directory"],
)
def test_a_conflict_is_named_or_handed_over_with_both_sides(
    bench: Bench, user: UserRepository, ours: Change, theirs: Change
) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, number, change) for number, change in enumerate((ours, theirs), 1)]
    refused = merge(bench, head, *made)
    assert (refused.commit, len(refused.conflicts)) == ("", 1)
    marked = merge(bench, head, *made, with_conflicts=True)
    assert list(marked.conflicts) == list(refused.conflicts)
    assert bench.managed("log", "-1", "--format=%P", marked.commit).split() == made


def test_a_worktree_gets_the_conflict_only_where_that_was_asked_for(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, number, write(f=text)) for number, text in ((1, "one\n"), (2, "two\n"))]
    command = PrepareWorkspace(
        workspace_id=WORKSPACE, project_id=PROJECT, run_id=RUN, task_id=TASK, generation=3, base_commits=made
    )
    with pytest.raises(MergeConflict) as refusal:
        bench.worktrees.prepare(bench.clone, command)
    assert refusal.value.violations == {"f": "changed on both sides"}
    command.with_conflicts = True
    prepared = bench.worktrees.prepare(bench.clone, command)
    worktree: Worktree = bench.worktrees.find(bench.clone, WORKSPACE, 3)
    assert list(prepared.conflicts) == ["f"]
    assert "<<<<<<<" in (worktree.tree / "f").read_text()
    assert bench.worktrees.prepare(bench.clone, command) == prepared


def test_what_is_not_there_is_refused(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    with pytest.raises(NotFound):
        merge(bench, head, head, "1" * 40)


async def test_over_the_wire_also_for_tasks_that_were_derived(tmp_path: Path, user: UserRepository) -> None:
    async with serving(user, tmp_path) as service:
        await check(service)


async def check(service: Service) -> None:
    answer = await service.workspaces.Merge(
        MergeCommits(project_id=PROJECT, run_id=RUN, base_commit=service.head, commits=[service.head])
    )
    assert answer.commit == service.head
    task_id = "parts_3-1"
    command = PrepareWorkspace(
        workspace_id=f"{RUN}_{task_id}",
        project_id=PROJECT,
        run_id=RUN,
        task_id=task_id,
        generation=1,
        base_commits=[service.head],
    )
    prepared = await service.workspaces.Prepare(command, metadata=service.claim(task_id=task_id))
    assert Path(prepared.path).is_dir()
