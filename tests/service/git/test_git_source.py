"""Reading the user's repository: every shape of it works or is refused clearly, and it stays as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, WrongState

from tests.service.git.places import Bench, UserRepository, run_git


def test_pin_names_the_commit_and_the_branch(bench: Bench, user: UserRepository) -> None:
    pinned = bench.pin(user.top)
    assert pinned.commit == user.git("rev-parse", "HEAD")
    assert pinned.branch == "main"
    assert not pinned.has_uncommitted_changes
    assert bench.files(pinned.commit)["src/slug.py"] == "def slugify(text): ..."


def test_pin_leaves_the_repository_as_it_was(bench: Bench, user: UserRepository) -> None:
    user.write("src/slug.py", "changed\n")
    os.utime(user.top / "README.md", (1, 1))  # git would like to refresh its index
    before = user.fingerprint()
    assert bench.pin(user.top).has_uncommitted_changes
    assert user.fingerprint() == before


def test_pin_again_after_new_commits(bench: Bench, user: UserRepository) -> None:
    first = bench.pin(user.top).commit
    second = user.commit(b="b")
    assert bench.pin(user.top).commit == second
    assert bench.pin(user.top, base="HEAD~1").commit == first
    assert bench.pin(user.top).commit == second


def test_a_base_may_be_a_branch_a_tag_or_a_commit(bench: Bench, user: UserRepository) -> None:
    commit = user.git("rev-parse", "HEAD")
    user.git("tag", "-a", "v1", "-m", "one")
    user.git("branch", "side")
    user.commit(b="b")
    for base in ("v1", "side", commit, commit[:10], "main~1"):
        assert bench.pin(user.top, base=base).commit == commit
    with pytest.raises(NotFound, match="nowhere"):
        bench.pin(user.top, base="nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda user: user.write("README.md", "changed"),
        lambda user: user.write("new.py", "new"),
        lambda user: (user.top / "README.md").unlink(),
        lambda user: (user.write("README.md", "staged"), user.git("add", "-A")),
    ],
)
def test_uncommitted_changes_are_told(bench: Bench, user: UserRepository, change: object) -> None:
    change(user)  # type: ignore[operator]
    assert bench.pin(user.top).has_uncommitted_changes


def test_ignored_files_and_our_own_directory_are_no_changes(user: UserRepository) -> None:
    inside = Bench.at(user.top / ".data" / "git")
    user.write("ignored/x", "x")
    assert not inside.pin(user.top).has_uncommitted_changes
    user.write("new.py", "new")
    assert inside.pin(user.top).has_uncommitted_changes


def test_a_directory_below_and_a_linked_worktree_are_the_same_repository(
    bench: Bench, user: UserRepository, tmp_path: Path
) -> None:
    user.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    linked = UserRepository(tmp_path / "linked")
    side = linked.commit(c="c")
    assert bench.pin(user.top / "src").branch == "main"
    pinned = bench.pin(linked.top)
    assert (pinned.commit, pinned.branch) == (side, "side")
    assert bench.clone.source() == user.top / ".git"
    linked.write("new", "new")
    assert bench.pin(linked.top).has_uncommitted_changes
    assert not bench.pin(user.top).has_uncommitted_changes


def test_a_detached_head_has_no_branch(bench: Bench, user: UserRepository) -> None:
    user.git("checkout", "-q", "--detach")
    assert bench.pin(user.top).branch == ""


def test_a_bare_repository_can_be_worked_on(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    run_git(tmp_path, "clone", "-q", "--bare", str(user.top), "bare.git")
    pinned = bench.pin(tmp_path / "bare.git")
    assert (pinned.commit, pinned.branch) == (user.git("rev-parse", "HEAD"), "main")
    assert not pinned.has_uncommitted_changes


def test_a_shallow_repository_can_be_worked_on(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    user.commit(b="b")
    head = user.commit(c="c")
    run_git(tmp_path, "clone", "-q", "--depth=1", user.top.as_uri(), "shallow")
    pinned = bench.pin(tmp_path / "shallow")
    assert pinned.commit == head
    worktree, _ = bench.prepare(head)
    assert len(run_git(worktree.tree, "log", "--oneline").splitlines()) == 1


def test_a_repository_with_sha256_can_be_worked_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "sha256").mkdir()
    run_git(tmp_path / "sha256", "init", "-q", "--object-format=sha256")
    user = UserRepository(tmp_path / "sha256")
    head = user.commit(a="a")
    assert bench.pin(user.top).commit == head
    worktree, _ = bench.prepare(head)
    assert run_git(worktree.tree, "rev-parse", "HEAD") == head


def test_what_is_no_repository_is_refused(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    run_git(tmp_path / "empty", "init", "-q")
    with pytest.raises(InvalidCommand, match="no git repository"):
        bench.pin(tmp_path / "plain")
    with pytest.raises(NotFound, match="no directory"):
        bench.pin(tmp_path / "file")
    with pytest.raises(InvalidCommand, match="inside a git directory"):
        bench.pin(user.top / ".git" / "refs")
    with pytest.raises(WrongState, match="no commits"):
        bench.pin(tmp_path / "empty")
    with pytest.raises(WrongState, match="no commits"):
        bench.pin(tmp_path / "empty", base="main")
    assert not (bench.directory / "clones").exists()


def test_a_project_is_one_repository(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    bench.pin(user.top)
    run_git(tmp_path, "clone", "-q", str(user.top), "other")
    with pytest.raises(Conflict, match="is the repository at"):
        bench.pin(tmp_path / "other")
    user.top.rename(tmp_path / "moved")
    assert bench.pin(tmp_path / "moved").branch == "main"


def test_a_repository_of_another_user_can_be_read(bench: Bench, user: UserRepository) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    for path in (user.top, *user.top.rglob("*")):
        os.lchown(path, 12345, 12345)
    with pytest.raises(subprocess.CalledProcessError):
        user.git("status")
    assert bench.pin(user.top).branch == "main"


def test_the_configuration_of_the_repository_runs_nothing(bench: Bench, user: UserRepository, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name in (
        "core.fsmonitor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.external",
        "uploadpack.packObjectsHook",
    ):
        user.git("config", name, f"touch '{trap}-{name}'; cat")
    hook = user.top / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{trap}-hook'\n")
    hook.chmod(0o755)
    user.write(".gitattributes", "*.md filter=evil\n")
    user.write("README.md", "sLuGs\n")  # as long as it was: git has to read it
    before = user.fingerprint()
    assert bench.pin(user.top).has_uncommitted_changes
    assert user.fingerprint() == before
    assert list(tmp_path.glob("trap*")) == []
