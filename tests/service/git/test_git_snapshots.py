"""Snapshots: exactly what lies on the disk, whatever an agent does to it; and back again."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.domain.errors import NotFound, WrongState
from crewlog.git import snapshots
from crewlog.git import worktree as worktrees
from crewlog.git.worktree import Worktree
from crewlog.v1.workspace_pb2 import Snapshot, TakenSnapshot

from tests.service.git.places import Bench, UserRepository, run_git


class Agent:
    """A worktree, and what is asked for it."""

    def __init__(self, bench: Bench, worktree: Worktree, prepared: Snapshot) -> None:
        self.bench = bench
        self.worktree = worktree
        self.tree = worktree.tree
        self.prepared = prepared
        self._labels = 0

    def write(self, path: str, content: str) -> Path:
        target = self.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        return target

    def take(self, label: str = "") -> TakenSnapshot:
        self._labels += 1
        return snapshots.take(self.worktree, label or f"{self._labels}-0", self.prepared)

    def files(self, tree: str) -> set[str]:
        return set(self.bench.files(tree))

    def settle(self) -> None:
        """Until the clock of the file system has moved on, so that a look may rely on it."""
        changed = max(os.lstat(path).st_ctime_ns for path in self.tree.rglob("*"))
        while time.time_ns() < changed + worktrees.CLOCK_TICK_NANOS:
            os.sched_yield()


@pytest.fixture
def agent(bench: Bench, user: UserRepository) -> Agent:
    worktree, prepared = bench.prepare(bench.pin(user.top).commit)
    return Agent(bench, worktree, prepared.snapshot)


def test_nothing_changed(agent: Agent) -> None:
    taken = agent.take()
    assert (taken.snapshot, taken.changed, list(taken.paths)) == (agent.prepared, False, [])


def test_added_changed_deleted_and_executable_files(agent: Agent) -> None:
    agent.write("new.py", "new\n")
    agent.write("README.md", "changed\n")
    (agent.tree / "src" / "slug.py").unlink()
    (agent.tree / ".gitignore").chmod(0o755)
    taken = agent.take()
    assert taken.changed
    assert list(taken.paths) == [".gitignore", "README.md", "new.py", "src/slug.py"]
    assert agent.files(taken.snapshot.tree) == {".gitignore", "README.md", "new.py"}
    assert agent.bench.managed("ls-tree", taken.snapshot.tree, ".gitignore").startswith("100755")
    assert not agent.take().changed


def test_the_same_label_again_compares_with_the_same_snapshot(agent: Agent) -> None:
    agent.write("new.py", "new\n")
    first = agent.take("1-0")
    assert first.changed
    assert agent.take("1-0") == first
    assert not agent.take("1-1").changed


def test_after_the_loss_of_its_notes_everything_is_compared_with_the_beginning(agent: Agent) -> None:
    agent.write("new.py", "new\n")
    first = agent.take("1-0")
    (agent.worktree.directory / "position.json").write_bytes(b"")
    again = agent.take("1-0")
    assert (again.snapshot, again.changed) == (first.snapshot, True)


def test_ignored_files_are_in_the_full_tree_only(agent: Agent) -> None:
    agent.write("ignored/data", "data\n")
    agent.write("build.log", "log\n")
    agent.write("src/__pycache__/slug.pyc", "bytes")
    agent.write("node_modules/left/index.js", "js")
    taken = agent.take()
    assert (taken.changed, list(taken.paths)) == (True, [])
    assert taken.snapshot.tree == agent.prepared.tree
    assert agent.files(taken.snapshot.full_tree) - agent.files(taken.snapshot.tree) == {
        "ignored/data",
        "build.log",
        "src/__pycache__/slug.pyc",
        "node_modules/left/index.js",
    }
    agent.write("ignored/data", "DATA\n")
    assert agent.take().changed
    shutil.rmtree(agent.tree / "ignored")
    assert "ignored/data" not in agent.files(agent.take().snapshot.full_tree)


def test_a_change_of_the_same_size_in_the_same_moment_is_seen(agent: Agent) -> None:
    for round in range(8):
        agent.write("ignored/data", f"{round:04}")
        agent.write("README.md", f"{round:04}")
        taken = agent.take()
        assert agent.bench.files(taken.snapshot.full_tree)["ignored/data"] == f"{round:04}"
        assert agent.bench.files(taken.snapshot.full_tree)["README.md"] == f"{round:04}"


def test_a_look_right_after_a_change_is_not_relied_on(agent: Agent) -> None:
    agent.write("ignored/data", "data")
    assert worktrees.look(agent.worktree).signature == ""
    agent.settle()
    assert worktrees.look(agent.worktree).signature != ""


def test_ignored_files_over_the_limits_are_counted(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "IGNORED_FILES_MAX", 3)
    monkeypatch.setattr(snapshots, "IGNORED_BYTES_MAX", 100)
    agent.write(".venv/lib.py", "x")
    agent.write("ignored/large", "x" * 101)
    for name in "abc":
        agent.write(f"ignored/{name}", name)
    taken = agent.take().snapshot
    assert taken.files_left_out == 2
    assert agent.files(taken.full_tree) - agent.files(taken.tree) == {"ignored/a", "ignored/b", "ignored/c"}
    (agent.tree / "ignored" / "a").unlink()
    taken = agent.take().snapshot
    assert agent.files(taken.full_tree) - agent.files(taken.tree) == {"ignored/b", "ignored/c", ".venv/lib.py"}


def test_a_file_that_is_too_large_is_left_out(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktrees, "FILE_BYTES_MAX", 1000)
    monkeypatch.setattr(snapshots, "IGNORED_BYTES_MAX", 1000)
    agent.write("core dump[1]", "x" * 1001)
    agent.write("small", "x")
    taken = agent.take().snapshot
    assert taken.files_left_out == 1
    assert agent.files(taken.tree) - agent.files(agent.prepared.tree) == {"small"}


def test_names_that_nobody_would_choose(agent: Agent) -> None:
    names = [
        b"new\nline",
        b"tab\t",
        b"\xff\xfe",
        b' "quoted"',
        b"-rf",
        b":(top)x",
        b"a*b",
        "é".encode(),
        b"back\\slash",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(agent.tree) + b"/" + name)).write_text("x")
    taken = agent.take()
    listed = agent.worktree.clone.repository.run("ls-tree", "-z", "--name-only", taken.snapshot.tree).fields
    assert set(names) <= set(listed)
    assert "\\xff\\xfe" in taken.paths
    assert not agent.take().changed


def test_links_are_kept_as_links(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (agent.tree / "out").symlink_to(tmp_path / "outside")
    (agent.tree / "broken").symlink_to("nowhere")
    shutil.rmtree(agent.tree / "src")
    (agent.tree / "src").symlink_to(tmp_path / "outside")
    taken = agent.take().snapshot
    modes = {line.split("\t")[1]: line[:6] for line in agent.bench.managed("ls-tree", "-r", taken.tree).splitlines()}
    assert (modes["out"], modes["broken"], modes["src"]) == ("120000", "120000", "120000")
    assert not any("secret" in name for name in modes)


def test_a_directory_that_moved_behind_a_link_is_seen(agent: Agent) -> None:
    (agent.tree / "src").rename(agent.tree / "lib")
    (agent.tree / "src").symlink_to("lib")
    assert agent.files(agent.take().snapshot.tree) == {".gitignore", "README.md", "src", "lib/slug.py"}


def test_a_file_becomes_a_directory_and_back(agent: Agent) -> None:
    agent.write("ignored/x", "x")
    agent.take()
    (agent.tree / "README.md").unlink()
    agent.write("README.md/part", "part")
    shutil.rmtree(agent.tree / "ignored")
    agent.write("ignored", "a file now")
    taken = agent.take().snapshot
    assert {"README.md/part", "ignored"} <= agent.files(taken.tree)
    shutil.rmtree(agent.tree / "README.md")
    agent.write("README.md", "a file again")
    assert "README.md" in agent.files(agent.take().snapshot.tree)


def test_repositories_inside_of_the_files_are_files(agent: Agent) -> None:
    for directory in ("made", "made/inner", "ignored/cloned"):
        (agent.tree / directory).mkdir(parents=True)
        run_git(agent.tree / directory, "init", "-q")
        agent.write(f"{directory}/code.py", "code")
    agent.write("made/.gitignore", ".env\n")
    agent.write("made/.env", "secret")
    (agent.tree / "hollow").mkdir()
    run_git(agent.tree / "hollow", "init", "-q")
    taken = agent.take()
    new = agent.files(taken.snapshot.tree) - agent.files(agent.prepared.tree)
    assert new == {"made/code.py", "made/.gitignore", "made/inner/code.py"}
    ignored = agent.files(taken.snapshot.full_tree) - agent.files(taken.snapshot.tree)
    assert ignored == {"made/.env", "ignored/cloned/code.py"}
    assert not agent.take().changed
    for directory in ("made/inner", "made"):
        run_git(agent.tree / directory, "add", "-A")
        run_git(agent.tree / directory, "commit", "-q", "-m", "by the agent")
    assert not agent.take().changed
    agent.write("made/inner/code.py", "other")
    assert list(agent.take().paths) == ["made/inner/code.py"]


@pytest.mark.parametrize("wreck", ["remove", "file", "config", "hooks", "alternates"])
def test_whatever_the_agent_does_to_its_git_does_not_matter(agent: Agent, tmp_path: Path, wreck: str) -> None:
    git_dir = agent.tree / ".git"
    trap = tmp_path / "trap"
    if wreck == "remove":
        shutil.rmtree(git_dir)
    elif wreck == "file":
        shutil.rmtree(git_dir)
        git_dir.write_text("gitdir: /etc\n")
    elif wreck == "config":
        lines = ["[core]", f"fsmonitor = touch {trap}", "worktree = /", '[filter "x"]', f"clean = touch {trap}"]
        (git_dir / "config").write_text("\n".join(lines))
        agent.write(".gitattributes", "* filter=x\n")
    elif wreck == "hooks":
        for name in ("post-index-change", "reference-transaction", "pre-commit"):
            (git_dir / "hooks").mkdir(exist_ok=True)
            (git_dir / "hooks" / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
            (git_dir / "hooks" / name).chmod(0o755)
    else:
        (git_dir / "objects" / "info" / "alternates").write_text("/nowhere\n")
    agent.write("new.py", "new")
    taken = agent.take()
    assert "new.py" in taken.paths
    assert not any(path.startswith(".git/") for path in agent.files(taken.snapshot.full_tree))
    assert not trap.exists()
    assert not snapshots.restore(agent.worktree, taken.snapshot, agent.prepared).changed


def test_special_files_and_empty_directories_are_in_no_snapshot(agent: Agent) -> None:
    os.mkfifo(agent.tree / "pipe")
    (agent.tree / "empty").mkdir()
    assert not agent.take().changed


def test_unreadable_files_are_counted_and_nothing_fails(agent: Agent) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    agent.write("secret", "x").chmod(0)
    agent.write("ignored/secret", "x").chmod(0)
    agent.write("README.md", "changed").chmod(0)
    agent.write("fine", "x")
    taken = agent.take()
    assert taken.snapshot.files_left_out == 3
    assert list(taken.paths) == ["fine"]


def test_every_file_may_go(agent: Agent) -> None:
    for path in agent.tree.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    taken = agent.take().snapshot
    assert agent.files(taken.tree) == set()
    assert agent.files(snapshots.restore(agent.worktree, agent.prepared, taken).snapshot.tree) != set()


def test_fault_71_a_damaged_index_is_made_again(agent: Agent) -> None:
    agent.write("new.py", "new\n")
    first = agent.take().snapshot
    (agent.worktree.directory / "index").write_bytes(b"garbage")
    agent.write("more.py", "more\n")
    taken = agent.take()
    assert list(taken.paths) == ["more.py"]
    assert agent.files(taken.snapshot.tree) == agent.files(first.tree) | {"more.py"}


def test_fault_70_locks_of_a_killed_git_do_not_matter(agent: Agent) -> None:
    for name in ("index.lock", "index.full.lock", "index.deadbeef", "index.deadbeef.lock"):
        (agent.worktree.directory / name).touch()
    (agent.tree / ".git" / "index.lock").touch()
    agent.write("new.py", "new\n")
    assert list(agent.take().paths) == ["new.py"]


def test_a_worktree_that_is_gone_is_said(agent: Agent) -> None:
    shutil.rmtree(agent.tree)
    with pytest.raises(WrongState):
        agent.take()


def test_snapshots_stay_reachable(agent: Agent) -> None:
    agent.write("new.py", "new\n")
    agent.write("ignored/x", "x")
    first = agent.take().snapshot
    agent.write("new.py", "newer\n")
    agent.take()
    agent.bench.managed("-c", "gc.pruneExpire=now", "gc", "-q", "--prune=now")
    assert agent.bench.files(first.full_tree)["new.py"] == "new"


def test_restore_makes_the_files_exactly_those_of_the_snapshot(agent: Agent) -> None:
    agent.write("keep.py", "kept\n")
    agent.write("ignored/keep", "kept\n")
    (agent.tree / "README.md").chmod(0o755)
    (agent.tree / "link").symlink_to("keep.py")
    wanted = agent.take().snapshot
    inode = (agent.tree / "keep.py").stat().st_ino
    agent.write("README.md", "overwritten\n")
    agent.write("extra/deep.py", "extra\n")
    agent.write("ignored/extra", "extra\n")
    (agent.tree / "link").unlink()
    agent.write("link/file", "x")
    shutil.rmtree(agent.tree / "src")
    agent.write("src", "a file now")
    (agent.tree / "cloned").mkdir()
    run_git(agent.tree / "cloned", "init", "-q")
    agent.write("cloned/code", "x")
    restored = snapshots.restore(agent.worktree, wanted, agent.prepared)
    assert restored.snapshot == wanted
    found = {str(path.relative_to(agent.tree)) for path in agent.tree.rglob("*") if path.is_file() or path.is_symlink()}
    assert {name for name in found if not name.startswith(".git/")} == agent.files(wanted.full_tree)
    assert (agent.tree / "README.md").read_text() == "Slugs\n"
    assert (agent.tree / "README.md").stat().st_mode & 0o111
    assert (agent.tree / "link").readlink() == Path("keep.py")
    assert (agent.tree / "keep.py").stat().st_ino == inode
    assert (agent.tree / ".git" / "HEAD").exists()
    assert not agent.take().changed


def test_restore_never_writes_through_a_link(agent: Agent, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "slug.py").write_text("precious")
    shutil.rmtree(agent.tree / "src")
    (agent.tree / "src").symlink_to(outside)
    restored = snapshots.restore(agent.worktree, agent.prepared, agent.prepared)
    assert restored.snapshot == agent.prepared
    assert (outside / "slug.py").read_text() == "precious"
    assert not (agent.tree / "src").is_symlink()


def test_restore_of_what_never_was_is_refused_and_changes_nothing(agent: Agent) -> None:
    agent.write("work", "in progress")
    with pytest.raises(NotFound):
        snapshots.restore(agent.worktree, Snapshot(tree="0" * 40, full_tree="0" * 40), agent.prepared)
    assert (agent.tree / "work").exists()


def test_what_restore_overwrites_is_kept(agent: Agent) -> None:
    agent.write("unsaved.py", "unsaved\n")
    snapshots.restore(agent.worktree, agent.prepared, agent.prepared)
    kept = f"refs/crewlog/snapshots/{agent.worktree.workspace_id}/1/before-restore/tree"
    assert agent.bench.files(agent.bench.managed("rev-parse", kept))["unsaved.py"] == "unsaved"


Step = Callable[[Agent, random.Random], object]


def _pick(agent: Agent, chance: random.Random) -> Path | None:
    paths = sorted(path for path in agent.tree.rglob("*") if ".git" not in path.parts and not path.is_dir())
    return chance.choice(paths) if paths else None


def _write(agent: Agent, chance: random.Random) -> None:
    directory = chance.choice(["", "src/", "ignored/", "ignored/deep/", "node_modules/", "a/b/"])
    target = agent.tree / f"{directory}{chance.choice('xyz')}{chance.choice(['', '.log', '.py'])}"
    for parent in reversed(target.relative_to(agent.tree).parents):
        path = agent.tree / parent
        if path.is_symlink() or path.is_file():
            path.unlink()
    if not target.is_dir() or target.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(str(chance.random()))


def _delete(agent: Agent, chance: random.Random) -> None:
    path = _pick(agent, chance)
    if path is not None:
        path.unlink()


def _swap(agent: Agent, chance: random.Random) -> None:
    """A file becomes a directory or a link, in its place."""
    path = _pick(agent, chance)
    if path is not None and path.name != ".gitignore":
        path.unlink()
        if chance.random() < 0.5:
            path.symlink_to("README.md")
        else:
            agent.write(f"{path.relative_to(agent.tree)}/in", "x")


def _ignore(agent: Agent, chance: random.Random) -> None:
    agent.write(".gitignore", chance.choice(["ignored/\n", "*.log\n", "x*\nignored/\n", ""]))


@pytest.mark.parametrize("seed", range(5))
def test_going_on_from_the_last_snapshot_is_as_good_as_beginning_anew(agent: Agent, seed: int) -> None:
    chance = random.Random(seed)
    steps: list[Step] = [_write, _write, _write, _delete, _swap, _ignore]
    taken: list[Snapshot] = []
    for _ in range(12):
        for _ in range(chance.randint(0, 3)):
            chance.choice(steps)(agent, chance)
        taken.append(agent.take().snapshot)
        for name in ("position.json", "ignored", "index.full"):
            (agent.worktree.directory / name).unlink(missing_ok=True)
        anew = agent.take().snapshot
        assert anew == taken[-1]
    wanted = chance.choice(taken)
    assert snapshots.restore(agent.worktree, wanted, agent.prepared).snapshot.full_tree == wanted.full_tree


def test_a_look_without_changes_is_one_command(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.write("ignored/data", "data\n")
    agent.settle()
    agent.take()
    commands: list[object] = []
    run = type(agent.worktree.clone.repository.git).run

    def counting(*arguments: object, **options: object) -> object:
        commands.append(arguments[1])
        return run(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(agent.worktree.clone.repository.git), "run", counting)
    assert not agent.take().changed
    assert len(commands) == 1
