"""Worktrees: a fresh one for each generation, with a git of its own, and gone without a trace when removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import Conflict, NotFound, WrongState
from crewlog.git import commits, snapshots
from crewlog.v1.workspace_pb2 import CommitWorkspace, Snapshot

from tests.service.git.places import RUN, TASK, WORKSPACE, Bench, UserRepository, run_git


def branch_off(user: UserRepository, base: str, **files: str) -> str:
    user.git("checkout", "-q", "--detach", base)
    return user.commit(**files)


def test_a_worktree_has_the_files_of_its_base(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, prepared = bench.prepare(head)
    assert (worktree.tree / "src" / "slug.py").read_text() == "def slugify(text): ...\n"
    assert prepared.path == str(worktree.tree)
    assert prepared.base_commit == head
    assert prepared.snapshot == Snapshot(
        tree=user.git("rev-parse", "HEAD^{tree}"), full_tree=user.git("rev-parse", "HEAD^{tree}")
    )


def test_the_agents_own_git_works(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, prepared = bench.prepare(head)
    assert run_git(worktree.tree, "status", "--porcelain") == ""
    assert run_git(worktree.tree, "rev-parse", "HEAD") == head
    assert run_git(worktree.tree, "symbolic-ref", "HEAD") == f"refs/heads/crewlog/{RUN}/{TASK}"
    (worktree.tree / "new.py").write_text("new\n")
    run_git(worktree.tree, "add", "-A")
    run_git(worktree.tree, "commit", "-q", "-m", "by the agent")
    assert run_git(worktree.tree, "rev-parse", "HEAD~1") == head
    run_git(worktree.tree, "fsck", "--strict")
    assert prepared.read_only_paths == [str(bench.clone.objects)]


def test_the_agents_git_cannot_write_into_the_managed_clone(bench: Bench, user: UserRepository) -> None:
    worktree, _ = bench.prepare(bench.pin(user.top).commit)
    before = sorted(str(path) for path in bench.clone.git_dir.rglob("*"))
    (worktree.tree / "new.py").write_text("new\n")
    run_git(worktree.tree, "add", "-A")
    run_git(worktree.tree, "commit", "-q", "-m", "by the agent")
    assert sorted(str(path) for path in bench.clone.git_dir.rglob("*")) == before


def test_prepare_twice_is_prepare_once(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, first = bench.prepare(head)
    (worktree.tree / "work").write_text("in progress")
    assert bench.prepare(head)[1] == first
    assert (worktree.tree / "work").read_text() == "in progress"


def test_the_same_generation_from_other_files_is_a_conflict(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    other = user.commit(b="b")
    bench.pin(user.top)
    worktree, _ = bench.prepare(head)
    (worktree.tree / "work").write_text("in progress")
    with pytest.raises(Conflict):
        bench.prepare(other)
    assert (worktree.tree / "work").exists()


def test_fault_71_a_half_made_worktree_is_made_again(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, first = bench.prepare(head)
    (worktree.directory / "prepared.json").unlink()
    (worktree.tree / "README.md").unlink()
    with pytest.raises(WrongState, match="not here"):
        bench.worktrees.find(bench.clone, WORKSPACE, 1)
    assert bench.prepare(head)[1] == first
    assert (worktree.tree / "README.md").exists()


def test_a_new_generation_works_elsewhere_from_the_last_snapshot(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    old, _ = bench.prepare(head)
    (old.tree / "done.py").write_text("done\n")
    (old.tree / "ignored").mkdir()
    (old.tree / "ignored" / "cache").write_text("cache\n")
    last = snapshots.take(old, "1-0", Snapshot()).snapshot
    new, prepared = bench.prepare(head, generation=2, tree=last.full_tree)
    assert new.tree != old.tree
    assert (new.tree / "done.py").read_text() == "done\n"
    assert (new.tree / "ignored" / "cache").read_text() == "cache\n"
    assert prepared.snapshot == last
    assert prepared.base_commit == head
    assert run_git(new.tree, "status", "--porcelain") == "?? done.py"
    (old.tree / "zombie.py").write_text("still here\n")
    assert not (new.tree / "zombie.py").exists()


def test_one_base_that_contains_the_others_is_taken(bench: Bench, user: UserRepository) -> None:
    first = bench.pin(user.top).commit
    second = user.commit(b="b")
    bench.pin(user.top)
    assert bench.prepare(first, second, first)[1].base_commit == second


def test_several_bases_are_merged_always_into_the_same_commit(bench: Bench, user: UserRepository) -> None:
    base = bench.pin(user.top).commit
    tips = [branch_off(user, base, **{name: name}) for name in ("a", "b", "c")]
    for tip in tips:
        bench.pin(user.top, base=tip)
    worktree, prepared = bench.prepare(*tips)
    assert {path.name for path in worktree.tree.iterdir()} >= {"a", "b", "c"}
    assert bench.prepare(*tips, generation=2)[1].base_commit == prepared.base_commit
    merged = bench.managed("rev-list", prepared.base_commit).splitlines()
    assert set(tips) < set(merged)


def test_bases_that_contradict_each_other_are_refused_with_the_paths(bench: Bench, user: UserRepository) -> None:
    base = bench.pin(user.top).commit
    tips = [branch_off(user, base, **{"README.md": text, "other": "same"}) for text in ("one\n", "two\n")]
    for tip in tips:
        bench.pin(user.top, base=tip)
    with pytest.raises(WrongState, match=r"README\.md") as refusal:
        bench.prepare(*tips)
    assert list(refusal.value.violations) == ["README.md"]
    assert not (bench.directory / "workspaces").exists()


def test_files_that_are_not_in_the_clone_are_refused(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    with pytest.raises(NotFound):
        bench.prepare("0" * 40)
    with pytest.raises(NotFound):
        bench.prepare(head, tree="0" * 40)
    with pytest.raises(NotFound):
        bench.prepare(user.git("rev-parse", "HEAD^{tree}"))


def test_remove_takes_every_generation_and_nothing_else(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    outside = bench.directory.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    for generation in (1, 2):
        worktree, _ = bench.prepare(head, generation=generation)
        (worktree.tree / "link").symlink_to(outside)
        closed = worktree.tree / "closed"
        closed.mkdir()
        (closed / "file").touch()
        closed.chmod(0o500)
    bench.worktrees.remove(WORKSPACE)
    assert list((bench.directory / "workspaces").iterdir()) == []
    assert (outside / "precious").exists()
    assert (user.top / "README.md").exists()
    bench.worktrees.remove(WORKSPACE)


def test_remove_never_follows_a_link_out_of_the_root(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    root = bench.directory / "workspaces"
    root.mkdir(parents=True)
    (root / "evil_task-1").symlink_to(outside)
    for workspace_id in ("evil_task-1", "..", "../../outside", "", "."):
        with pytest.raises(WrongState):
            bench.worktrees.remove(workspace_id)
    assert (outside / "precious").exists()
    assert (root / "evil_task-1").is_symlink()


def committed(bench: Bench, base: str, snapshot: Snapshot, **other: object) -> str:
    fields: dict[str, Any] = {"message": "Make slugs\n\nBody.\n", "role": "implementer", **other}
    command = CommitWorkspace(
        workspace_id=WORKSPACE,
        generation=1,
        run_id=RUN,
        snapshot=snapshot,
        revision=42,
        at_unix_micros=10**15,
        **fields,
    )
    return commits.commit_snapshot(bench.clone, command, base).commit


def test_a_commit_says_where_it_comes_from_and_is_the_same_when_made_again(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, prepared = bench.prepare(head)
    assert committed(bench, head, prepared.snapshot) == head
    (worktree.tree / "new.py").write_text("new\n")
    taken = snapshots.take(worktree, "1-0", prepared.snapshot).snapshot
    commit = committed(bench, head, taken)
    assert committed(bench, head, taken) == commit
    assert bench.managed("log", "-1", "--format=%an <%ae> %at %P", commit) == (
        f"Crewlog <crewlog@localhost> 1000000000 {head}"
    )
    assert bench.managed("log", "-1", "--format=%B", commit).splitlines() == [
        "Make slugs",
        "",
        "Body.",
        "",
        f"Crewlog-Run: {RUN}",
        f"Crewlog-Task: {TASK}",
        "Crewlog-Role: implementer",
        "Crewlog-Event: 42",
    ]
    assert bench.managed("rev-parse", f"refs/crewlog/commits/{WORKSPACE}") == commit
    assert bench.managed("log", "-1", "--format=%(trailers:key=Crewlog-Run,valueonly)", commit) == RUN


def test_a_message_cannot_claim_to_be_of_another_run(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    worktree, prepared = bench.prepare(head)
    (worktree.tree / "new.py").write_text("new\n")
    taken = snapshots.take(worktree, "1-0", prepared.snapshot).snapshot
    commit = committed(bench, head, taken, message="x\n\nCrewlog-Run: other", role="")
    message = bench.managed("log", "-1", "--format=%B", commit)
    assert commits.run_that_made(message) == RUN
    assert commits.run_that_made("x\n\nCrewlog-Run: other\n\nnot the last paragraph\n") == ""


def test_prepared_json_is_the_last_thing_that_is_written(bench: Bench, user: UserRepository) -> None:
    worktree, prepared = bench.prepare(bench.pin(user.top).commit)
    asked, made = json.loads((worktree.directory / "prepared.json").read_text())
    assert made[0] == prepared.base_commit
    newest = max(os.lstat(path).st_mtime_ns for path in worktree.directory.iterdir() if path.name != "prepared.json")
    assert (worktree.directory / "prepared.json").stat().st_mtime_ns >= newest
    assert asked[1] == [prepared.base_commit]
