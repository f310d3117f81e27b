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

from tests.e2e.test_crew import entries_of, finished_in_spite
from tests.e2e.world import WAIT_SECONDS, World, platform_on, types_of

LOOK_AGAIN_SECONDS = 0.02

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture
async def isolated(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository, isolation="process") as world:
        yield world


def children_of(pid: int) -> set[int]:
    """All processes below this one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= {int(child), *children_of(int(child))}
    return found


def agents_of(world: World) -> set[int]:
    """The processes that the fork server of the executor has made, each the first of its group."""
    executor = world.platform.pid_of("executor")
    return {pid for pid in children_of(executor) if os.getpgid(pid) == pid and pid != executor}


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


async def test_an_agent_whose_process_is_killed_goes_on_in_another_one(isolated: World) -> None:
    await isolated.start("fix")
    await isolated.watch("fix", lambda name: name == "tool_call_started")
    executor = isolated.platform.pid_of("executor")
    os.killpg(await an_agent_process(isolated), signal.SIGKILL)
    run = await finished_in_spite(isolated, "fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert isolated.platform.pid_of("executor") == executor
    assert isolated.platform.restarts_of("executor") == 0
    names = [name async for entry in entries_of(isolated, "fix") for name in types_of(entry)]
    assert names.count("agent_taken_over") == 1


async def test_agents_end_with_their_executor_and_go_on_under_the_next_one(isolated: World) -> None:
    await isolated.start("fix")
    await isolated.watch("fix", lambda name: name == "model_call_succeeded")
    agent = await an_agent_process(isolated)
    isolated.kill("executor")
    async with asyncio.timeout(WAIT_SECONDS):
        while Path(f"/proc/{agent}").exists():
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
    run = await finished_in_spite(isolated, "fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
