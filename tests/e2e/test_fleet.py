"""Several schedulers and executors: whichever is killed or frozen, the others go on, and nothing is done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from crewlog.cli.gateway import of_channel
from crewlog.cli.launcher.platform import Platform
from crewlog.cli.verifying import verify
from crewlog.runtime.channel import dial
from crewlog.scheduler.lease import LEASE_SECONDS
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import Node, NoopNode, RunStatus, RunView, TaskClaimed, Workflow

from tests.e2e.held import held_script, let_go_until, start_held
from tests.e2e.test_control import nth
from tests.e2e.test_crew import entries_of
from tests.e2e.world import World, demo_script, finished_in_spite, in_spite, types_of

SCHEDULERS = ("scheduler", "scheduler-2")
EXECUTORS = ("executor", "executor-2")
LOOK_AGAIN_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
NOTHING = Node(node_id="a", noop=NoopNode(steps=1))

pytestmark = pytest.mark.slow


@asynccontextmanager
async def fleet_on(
    tmp_path: Path, repository: Path, script: Path, *, schedulers: int = 1, executors: int = 1
) -> AsyncIterator[World]:
    platform = Platform(tmp_path / "data", scripted_model=script, schedulers=schedulers, executors=executors)
    async with platform, dial(platform.gateway_address, platform.token) as channel:
        gateway = of_channel(channel, platform.gateway_address)
        project = await gateway.projects.Register(RegisterProject(path=str(repository)))
        world = World(platform, gateway, project.project_id, tmp_path)
        yield world
        world.leave_ledger()


@pytest.fixture
async def two_schedulers(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with fleet_on(tmp_path, repository, demo_script(tmp_path), schedulers=2) as world:
        yield world


@pytest.fixture
async def two_executors(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    async with fleet_on(tmp_path, repository, demo_script(tmp_path), executors=2) as world:
        yield world


@pytest.fixture
async def two_holding(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    """Two executors, and an agent that is at work on one of them until it is let go."""
    async with fleet_on(tmp_path, repository, held_script(tmp_path), executors=2) as world:
        await start_held(world, "held")
        yield world


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def listens(world: World, name: str) -> bool:
    host, _, port = world.platform.plan.address(name).rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def leaders(world: World) -> list[str]:
    return [name for name in SCHEDULERS if listens(world, name)]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def started_until(world: World, run_id: str, event: str, times: int) -> list[RecordedEntry]:
    """Starts the demo and returns when the event has come so often."""
    await world.start(run_id)
    seen: Counter[str] = Counter()

    def is_it(name: str) -> bool:
        seen[name] += 1
        return name == event and seen[name] >= times

    return await world.watch(run_id, is_it)


async def start_many(world: World, count: int) -> list[str]:
    """Runs of tasks that do nothing, so that the scheduler is never without something on its way."""
    nodes = [
        Node(node_id=f"n{number}", depends_on=[f"n{number - 1}"] if number else [], noop=NoopNode(steps=10))
        for number in range(40)
    ]
    workflow, ids = Workflow(name="nothing", nodes=nodes), [f"many-{number}" for number in range(count)]
    await asyncio.gather(*(world.start(id, workflow=workflow, workflow_name=None) for id in ids))
    return ids


async def end_well(world: World, run_ids: list[str]) -> None:
    for run_id in run_ids:
        run = await finished_in_spite(world, run_id)
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        await verify(world.gateway, run_id)


async def end_right(world: World, run_id: str) -> None:
    """The demo has done what it always does."""
    run = await finished_in_spite(world, run_id)
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert list(run.change.paths) == ["slugger/slug.py", "tests/test_slug.py"]
    await check_calls(world, run_id)


async def check_calls(world: World, run_id: str) -> Counter[str]:
    """No recorded answer was asked for again. Returns how often everything has happened."""
    await verify(world.gateway, run_id)
    happened = Counter([name async for entry in entries_of(world, run_id) for name in types_of(entry)])
    answers, doubts = happened["model_call_succeeded"], happened["effect_put_in_doubt"]
    assert answers <= len(world.ledger()) <= answers + doubts
    return happened


async def end_held(world: World) -> RunView:
    run = await let_go_until(world, finished_in_spite(world, "held"))
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    return run


async def now(world: World, run_id: str) -> int:
    """The revision of the last entry of the run."""
    return [entry.revision async for entry in entries_of(world, run_id)][-1]


def claims(entries: list[RecordedEntry]) -> list[TaskClaimed]:
    events = (event for recorded in entries for decision in recorded.entry.decisions for event in decision.events)
    return [event.task_claimed for event in events if event.WhichOneof("fact") == "task_claimed"]


def host_of(entries: list[RecordedEntry]) -> str:
    """The process that was given the last claim: `executor` is named `executor-1`."""
    return claims(entries)[-1].executor_id.partition("_")[0].replace("executor-1", "executor")


def other_than(name: str) -> str:
    return next(each for each in (*EXECUTORS, *SCHEDULERS) if each != name and each.startswith(name.partition("-")[0]))


async def test_one_of_two_schedulers_leads(two_schedulers: World) -> None:
    assert len(leaders(two_schedulers)) == 1


async def test_the_standby_leads_at_once_when_the_leader_is_stopped(two_schedulers: World) -> None:
    world = two_schedulers
    leader = leaders(world)[0]
    entries = await started_until(world, "fix", "task_claimed", 2)
    pid = world.pid_of(leader)
    os.kill(pid, signal.SIGTERM)
    await until(lambda: not listens(world, leader))
    began = time.monotonic()
    await until(lambda: listens(world, other_than(leader)))
    assert time.monotonic() - began < LEASE_SECONDS / 2, "it has waited for the lease to end by itself"
    await end_right(world, "fix")
    assert len(entries) < len([entry async for entry in entries_of(world, "fix")])


async def test_a_killed_leader_is_replaced_by_whoever_is_there_first(two_schedulers: World) -> None:
    world = two_schedulers
    many = await start_many(world, 20)
    await started_until(world, "fix", "tool_call_succeeded", 2)
    for _ in range(3):
        leader = leaders(world)[0]
        pid = world.pid_of(leader)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: world.platform.pid_of(leader) not in (0, pid) and bool(leaders(world)))  # noqa: B023
    await end_right(world, "fix")
    await end_well(world, many)


async def test_the_standby_takes_over_from_a_leader_that_does_not_come_back(two_schedulers: World) -> None:
    """Killed, and what is started in its place gets no further."""
    world = two_schedulers
    many = await start_many(world, 20)
    await started_until(world, "fix", "tool_call_succeeded", 2)
    leader = leaders(world)[0]
    pid = world.pid_of(leader)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: world.platform.pid_of(leader) not in (0, pid))
    with frozen(world.pid_of(leader)):
        await until(lambda: listens(world, other_than(leader)))
        await end_right(world, "fix")
    await end_well(world, many)
    await until(lambda: leaders(world) == [other_than(leader)])


async def test_a_frozen_leader_does_no_harm_when_it_goes_on(two_schedulers: World) -> None:
    world = two_schedulers
    many = await start_many(world, 20)
    await started_until(world, "fix", "tool_call_succeeded", 2)
    leader = leaders(world)[0]
    with frozen(world.pid_of(leader)):
        frozen_at = await now(world, "fix")
        await until(lambda: listens(world, other_than(leader)))
        await world.watch("fix", lambda name: name == "task_claimed", frozen_at)
    nothing = Workflow(name="nothing", nodes=[NOTHING])
    # The gateway may still be connected to who does not lead any more, and who hangs up.
    await in_spite(lambda: world.start("after", workflow=nothing, workflow_name=None))
    await until(lambda: leaders(world) == [other_than(leader)])
    await end_right(world, "fix")
    await end_well(world, [*many, "after"])
    assert leaders(world) == [other_than(leader)]
    assert not world.platform.restarts_of(leader), "it stands by again, and was not started anew"


async def test_the_other_executor_goes_on_with_the_tasks_of_one_that_was_killed(two_executors: World) -> None:
    world = two_executors
    many = await start_many(world, 10)
    entries = await started_until(world, "fix", "tool_call_started", 3)
    world.kill(host_of(entries))
    await end_right(world, "fix")
    await end_well(world, many)


async def test_fault_17_a_frozen_executor_does_no_harm_when_it_goes_on(two_holding: World) -> None:
    """It keeps its connections all the time. It goes on while the other one works on its task."""
    world = two_holding
    host = host_of(await world.watch("held", nth("tool_call_started", 1)))
    with frozen(world.pid_of(host)):
        await world.watch("held", nth("task_claim_lapsed", 1))
        found = await world.watch("held", nth("agent_taken_over", 1))
    await world.watch("held", nth("tool_call_succeeded", 2), found[-1].revision)
    run = await end_held(world)
    await check_calls(world, "held")
    recorded = [entry async for entry in entries_of(world, "held")]
    assert host_of(recorded) == other_than(host)
    assert max(claim.generation for claim in claims(recorded)) == 2
    assert run.spent_usd_micros == sum(task.result.cost_usd_micros for task in run.tasks)
    await world.start("after", workflow=Workflow(name="nothing", nodes=[NOTHING]), workflow_name=None)
    await end_well(world, ["after"])


async def test_fault_14_a_drained_executor_hands_over_in_time(two_holding: World) -> None:
    """Before its claim lapses."""
    world = two_holding
    host = host_of(await world.watch("held", nth("tool_call_started", 1)))
    pid = world.pid_of(host)
    os.kill(pid, signal.SIGTERM)
    found = await world.watch("held", nth("agent_taken_over", 1))
    assert host_of(found) == other_than(host)
    await until(lambda: world.platform.pid_of(host) not in (0, pid))
    await end_held(world)
    happened = await check_calls(world, "held")
    assert not happened["effect_put_in_doubt"]
    assert not happened["task_claim_lapsed"]
    await world.start("after", workflow=Workflow(name="nothing", nodes=[NOTHING]), workflow_name=None)
    await end_well(world, ["after"])
