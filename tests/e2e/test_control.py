"""Control over gRPC on a real platform: pause, resume, cancel and retry, also when everything is killed in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from crewlog.cli.verifying import verify
from crewlog.v1.recovery_pb2 import RecoverRun
from crewlog.v1.run_pb2 import (
    CancelTask,
    GetRun,
    MessageMode,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunStatus,
    RunView,
    SendMessage,
    TaskStatus,
)
from crewlog.v1.run_service_pb2 import WatchRun

from tests.e2e.held import AFTER_WRITER, held_script, let_go_until, start_held
from tests.e2e.world import LOOK_AGAIN_SECONDS, WAIT_SECONDS, World, git, in_spite, platform_on, types_of

SERVICES = ("gateway", "scheduler", "executor", "git")
ENDS = {"run_succeeded", "run_failed", "run_cancelled"}


async def types_after(world: World, run_id: str, revision: int) -> AsyncIterator[str]:
    async for message in world.gateway.runs.Watch(WatchRun(run_id=run_id, from_revision=revision)):
        if message.HasField("entry"):
            for name in types_of(message.entry):
                yield name


async def ended(world: World, run_id: str, revision: int = 0) -> RunView:
    """The run at its first end after the revision."""

    async def follow() -> RunView:
        async for name in types_after(world, run_id, revision):
            if name in ENDS:
                break
        return await world.gateway.runs.Get(GetRun(run_id=run_id))

    return await in_spite(follow)


async def when(world: World, run_id: str, is_so: Callable[[RunView], bool]) -> RunView:
    """The first view of the run that is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            view = await in_spite(lambda: world.gateway.runs.Get(GetRun(run_id=run_id)))
            if is_so(view):
                return view
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def nth(event: str, number: int) -> Callable[[str], bool]:
    left = number

    def is_nth(name: str) -> bool:
        nonlocal left
        left -= name == event
        return left == 0

    return is_nth


def nobody_works(view: RunView) -> bool:
    return all(task.status != TaskStatus.TASK_STATUS_CLAIMED for task in view.tasks)


async def test_a_paused_run_goes_on_where_it_was_after_everything_was_killed(world: World) -> None:
    runs = world.gateway.runs
    await world.start("fix")
    await world.watch("fix", nth("tool_call_started", 1))
    await runs.Pause(PauseRun(run_id="fix", reason="lunch"))
    view = await when(world, "fix", nobody_works)
    assert (view.status, view.paused.reason) == (RunStatus.RUN_STATUS_PAUSED, "lunch")
    asked = len(world.ledger())
    world.kill(*SERVICES, "nats-server")
    found = await in_spite(lambda: runs.Recover(RecoverRun(run_id="fix", dry_run=True)))
    assert all(agent.is_parked and not agent.receipt.model_calls_lost for agent in found.agents)
    assert len(world.ledger()) == asked
    await in_spite(lambda: runs.Resume(ResumeRun(run_id="fix")))
    run = await ended(world, "fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    await verify(world.gateway, "fix")
    recorded = [name async for name in types_after(world, "fix", 0)]
    assert recorded.count("model_call_succeeded") == len(world.ledger())


@pytest.fixture
async def holding(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository, held_script(tmp_path)) as found:
        yield found


async def test_a_run_is_taken_up_again_and_its_branch_is_moved(holding: World, repository: Path) -> None:
    world, runs = holding, holding.gateway.runs
    await start_held(world, "fix", AFTER_WRITER)
    await world.watch("fix", nth("task_claimed", 2))
    await runs.CancelTask(CancelTask(run_id="fix", task_id="engineer-1", reason="wrong turn"))
    first = await ended(world, "fix")
    assert (first.status, first.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "task_cancelled")
    assert git(repository, "rev-parse", "crewlog/fix").strip() == first.change.commit
    world.kill(*SERVICES)
    retry = RetryRun(run_id="fix", request_id="again")
    revision = (await in_spite(lambda: runs.Retry(retry))).revision
    assert (await runs.Retry(retry)).revision >= revision
    run = await let_go_until(world, ended(world, "fix", revision))
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert [task.task_id for task in run.tasks] == ["writer-1", "engineer-1", "engineer-2"]
    assert git(repository, "rev-parse", "crewlog/fix").strip() == run.change.commit != first.change.commit
    assert {"went.txt", "written.txt"} <= set(run.change.paths)
    await verify(world.gateway, "fix")


async def test_a_message_is_read_once_whatever_is_killed(world: World) -> None:
    runs = world.gateway.runs
    await world.start("fix")
    await world.watch("fix", nth("tool_call_started", 1))
    steer = MessageMode.MESSAGE_MODE_STEER
    message = SendMessage(run_id="fix", task_id="tester-1", message_id="hint", mode=steer, text="Look at the cut.")
    await runs.Send(message)
    world.kill(*SERVICES)
    await in_spite(lambda: runs.Send(message))
    run = await ended(world, "fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert {task.task_id: task.messages for task in run.tasks if task.messages} == {"tester-1": 1}
    recorded = [name async for name in types_after(world, "fix", 0)]
    assert (recorded.count("message_sent"), recorded.count("message_received")) == (1, 1)
    assert "message_undelivered" not in recorded
