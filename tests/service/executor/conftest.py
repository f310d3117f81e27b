"""An executor's hosts on a real repository, with the real git service, the real sandbox and a scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.executor.desks import Desks, opened
from tests.service.git.places import UserRepository, run_git


@pytest.fixture
def user(tmp_path: Path) -> UserRepository:
    top = tmp_path / "project"
    top.mkdir()
    run_git(top, "init", "-q", "-b", "main")
    repository = UserRepository(top)
    repository.commit(**{"hay.txt": "hay\n", ".gitignore": "*.log\n"})
    return repository


@pytest.fixture
async def desks(user: UserRepository, tmp_path: Path) -> AsyncIterator[Desks]:
    async with opened(user, tmp_path) as desks:
        yield desks
