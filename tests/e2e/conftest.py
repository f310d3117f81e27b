"""A repository with work in progress, and a platform for it. What every test leaves behind is checked."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from crewlog.cli.launcher.directory import DataDirectory

from tests.e2e import afterwards
from tests.e2e.world import DEMO, World, git, platform_on


@pytest.fixture(autouse=True)
def looks_back(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every data directory of the test is checked when everything in it has stopped."""
    yield
    check_all(tmp_path, tmp_path_factory)


@pytest.fixture(autouse=True, scope="module")
def looks_back_at_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Those that the tests of a module share."""
    before = set(tmp_path_factory.getbasetemp().iterdir())
    yield
    for folder in sorted(set(tmp_path_factory.getbasetemp().iterdir()) - before):
        if not folder.name.startswith("test_"):
            check_all(folder, tmp_path_factory)


def check_all(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for directory in afterwards.data_directories(folder):
        if not DataDirectory(directory).holder():
            asyncio.run(afterwards.check(directory, tmp_path_factory.mktemp("afterwards")))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The demo project, with work in progress of its owner: something staged, something changed, a stash, a hook."""
    path = tmp_path / "repository"
    subprocess.run(("cp", "-r", str(DEMO / "project"), str(path)), check=True)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "the project")
    (path / "README.md").write_text("stashed\n")
    git(path, "stash")
    (path / "staged.txt").write_text("staged\n")
    git(path, "add", "staged.txt")
    (path / "README.md").write_text("changed\n")
    for hook in ("post-checkout", "reference-transaction", "post-update", "pre-commit"):
        script = path / ".git" / "hooks" / hook
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\n")
        script.chmod(0o755)
    return path


@pytest.fixture
async def world(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"sk-ant-{afterwards.CANARY.decode()}0a1b2c")
    async with platform_on(tmp_path, repository) as found:
        yield found
