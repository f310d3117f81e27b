"""What a scheduler finds at its start and later: on logs that count what is read of them, and that hide things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.decider import Decider
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.owner import Meta, Owner
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.runtime import auth
from crewlog.runtime.clock import now_micros
from crewlog.scheduler import tail
from crewlog.scheduler.claims import CLAIM_SECONDS
from crewlog.v1.agent_pb2 import FinishAgent, HostAgent
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import CancelRun, NoopNode, RetryRun, RunStatus, StartRun, TaskResult
from crewlog.v1.scheduler_pb2 import ExecutorReport, RunningTask, SchedulerOrder
from google.protobuf.message import Message

from bench.growth.histories import History
from tests.service.test_scheduling import WAIT_SECONDS, World, chain, client, free_address

CHECKPOINT = Path("scheduler", "checkpoint.sqlite")


class CountingLog(MemoryLog):
    """Counts the entries that somebody was given, and the reads that were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0
        self.at_once_max = 0
        self._at_once = 0

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        self._at_once += 1
        self.at_once_max = max(self.at_once_max, self._at_once)
        try:
            entries = await super().read(aggregate, after_revision)
        finally:
            self._at_once -= 1
        self.given += len(entries)
        return entries

    async def last(self, aggregate: AggregateId) -> Stored | None:
        self.given += 1
        return await super().last(aggregate)

    async def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        async for batch in super().last_of_each(kind):
            self.given += len(batch)
            yield batch

    async def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        async for batch in super().follow(after_revision, kinds):
            self.given += len(batch)
            yield batch


class ForgetfulLog(MemoryLog):
    """Whoever follows it hears nothing of agents."""

    async def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        async for batch in super().follow(after_revision, [kind for kind in kinds if kind != "agent"]):
            yield batch


def world_on(log: MemoryLog, directory: Path) -> World:
    return World(directory, log, free_address(), auth.new_keypair(), auth.new_keypair())


async def history(log: MemoryLog, run_id: str) -> History:
    entries: list[Stored] = []
    async for batch in log.follow(0):
        entries += batch
        if entries[-1].revision == await log.head():
            return History.of(run_id, entries)
    raise AssertionError("the log ended")


async def append_copies(log: MemoryLog, history: History, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        last: dict[str, int] = {}
        for line in history.copy(run_id):
            aggregate = AggregateId.of_subject(line.subject)
            last[line.subject] = await log.append(aggregate, line.payload, last.get(line.subject, 0))


async def two_histories(directory: Path) -> tuple[History, History]:
    """Of a run that is over, and of one that nobody has begun to work on."""
    world = world_on(MemoryLog(), directory)
    async with world.scheduler(), client(world) as scheduler:
        async with world.executor():
            await scheduler.Start(StartRun(run_id="over-00000", workflow=chain(3, steps=10)))
            await world.until("over-00000", run_state.is_over)
        await scheduler.Start(StartRun(run_id="open-00000", workflow=chain(2)))
    return await history(world.log, "over-00000"), await history(world.log, "open-00000")


async def given_at_start(log: CountingLog, world: World, open_runs: Sequence[str]) -> int:
    """What a scheduler is given until it serves."""
    log.given = 0
    async with world.scheduler(), client(world):
        given = log.given
        async with world.executor(slots=100):
            for run_id in open_runs:
                await world.until(run_id, run_state.is_over)
    return given


async def test_what_is_read_at_the_start_grows_with_the_runs_and_not_with_the_log(tmp_path: Path) -> None:
    over, still_open = await two_histories(tmp_path / "first")
    given = {}
    for copies in (20, 500):
        log = CountingLog()
        ids = [f"open-{number:05}" for number in range(1, 6)]
        await append_copies(log, over, [f"over-{number:05}" for number in range(copies)])
        await append_copies(log, still_open, ids)
        given[copies] = await given_at_start(log, world_on(log, tmp_path / str(copies)), ids)
    assert await log.head() > 500 * 25
    assert given[500] - given[20] == 500 - 20


async def test_from_a_checkpoint_nothing_is_read_but_what_is_open(tmp_path: Path) -> None:
    over, still_open = await two_histories(tmp_path / "first")
    log = CountingLog()
    world = world_on(log, tmp_path / "data")
    await append_copies(log, over, [f"over-{number:05}" for number in range(200)])
    await append_copies(log, still_open, ["open-00001"])
    async with world.scheduler(), client(world):
        pass
    assert await given_at_start(log, world, ["open-00001"]) <= len(still_open.entries)


@pytest.mark.slow
async def test_fault_50_thousands_of_open_runs_are_opened_a_few_at_a_time(tmp_path: Path) -> None:
    _, still_open = await two_histories(tmp_path / "first")
    log = CountingLog()
    world = world_on(log, tmp_path / "data")
    ids = [f"open-{number:05}" for number in range(1, 5_001)]
    await append_copies(log, still_open, ids)
    async with world.scheduler(), client(world):
        assert 1 < log.at_once_max <= tail.OPENING_AT_ONCE_MAX
        head = await log.head()
        async with world.executor(slots=64), asyncio.timeout(WAIT_SECONDS):
            await anext(log.follow(head, ("agent",)))


async def test_what_the_tail_has_missed_is_found_by_looking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LOOK_AGAIN_SECONDS", 0.05)
    world = world_on(ForgetfulLog(), tmp_path)
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
        async with one_who_says_that_it_works(scheduler) as order:
            async with asyncio.timeout(WAIT_SECONDS):
                grant = (await order).grants[0]
            async with asyncio.timeout(CLAIM_SECONDS / 2):
                await append(world.log, agent, grant.agent_id, *ended(grant.agent_id))
                state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED


def ended(agent_id: str) -> list[Message]:
    host = HostAgent(agent_id=agent_id, run_id="r", task_id="n0-1", generation=1, noop=NoopNode())
    return [host, FinishAgent(agent_id=agent_id, generation=1, succeeded=TaskResult())]


async def append(log: MemoryLog, rules: Decider[Any], id: str, *commands: Message) -> None:
    owner = Owner(log, rules, tenant="local", clock=lambda: 1, code_version="test")
    for number, command in enumerate(commands):
        await owner.handle(id, command, Meta(f"test-{number}", "test", correlation_id="r"))


@asynccontextmanager
async def one_who_says_that_it_works(scheduler: Any) -> AsyncIterator[asyncio.Future[SchedulerOrder]]:
    """An executor that reports its first grant as running for ever; gives the order that it has had."""
    first: asyncio.Future[SchedulerOrder] = asyncio.get_running_loop().create_future()

    async def report() -> AsyncIterator[ExecutorReport]:
        yield ExecutorReport(executor_id="executor-1_x", slots=1)
        grant = (await asyncio.shield(first)).grants[0]
        task = RunningTask(run_id=grant.run_id, task_id=grant.task_id, generation=grant.generation)
        yield ExecutorReport(executor_id="executor-1_x", slots=1, last_grant=grant.revision, running=[task])
        await asyncio.Event().wait()

    async def listen() -> None:
        async for order in call:
            if order.grants and not first.done():
                first.set_result(order)

    call = scheduler.Synchronize(report())
    listening = asyncio.create_task(listen())
    try:
        yield first
    finally:
        listening.cancel()
        call.cancel()


async def test_a_run_that_another_process_opens_again_is_worked_on_again(tmp_path: Path) -> None:
    log = MemoryLog()
    world = world_on(log, tmp_path)
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
        await scheduler.Cancel(CancelRun(run_id="r"))
        await world.until("r", run_state.is_over)
        await append(log, run, "r", RetryRun(run_id="r", at_unix_micros=now_micros()))
        async with world.executor():
            await world.until("r", lambda state: state.status == RunStatus.RUN_STATUS_SUCCEEDED)


@pytest.mark.parametrize("ordinal", [2, 7])
async def test_a_run_that_cannot_be_read_holds_up_nobody(tmp_path: Path, ordinal: int) -> None:
    """An event of a later release, and an entry that does not follow the one before it."""
    log = MemoryLog()
    world = world_on(log, tmp_path)
    await append(log, run, "r", StartRun(run_id="r", workflow=chain(1)))
    (started,) = await log.read(AggregateId("local", "run", "r"))
    unknown = Entry(ordinal=ordinal, previous_hash=codec.hash_of(started.payload))
    unknown.decisions.add(command_id="x").events.add()
    await log.append(AggregateId("local", "run", "r"), unknown.SerializeToString(), started.revision)
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="s", workflow=chain(1)))
        await world.until("s", run_state.is_over)
    assert len(await log.read(AggregateId("local", "run", "r"))) == 2
