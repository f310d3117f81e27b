"""A platform that can be made to die at every point, and what was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crewlog.cli.launcher import supervisor

from tests.chaos import options
from tests.chaos.options import Options
from tests.chaos.points import VARIABLE, Failpoints
from tests.chaos.sweep import Sweep
from tests.chaos.trial import chaos_platform


@pytest.fixture(scope="session")
def asked() -> Options:
    return options.from_environment()


@pytest.fixture
def failpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failpoints:
    directory = tmp_path / "failpoints"
    monkeypatch.setenv(VARIABLE, str(directory))
    return Failpoints(directory)


@pytest.fixture
async def sweep(failpoints: Failpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweep]:
    """What dies every few seconds is not kept waiting."""
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS_MAX", supervisor.PAUSE_SECONDS_MIN)
    async with chaos_platform(tmp_path / "world") as found:
        yield Sweep(found, failpoints, tmp_path)
