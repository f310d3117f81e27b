"""A repository with work in progress, and a platform for it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.world import DEMO, World, git, platform_on


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
async def world(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository) as found:
        yield found
