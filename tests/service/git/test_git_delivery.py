"""Delivery: one new branch in the user's repository, and not one other byte."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crewlog.domain.errors import Conflict, NotFound, WrongState
from crewlog.git import commits, delivery, snapshots
from crewlog.v1.workspace_pb2 import Change, CommitWorkspace, DeliverChange

from tests.service.git.places import PROJECT, RUN, WORKSPACE, Bench, UserRepository, run_git

BRANCH = "crewlog/demo"


def work(bench: Bench, base: str, generation: int = 1, /, **files: str) -> str:
    """The commit of an agent that has written these files."""
    worktree, prepared = bench.prepare(base, generation=generation)
    for path, content in files.items():
        (worktree.tree / path).write_text(content)
    taken = snapshots.take(worktree, "1-0", prepared.snapshot).snapshot
    command = CommitWorkspace(workspace_id=WORKSPACE, run_id=RUN, snapshot=taken, message="Work", revision=generation)
    return commits.commit_snapshot(bench.clone, command, base).commit


def deliver(bench: Bench, base: str, *made: str, branch: str = BRANCH, at: int = 0) -> Change:
    command = DeliverChange(
        run_id=RUN, project_id=PROJECT, base_commit=base, commits=made, branch=branch, at_unix_micros=at
    )
    return delivery.deliver(bench.clone, command)


def is_new(path: str) -> bool:
    """What a delivery may add: objects, the branch and its reflog, and the directories that they are in."""
    allowed = (".git/objects/", ".git/refs/heads/crewlog", ".git/logs/refs/heads/crewlog")
    return path.startswith(allowed)


def test_a_branch_with_the_work_and_nothing_else(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, 1, **{"new.py": "new\n", "README.md": "one\ntwo\n"})
    user.write("README.md", "changed by the user\n")
    user.git("stash", "-q")
    user.write("README.md", "changed again\n")
    user.write("staged", "staged\n")
    user.git("add", "staged")
    before = user.fingerprint()
    change = deliver(bench, head, commit)
    after = user.fingerprint()
    assert {path: after.get(path) for path in before} == before
    assert [path for path in after.keys() - before.keys() if not is_new(path)] == []
    assert user.git("rev-parse", BRANCH) == commit == change.commit
    assert user.git("show", f"{BRANCH}:new.py") == "new"
    user.git("fsck", "--strict")
    assert (change.branch, change.base_commit, list(change.paths)) == (BRANCH, head, ["README.md", "new.py"])
    assert (change.stat.files, change.stat.insertions, change.stat.deletions) == (2, 3, 1)


def test_deliver_twice_is_deliver_once(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    first = deliver(bench, head, commit)
    before = user.fingerprint()
    assert deliver(bench, head, commit, at=10**15) == first
    assert user.fingerprint() == before


def test_several_commits_are_merged_into_the_same_commit_every_time(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, generation, **{name: name}) for generation, name in ((1, "a"), (2, "b"), (3, "c"))]
    first = deliver(bench, head, *made)
    assert list(first.paths) == ["a", "b", "c"]
    assert deliver(bench, head, *made, at=10**15) == first
    assert user.git("log", "--format=%an", "-1", BRANCH) == "Crewlog"


def test_commits_that_contradict_each_other_are_not_delivered(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, generation, a=text) for generation, text in ((1, "one\n"), (2, "two\n"))]
    with pytest.raises(WrongState, match=r"both change a\b"):
        deliver(bench, head, *made)
    assert user.git("branch", "--list", BRANCH) == ""


def test_nothing_changed_makes_no_branch(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    before = user.fingerprint()
    for made in ((), (head,), (work(bench, head),)):
        change = deliver(bench, head, *made)
        assert (change.branch, change.commit, change.stat.files) == ("", head, 0)
    assert user.fingerprint() == before


def test_fault_74_a_branch_of_somebody_else_is_left_alone(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    user.git("branch", BRANCH, head)
    with pytest.raises(Conflict, match="'work', not made by a run"):
        deliver(bench, head, commit)
    assert user.git("rev-parse", BRANCH) == head


def test_fault_74_a_branch_of_another_run_is_named(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    deliver(bench, head, work(bench, head, a="a"))
    with pytest.raises(Conflict, match=f"made by run '{RUN}'"):
        deliver(bench, head, work(bench, head, 2, a="other"))


def test_fault_74_a_branch_is_never_moved_forward(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    user.git("branch", BRANCH, head)
    commit = work(bench, head, a="a")
    with pytest.raises(Conflict):
        deliver(bench, head, commit)


def test_fault_74_of_two_at_the_same_time_one_gets_the_branch(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    made = [work(bench, head, generation, a=text) for generation, text in ((1, "one\n"), (2, "two\n"))]
    for round in range(5):
        branch = f"crewlog/{round}"
        with ThreadPoolExecutor(2) as threads:
            tries = [threads.submit(deliver, bench, head, commit, branch=branch) for commit in made]
        won = [commit for commit, one in zip(made, tries, strict=True) if one.exception() is None]
        assert won == [user.git("rev-parse", branch)]
        assert [type(one.exception()) for one in tries if one.exception()] == [Conflict]


def test_a_branch_that_stands_in_the_way_is_said(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    user.git("branch", "crewlog")
    with pytest.raises(WrongState, match="cannot be made"):
        deliver(bench, head, work(bench, head, a="a"))


def test_fault_72_objects_without_a_branch_are_no_obstacle(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    user.git("fetch", "-q", "--no-write-fetch-head", str(bench.clone.git_dir), commit)
    assert deliver(bench, head, commit).commit == commit


def test_a_repository_that_is_gone_is_said(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    user.top.rename(tmp_path / "elsewhere")
    with pytest.raises(WrongState, match="is gone"):
        deliver(bench, head, commit)


def test_commits_that_are_not_there_are_refused(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    with pytest.raises(NotFound):
        deliver(bench, head, "1" * 40)


def test_hooks_and_configuration_have_no_part_in_it(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    trap = tmp_path / "trap"
    for name in ("reference-transaction", "post-merge", "post-checkout", "update", "pre-receive", "fsmonitor-watchman"):
        hook = user.top / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch '{trap}-{name}'\nexit 1\n")
        hook.chmod(0o755)
    user.git("config", "core.hooksPath", str(user.top / ".git" / "hooks"))
    user.git("config", "core.alternateRefsCommand", f"touch '{trap}-alternates'")
    user.git("config", "core.fsmonitor", f"touch '{trap}-fsmonitor'")
    user.git("config", f"url.ext::touch {trap}-url.insteadOf", "/nowhere")
    user.git("config", "gc.auto", "1")
    user.git("config", "fetch.prune", "true")
    user.git("config", "fetch.writeCommitGraph", "true")
    (user.top / ".git" / "objects" / "info" / "alternates").write_text(str(bench.clone.objects) + "\n")
    before = user.fingerprint()
    deliver(bench, head, commit)
    after = user.fingerprint()
    assert list(tmp_path.glob("trap*")) == []
    assert {path: after.get(path) for path in before} == before
    assert [path for path in after.keys() - before.keys() if not is_new(path)] == []


def test_an_address_that_is_rewritten_delivers_nothing_else(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    trap = tmp_path / "trap"
    user.git("config", f"url.ext::touch {trap} .insteadOf", str(bench.clone.git_dir))
    with pytest.raises(WrongState):
        deliver(bench, head, commit)
    assert not trap.exists()
    assert user.git("branch", "--list", BRANCH) == ""


@pytest.mark.parametrize("kind", ["linked", "bare", "shallow"])
def test_every_kind_of_repository_gets_its_branch(
    bench: Bench, user: UserRepository, tmp_path: Path, kind: str
) -> None:
    user.commit(b="b")
    place = tmp_path / kind
    if kind == "linked":
        user.git("worktree", "add", "-q", "--detach", str(place))
    else:
        option = "--bare" if kind == "bare" else "--depth=1"
        run_git(tmp_path, "clone", "-q", option, user.top.as_uri(), str(place))
    head = bench.pin(place).commit
    commit = work(bench, head, a="a")
    assert deliver(bench, head, commit).commit == commit
    assert run_git(place, "rev-parse", BRANCH) == commit
    run_git(place, "fsck", "--strict")


def test_what_was_delivered_does_not_need_the_clone(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, a="a")
    deliver(bench, head, commit)
    shutil.rmtree(bench.directory)
    user.git("fsck", "--strict")
    assert user.git("show", f"{BRANCH}:a") == "a"
