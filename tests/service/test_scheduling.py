"""Scheduler and executor together, over real gRPC, on a log in memory: noop workflows need nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.decider import fold
from crewlog.domain.errors import WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryBlobs, MemoryLive, MemoryLog
from crewlog.eventlog.port import AggregateId
from crewlog.executor import app as executor_app
from crewlog.executor.config import Config as ExecutorConfig
from crewlog.models import provider
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.scheduler import app as scheduler_app
from crewlog.scheduler import tail
from crewlog.scheduler.config import Config as SchedulerConfig
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.node_pb2 import Files
from crewlog.v1.run_pb2 import AgentNode, CancelRun, Node, NoopNode, Role, RunLimits, RunStatus, StartRun, Workflow
from crewlog.v1.scheduler_pb2 import ExecutorReport, Grant, RunningTask, SchedulerOrder
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from crewlog.v1.waiting_pb2 import ExplainWaiting
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

WAIT_SECONDS = 60.0
NOWHERE = "127.0.0.1:9"


async def nothing_to_load() -> None:
    pass


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class World:
    """The parts that outlive a process: the log, the keys, the addresses."""

    directory: Path
    log: MemoryLog
    scheduler_address: str
    keys: auth.Keypair
    claims: auth.Keypair

    @property
    def token(self) -> str:
        return auth.mint_service_token(self.keys.signing_key, "gateway")

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[None]:
        config = SchedulerConfig(
            data_directory=self.directory,
            nats_url="",
            nats_user="",
            nats_password="",
            address=self.scheduler_address,
            git_address=NOWHERE,
            service_token=self.token,
            service_verify_key=self.keys.verify_key,
            claim_signing_key=self.claims.signing_key,
        )
        async with dial(NOWHERE, self.token) as git:
            stop = asyncio.Event()
            working = scheduler_app.work(config, self.log, WorkspaceServiceStub(git), stop)
            async with running(working, stop):
                yield

    @asynccontextmanager
    async def executor(self, name: str = "executor-1", slots: int = 8) -> AsyncIterator[None]:
        """Without a model, so that nothing is imported beside: where two threads parse Python at once, as the printing
        of an error does, this Python may fail."""
        config = ExecutorConfig(
            data_directory=self.directory,
            nats_url="",
            nats_user="",
            nats_password="",
            address=free_address(),
            scheduler_address=self.scheduler_address,
            git_address=NOWHERE,
            gateway_address=NOWHERE,
            service_token=self.token,
            service_verify_key=self.keys.verify_key,
            name=name,
            slots=slots,
            sandbox="none",
            search_path=os.defpath,
        )
        stop = asyncio.Event()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(provider, "warm_up", nothing_to_load)
            async with running(executor_app.work(config, self.log, MemoryLive(), MemoryBlobs(), stop), stop):
                yield

    async def state(self, run_id: str) -> run_state.Run:
        stored = await self.log.read(AggregateId("local", "run", run_id))
        return fold(run, (fact for each in stored for fact in codec.facts(Entry.FromString(each.payload))))

    async def agent_entries(self, agent_id: str) -> int:
        return len(await self.log.read(AggregateId("local", agent.KIND, agent_id)))

    async def until(self, run_id: str, condition: Callable[[run_state.Run], bool]) -> run_state.Run:
        async with asyncio.timeout(WAIT_SECONDS):
            async for _ in self.log.follow(0, ("run",)):
                state = await self.state(run_id)
                if condition(state):
                    return state
        raise AssertionError("the log ended")


@asynccontextmanager
async def running(work: Awaitable[None], stop: asyncio.Event) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_SECONDS)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemoryLog(), free_address(), auth.new_keypair(), auth.new_keypair())


@asynccontextmanager
async def client(world: World) -> AsyncIterator[SchedulerServiceAsyncStub]:
    async with dial(world.scheduler_address, world.token) as channel:
        await asyncio.wait_for(channel.channel_ready(), WAIT_SECONDS)
        yield SchedulerServiceStub(channel)


def chain(length: int, steps: int = 0) -> Workflow:
    nodes = [
        Node(node_id=f"n{number}", depends_on=[f"n{number - 1}"] if number else [], noop=NoopNode(steps=steps))
        for number in range(length)
    ]
    return Workflow(name="chain", nodes=nodes)


def fan(width: int) -> Workflow:
    leaves = [Node(node_id=f"n{number}", depends_on=["root"], noop=NoopNode()) for number in range(width)]
    join = Node(node_id="join", depends_on=[leaf.node_id for leaf in leaves], noop=NoopNode())
    return Workflow(name="fan", nodes=[Node(node_id="root", noop=NoopNode()), *leaves, join])


async def test_a_chain_runs_to_its_end_with_two_entries_a_task(world: World) -> None:
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(10)))
        state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED
    assert len(state.tasks) == 10
    # The start, the first claim, then one entry for each end with the claim that follows it.
    assert len(await world.log.read(AggregateId("local", "run", "r"))) == 12
    assert await world.agent_entries("r_n5-1") == 1


async def test_a_fan_of_more_tasks_than_slots_runs_each_once(world: World) -> None:
    async with world.scheduler(), world.executor(slots=4), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=fan(50)))
        state = await world.until("r", run_state.is_over)
    assert {task.generation for task in state.tasks.values()} == {1}
    assert len(state.tasks) == 52


async def test_steps_of_a_noop_are_one_entry_each(world: World) -> None:
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1, steps=20)))
        await world.until("r", run_state.is_over)
    assert 20 <= await world.agent_entries("r_n0-1") <= 22


async def test_what_comes_after_a_task_that_cannot_begin_begins_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that only looks after everything from time to time has to find it."""
    monkeypatch.setattr(scheduler_app, "RECONCILE_SECONDS", 3_600.0)
    monkeypatch.setattr(tail, "LOOK_AGAIN_SECONDS", 3_600.0)
    files = Files()
    setattr(files, "from", "parse_json(tasks.one.output).x")
    one, out = Node(node_id="one", noop=NoopNode()), Node(node_id="out", depends_on=["bad"], noop=NoopNode())
    bad = Node(node_id="bad", depends_on=["one"], noop=NoopNode(), files=files, continue_on_failure=True)
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=Workflow(name="w", nodes=[one, bad, out])))
        state = await world.until("r", run_state.is_over)
    assert [state.tasks[each].failure is None for each in ("one-1", "bad-1", "out-1")] == [True, False, True]


async def test_runs_that_wait_for_a_slot_all_get_one(world: World) -> None:
    async with world.scheduler(), world.executor(slots=2), client(world) as scheduler:
        ids = [f"r{number}" for number in range(12)]
        await asyncio.gather(*(scheduler.Start(StartRun(run_id=id, workflow=chain(3))) for id in ids))
        for id in ids:
            assert (await world.until(id, run_state.is_over)).status == RunStatus.RUN_STATUS_SUCCEEDED


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (RunLimits(duration_seconds_max=2), "run_timed_out"),
        (RunLimits(waiting_seconds_max=2), "waiting_timed_out"),
    ],
)
@pytest.mark.parametrize("labels", [["gpu", "big"], []])
async def test_a_run_does_not_wait_for_ever_for_executors_that_are_not_there(
    world: World, limits: RunLimits, reason: str, labels: list[str]
) -> None:
    """There is none at all, or none with the labels; the time of its node only counts when it has begun."""
    node = Node(node_id="n0", executor_labels=labels, timeout_seconds=1, noop=NoopNode())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.scheduler())
        if labels:
            await stack.enter_async_context(world.executor())
        scheduler = await stack.enter_async_context(client(world))
        if labels:
            await scheduler.Start(StartRun(run_id="connects", workflow=chain(1)))
            await world.until("connects", run_state.is_over)
        await scheduler.Start(StartRun(run_id="r", workflow=Workflow(name="w", nodes=[node]), limits=limits))
        [waiting] = (await scheduler.Explain(ExplainWaiting(run_id="r"))).tasks
        state = await world.until("r", run_state.is_over)
    assert waiting.why == ("no executor has the labels big, gpu" if labels else "there is no executor")
    assert state.failure is not None and state.failure.reason == reason
    assert not state.tasks


async def test_a_run_that_was_started_before_the_scheduler_died_goes_on(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(5)))
    async with world.scheduler(), world.executor():
        state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED


async def test_fault_32_a_scheduler_does_not_begin_on_a_log_that_has_become_shorter(world: World) -> None:
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
        await world.until("r", run_state.is_over)  # so the scheduler has read what the agent has written
    older = MemoryLog(world.log.epoch)
    for stored in (await world.log.read(AggregateId("local", "run", "r")))[:1]:
        await older.append(stored.aggregate, stored.payload, 0)
    world.log = older
    with pytest.raises(WrongState, match="was read up to"):
        async with world.scheduler():
            raise AssertionError("it has begun")


async def test_without_a_checkpoint_the_log_is_enough(world: World, tmp_path: Path) -> None:
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(5)))
    (tmp_path / "scheduler" / "checkpoint.sqlite").unlink()
    async with world.scheduler(), world.executor():
        assert run_state.is_over(await world.until("r", run_state.is_over))


async def test_a_scheduler_that_stops_while_it_opens_its_runs_forgets_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(5)))
    reading = asyncio.Event()

    async def read_for_ever(*_: object) -> None:
        reading.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as slow:
        slow.setattr(MemoryLog, "read", read_for_ever)
        async with world.scheduler(), asyncio.timeout(WAIT_SECONDS):
            await reading.wait()
    async with world.scheduler(), world.executor():
        assert run_state.is_over(await world.until("r", run_state.is_over))


async def test_an_executor_that_was_started_again_lets_another_take_over_at_once(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(3)))
        async with silent_executor(scheduler, "executor-1_old"):
            await world.until("r", lambda state: len(state.open) == 1)
        async with world.executor("executor-1"):
            state = await world.until("r", run_state.is_over)
    assert state.tasks["n0-1"].generation == 2
    assert state.tasks["n1-1"].generation == 1


async def test_a_grant_that_was_lost_with_its_stream_is_given_again(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        async with silent_executor(scheduler, "executor-1_boot"):
            await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
            await world.until("r", lambda state: len(state.open) == 1)
        async with silent_executor(scheduler, "executor-1_boot"):
            state = await world.until("r", lambda state: state.tasks["n0-1"].generation == 2)
    assert state.tasks["n0-1"].lapses == 1


async def test_only_the_newest_stream_of_an_executor_is_told_anything(world: World) -> None:
    boot = "executor-1_boot"
    async with world.scheduler(), client(world) as scheduler, silent_executor(scheduler, boot) as older:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
        assert (await anext(granted(older))).generation == 1
        async with silent_executor(scheduler, boot) as newer, asyncio.timeout(WAIT_SECONDS):
            assert (await anext(granted(newer))).generation == 2
            assert not [grant async for grant in granted(older)]


def granted(orders: Orders) -> AsyncIterator[Grant]:
    return (grant async for order in orders for grant in order.grants)


async def test_a_new_stream_is_told_what_its_tasks_may_spend(world: World) -> None:
    spender = Node(node_id="n0", agent=AgentNode(role=Role(name="worker", prompt="work"), prompt="do it"))
    start = StartRun(run_id="r", workflow=Workflow(name="w", nodes=[spender]), budget=Limit(usd_micros=500), model="m")
    async with world.scheduler(), client(world) as scheduler, asyncio.timeout(WAIT_SECONDS):
        async with silent_executor(scheduler, "executor-1_boot"):
            await scheduler.Start(start)
            await world.until("r", lambda state: len(state.open) == 1)
        at_work = RunningTask(run_id="r", task_id="n0-1", generation=1)
        async with silent_executor(scheduler, "executor-1_boot", at_work) as orders:
            told = await anext(changed async for order in orders for changed in order.allotments)
    assert (told.task_id, told.generation, told.allotment.usd_micros, told.run_revision) == ("n0-1", 1, 500, 2)


Orders = AsyncIterator[SchedulerOrder]


@asynccontextmanager
async def silent_executor(
    scheduler: SchedulerServiceAsyncStub, executor_id: str, *at_work: RunningTask
) -> AsyncIterator[Orders]:
    """Takes grants and does nothing: as one that was killed after the claim."""

    async def report() -> AsyncIterator[ExecutorReport]:
        yield ExecutorReport(executor_id=executor_id, slots=8, running=at_work)
        await asyncio.Event().wait()

    call = scheduler.Synchronize(report())
    try:
        yield aiter(call)
    finally:
        call.cancel()


async def test_a_cancelled_run_ends_and_starts_nothing_more(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(3)))
        await scheduler.Cancel(CancelRun(run_id="r", reason="enough"))
        state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_CANCELLED
    assert not state.tasks
