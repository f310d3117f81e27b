"""Running git: nothing of the surroundings gets in, and nothing runs for ever or answers without end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from crewlog.domain.errors import TooLarge, Unavailable, WrongState
from crewlog.git.repository import Git, GitFailed, Limits, Place, Repository


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(tmp_path / "home", os.environ["PATH"])


@pytest.fixture
def repository(git: Git, tmp_path: Path) -> Repository:
    made = Repository(git, tmp_path / "managed")
    made.run("init", "--quiet", "--bare", "--template=")
    return made


def script(directory: Path, name: str, body: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def is_running(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, check=False).stdout
    return bool(state.strip()) and not state.startswith(b"Z")


def test_this_git_is_new_enough(git: Git) -> None:
    git.check_version()


def test_an_old_git_is_refused_with_what_to_do(tmp_path: Path) -> None:
    script(tmp_path / "bin", "git", "echo git version 2.37.9")
    with pytest.raises(Unavailable, match=r"2\.37\.9.*too old") as refusal:
        Git(tmp_path / "home", str(tmp_path / "bin")).check_version()
    assert "2.38" in refusal.value.what_to_do


def test_no_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not installed"):
        Git(tmp_path / "home", str(tmp_path))


def test_the_environment_of_the_service_does_not_get_in(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.hookspath=/evil'")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[core]\n\thooksPath = /evil\n[alias]\n\tlook = !env\n")
    assert repository.run("config", "core.hooksPath").text == "/dev/null"
    assert "secret" not in repository.run("-c", "alias.look=!env", "look").text


def test_every_setting_is_in_force(repository: Repository) -> None:
    listed = repository.run("config", "--list").text
    for line in (
        "core.fsync=all,-index",
        "protocol.allow=never",
        "gc.auto=0",
        "core.hookspath=/dev/null",
        "safe.directory=*",
    ):
        assert line in listed.splitlines()


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    repository: Repository, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    hang = f"alias.hang=!sleep 600 & echo $! > '{pid_file}'; sleep 600"
    for seconds in (0.5, 5.0, 50.0):  # until it has begun within the time
        with pytest.raises(Unavailable, match="too long"):
            repository.run("-c", hang, "hang", limits=Limits(seconds=seconds))
        if pid_file.exists() and pid_file.read_text().endswith("\n"):
            break
    deadline = time.monotonic() + 30
    while is_running(pid_file.read_text().strip()):
        assert time.monotonic() < deadline


def test_an_answer_without_end_is_ended(repository: Repository) -> None:
    endless = ("-c", "alias.endless=!yes", "endless")
    with pytest.raises(TooLarge):
        repository.run(*endless, limits=Limits(output_bytes=100_000))
    cut = repository.run(*endless, limits=Limits(output_bytes=100_000, truncate=True))
    assert (len(cut.out), cut.truncated) == (100_000, True)


def test_a_large_input_and_a_large_answer_do_not_wait_for_each_other(repository: Repository) -> None:
    content = os.urandom(3_000_000)
    blob = repository.run("hash-object", "-w", "--stdin", stdin=content).text
    assert repository.run("cat-file", "blob", blob).out == content


def test_a_failure_says_what_git_said(repository: Repository) -> None:
    with pytest.raises(GitFailed, match=r"git cat-file: .*0{40}"):
        repository.run("cat-file", "commit", "0" * 40)
    with pytest.raises(WrongState, match="no directory"):
        repository.git.run(["status"], Place(work_tree=Path("/nowhere")))


def test_fault_70_a_lock_that_was_left_behind_is_removed_once_it_is_old(repository: Repository) -> None:
    blob = repository.run("hash-object", "-w", "--stdin", stdin=b"x").text
    lock = repository.git_dir / "refs" / "crewlog" / "x.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(Unavailable, match="File exists"):
        repository.run("update-ref", "refs/crewlog/x", blob)
    os.utime(lock, (1, 1))
    repository.run("update-ref", "refs/crewlog/x", blob)
    assert repository.run("rev-parse", "refs/crewlog/x").text == blob
