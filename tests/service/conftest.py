"""A sandbox of every level that a test names as `level`, and directories for its commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crewlog.tools.sandbox import Level, Sandbox

from tests.service.sandboxes import CANARY, skip_where_the_host_refuses


@pytest.fixture
async def sandbox(level: tuple[Level, bool], tmp_path: Path) -> AsyncIterator[Sandbox]:
    (tmp_path / "scratch").mkdir()
    sandbox = Sandbox(level[0], namespaces=level[1], scratch=tmp_path / "scratch")
    try:
        await skip_where_the_host_refuses(sandbox, tmp_path)
        yield sandbox
    finally:
        await sandbox.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text(CANARY)
    return outside
