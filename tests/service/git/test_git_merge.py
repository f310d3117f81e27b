"""Several commits become one without a workspace, or the conflict is named; on real git."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.domain.errors import MergeConflict, NotFound, Unavailable
from crewlog.domain.workflow.graph import RUN_VISITS_MAX
from crewlog.git import checks, commits, snapshots
from crewlog.git.clones import Clone
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


async def test_who_asks_again_while_it_is_merged_waits_for_the_same(
    tmp_path: Path, user: UserRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every call that was too short would begin the whole anew, beside the others."""
    begun, go, real = list[MergeCommits](), threading.Event(), commits.merge_for_run

    def slow(clone: Clone, command: MergeCommits) -> MergedCommits:
        begun.append(command)
        assert go.wait(30)
        return real(clone, command)

    monkeypatch.setattr(commits, "merge_for_run", slow)
    async with serving(user, tmp_path) as service:
        command = MergeCommits(project_id=PROJECT, run_id=RUN, base_commit=service.head, commits=[service.head])
        for _ in range(3):
            with pytest.raises(Unavailable):
                await service.workspaces.Merge(command, timeout=0.5)
        assert len(begun) == 1
        go.set()
        assert (await service.workspaces.Merge(command)).commit == service.head


def test_many_are_merged_two_and_two(bench: Bench, user: UserRepository) -> None:
    """One after the other, each merge would have the history of all before it to go through."""
    head = bench.pin(user.top).commit
    made = [work(bench, head, number, write(**{f"f{number}": "x"})) for number in range(1, 10)]
    merged = merge(bench, head, *made).commit
    assert {f"f{number}" for number in range(1, 10)} <= bench.files(merged).keys()
    assert int(bench.managed("rev-list", "--count", "--first-parent", f"{head}..{merged}")) == 5


def test_as_many_are_merged_as_a_run_may_have_tasks() -> None:
    made = [f"{number:040x}" for number in range(RUN_VISITS_MAX)]
    checks.merge(MergeCommits(project_id=PROJECT, run_id=RUN, base_commit=made[0], commits=made))


def test_directories_that_became_several_are_a_conflict(bench: Bench, user: UserRepository) -> None:
    """No file of it has two sides; git does not know where the new one belongs."""

    def build(top: Path) -> None:
        (top / "old").mkdir()
        for number in range(4):
            (top / "old" / f"f{number}").write_text(f"{number}\n" * 30)

    def split(top: Path) -> None:
        for number in range(4):
            (top / f"new{number % 2}").mkdir(exist_ok=True)
            (top / "old" / f"f{number}").rename(top / f"new{number % 2}" / f"f{number}")

    base = work(bench, bench.pin(user.top).commit, 1, build)
    made = [work(bench, base, 2, split), work(bench, base, 3, lambda top: (top / "old" / "more").write_text("more\n"))]
    refused = merge(bench, base, *made)
    assert (refused.commit, [path.split("/")[0] for path in refused.conflicts]) == ("", ["old"])
    marked = merge(bench, base, *made, with_conflicts=True)
    assert list(marked.conflicts) == list(refused.conflicts)
    assert {"new0/f0", "new1/f1", "old/more"} <= bench.files(marked.commit).keys()
