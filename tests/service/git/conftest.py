"""Real repositories to work on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.git.places import Bench, UserRepository, run_git
from tests.service.git.serving import Service, serving


@pytest.fixture
def user(tmp_path: Path) -> UserRepository:
    top = tmp_path / "my project"
    top.mkdir()
    run_git(top, "init", "-q", "-b", "main")
    repository = UserRepository(top)
    repository.write("src/slug.py", "def slugify(text): ...\n")
    repository.commit(**{"README.md": "Slugs\n", ".gitignore": "ignored/\n*.log\n"})
    return repository


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench.at(tmp_path / "data" / "git")


@pytest.fixture
async def service(user: UserRepository, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(user, tmp_path / "git") as service:
        yield service
