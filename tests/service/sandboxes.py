"""The levels of the sandbox that there are here, and how to see what a command has left behind."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from crewlog.domain.errors import Unavailable
from crewlog.tools import bubblewrap
from crewlog.tools.sandbox import Level, Sandbox

if sys.platform == "linux":
    from crewlog.tools import kernel

MIB = 1024 * 1024
PYTHON = f"{sys.base_prefix}/bin/python3"
CANARY = "sk-canary-5f2e"
PATIENCE_SECONDS = 30.0


def _levels() -> Iterator[ParameterSet]:
    no_bubblewrap = pytest.mark.skipif(bubblewrap.find() is None, reason="bubblewrap is not installed here")
    no_landlock = pytest.mark.skipif(kernel.landlock_abi() < 1, reason="the kernel here has no Landlock")
    yield pytest.param((Level.BUBBLEWRAP, True), id="bubblewrap", marks=no_bubblewrap)
    yield pytest.param((Level.LANDLOCK, True), id="landlock", marks=no_landlock)
    yield pytest.param((Level.LANDLOCK, False), id="landlock-alone", marks=no_landlock)
    yield pytest.param((Level.NONE, False), id="none")


LEVELS = list(_levels())
every_level = pytest.mark.parametrize("level", LEVELS)
confined = pytest.mark.parametrize("level", LEVELS[:3])
own_processes = pytest.mark.parametrize("level", LEVELS[:2])


async def skip_where_the_host_refuses(sandbox: Sandbox, root: Path) -> None:
    try:
        result = await sandbox.run(["true"], root=root)
    except Unavailable as refusal:
        pytest.skip(refusal.message)
    if result.exit_code:
        pytest.skip(f"{sandbox.level} does not work here: {result.output}")


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def running(mark: str) -> list[str]:
    """The processes of this machine whose command line holds `mark`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (directory / "cmdline").read_bytes():
                found.append(directory.name)
        except OSError:
            continue
    return found
