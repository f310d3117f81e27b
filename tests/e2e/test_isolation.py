"""Agents in processes of their own: the same run, and what hurts one of them hurts nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crewlog.v1.run_pb2 import RunStatus

from tests.e2e.held import held_script, let_go_until, start_held
from tests.e2e.test_crew import entries_of
from tests.e2e.world import WAIT_SECONDS, World, finished_in_spite, platform_on, types_of

LOOK_AGAIN_SECONDS = 0.02

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture
async def isolated(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository, isolation="process") as world:
        yield world


@pytest.fixture
async def holding(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    """Its agent is there until it is let go."""
    async with platform_on(tmp_path, repository, held_script(tmp_path), isolation="process") as world:
        yield world


def read(path: Path) -> bytes:
    """Nothing of a process or a thread that has just ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def children_of(pid: int) -> set[int]:
    lists = (read(path) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return {int(child) for found in lists for child in found.split()}


def leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def agents_of(world: World) -> set[int]:
    """The processes that the fork server of the executor has made, each the first of its group."""
    below = children_of(world.platform.pid_of("executor"))
    servers = [pid for pid in below if b"forkserver" in read(Path(f"/proc/{pid}/cmdline"))]
    return {pid for server in servers for pid in children_of(server) if leads_group(pid)}


async def an_agent_process(world: World) -> int:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            for pid in agents_of(world):
                return pid
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def test_a_crew_of_processes_does_the_same(isolated: World) -> None:
    await isolated.start("fix")
    run = await isolated.finished("fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert list(run.change.paths) == ["slugger/slug.py", "tests/test_slug.py"]
    assert {task.generation for task in run.tasks} == {1}


async def test_an_agent_whose_process_is_killed_goes_on_in_another_one(holding: World) -> None:
    await start_held(holding, "held")
    await holding.watch("held", lambda name: name == "tool_call_started")
    executor = holding.pid_of("executor")
    os.killpg(await an_agent_process(holding), signal.SIGKILL)
    await holding.watch("held", lambda name: name == "agent_taken_over")
    run = await let_go_until(holding, finished_in_spite(holding, "held"))
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert holding.platform.pid_of("executor") == executor
    assert holding.platform.restarts_of("executor") == 0
    names = [name async for entry in entries_of(holding, "held") for name in types_of(entry)]
    assert names.count("agent_taken_over") == 1


async def test_agents_end_with_their_executor_and_go_on_under_the_next_one(holding: World) -> None:
    await start_held(holding, "held")
    await holding.watch("held", lambda name: name == "model_call_succeeded")
    agent = await an_agent_process(holding)
    holding.kill("executor")
    async with asyncio.timeout(WAIT_SECONDS):
        while Path(f"/proc/{agent}").exists():
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
    await holding.watch("held", lambda name: name == "agent_taken_over")
    run = await let_go_until(holding, finished_in_spite(holding, "held"))
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
