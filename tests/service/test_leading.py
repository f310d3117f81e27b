"""One scheduler leads: who may, when it has to stop, and what becomes of what a frozen one had on its way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crewlog.domain.errors import Unavailable
from crewlog.domain.run import state as run_state
from crewlog.eventlog.leases import Lease, Leases
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.memory_leases import MemoryLeases
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.scheduler import app
from crewlog.scheduler.config import Config
from crewlog.scheduler.lease import LEASE_KEY, Candidate, IsLeading, StillWorking, Terms
from crewlog.scheduler.led_log import LedLog
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import RunStatus, StartRun
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

from tests.service.test_scheduling import NOWHERE, World, chain, client, free_address, running

Until = Callable[[Callable[[], bool]], Awaitable[None]]
TERMS = Terms(seconds=2, margin_seconds=0.5, renew_seconds=0.1, look_seconds=0.02)
SHORT = replace(TERMS, seconds=1)
RENEWED = replace(TERMS, seconds=3)
NEVER_OVER = replace(TERMS, seconds=60)
RUN = AggregateId("local", "run", "r")


class Silent:
    """Leases whose server does not answer any more once `is_silent` is set."""

    def __init__(self, inner: Leases) -> None:
        self._inner = inner
        self.is_silent = False

    async def look(self, key: str) -> Lease | None:
        self._check()
        return await self._inner.look(key)

    async def take(self, key: str, holder: str, seconds: int, *, instead_of: Lease | None = None) -> Lease | None:
        self._check()
        return await self._inner.take(key, holder, seconds, instead_of=instead_of)

    async def renew(self, lease: Lease, seconds: int) -> Lease:
        self._check()
        return await self._inner.renew(lease, seconds)

    async def give_up(self, lease: Lease) -> None:
        self._check()
        await self._inner.give_up(lease)

    def _check(self) -> None:
        if self.is_silent:
            raise Unavailable("the log did not answer")


class Process:
    """A candidate that notes when it has led."""

    def __init__(self, leases: Leases, name: str = "", terms: Terms = TERMS) -> None:
        self.tenures: list[tuple[float, float]] = []
        self.is_leading: IsLeading = lambda: False
        self.stop = asyncio.Event()
        self._candidate = Candidate(leases, name, terms)

    async def run(self) -> None:
        await self._candidate.run(self._work, self.stop)

    async def _work(self, is_leading: IsLeading, over: asyncio.Event) -> None:
        began, self.is_leading = time.monotonic(), is_leading
        await over.wait()
        self.tenures.append((began, time.monotonic()))


def overlap(one: Process, two: Process) -> bool:
    tenures = sorted(one.tenures + two.tenures)
    return any(earlier[1] > later[0] for earlier, later in itertools.pairwise(tenures))


async def test_one_leads_and_the_next_one_does_as_soon_as_it_stops(until: Until) -> None:
    leases = MemoryLeases()
    first, second = Process(leases, terms=NEVER_OVER), Process(leases, terms=NEVER_OVER)
    async with running(second.run(), second.stop), running(first.run(), first.stop):
        await until(lambda: first.is_leading() or second.is_leading())
        one, other = (first, second) if first.is_leading() else (second, first)
        assert not other.is_leading()
        stopped_at = time.monotonic()
        one.stop.set()
        await until(lambda: other.is_leading())
        assert time.monotonic() - stopped_at < NEVER_OVER.seconds / 2
    assert not overlap(first, second)


async def test_one_that_cannot_renew_stops_before_another_one_leads(until: Until) -> None:
    leases = MemoryLeases()
    silent = Silent(leases)
    cut_off, other = Process(silent), Process(leases)
    async with running(cut_off.run(), cut_off.stop):
        await until(lambda: cut_off.is_leading())
        async with running(other.run(), other.stop):
            silent.is_silent = True
            await until(lambda: other.is_leading())
            assert len(cut_off.tenures) == 1
            silent.is_silent = False
            other.stop.set()
            await until(lambda: cut_off.is_leading())
    assert len(cut_off.tenures) == 2
    assert not overlap(cut_off, other)


async def test_the_time_is_over_whether_the_process_runs_or_not(until: Until) -> None:
    """As for a process that is frozen: nothing of it runs, and the first thing that does asks."""
    process = Process(MemoryLeases(), terms=SHORT)
    async with running(process.run(), process.stop):
        await until(lambda: process.is_leading())
        frozen_until = time.monotonic() + SHORT.seconds
        while time.monotonic() < frozen_until:
            time.sleep(0.05)  # noqa: ASYNC251
        assert not process.is_leading()


async def test_a_lease_is_kept_for_as_long_as_it_is_renewed(until: Until) -> None:
    process, began = Process(MemoryLeases(), terms=RENEWED), time.monotonic()
    async with running(process.run(), process.stop):
        await until(lambda: process.is_leading())
        await until(lambda: time.monotonic() - began > 1.1 * RENEWED.seconds or bool(process.tenures))
    assert len(process.tenures) == 1


async def test_another_process_of_the_same_name_does_not_wait_for_the_one_that_died(until: Until) -> None:
    leases = MemoryLeases()
    died = await leases.take(LEASE_KEY, "scheduler-1_before", 3_600)
    assert died is not None
    again, other = Process(leases, "scheduler-1", NEVER_OVER), Process(leases, "scheduler-2", NEVER_OVER)
    async with running(other.run(), other.stop), running(again.run(), again.stop):
        await until(lambda: again.is_leading())
        assert not other.is_leading()


async def test_work_that_breaks_ends_the_process_and_gives_the_lease_up() -> None:
    leases = MemoryLeases()

    async def breaks(is_leading: IsLeading, over: asyncio.Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Candidate(leases, terms=TERMS).run(breaks, asyncio.Event())
    assert await leases.look(LEASE_KEY) is None


async def test_work_that_does_not_end_with_the_lease_ends_the_process(until: Until) -> None:
    silent = Silent(MemoryLeases())

    async def goes_on(is_leading: IsLeading, over: asyncio.Event) -> None:
        silent.is_silent = True
        await asyncio.Event().wait()

    with pytest.raises(StillWorking):
        await asyncio.wait_for(Candidate(silent, terms=SHORT).run(goes_on, asyncio.Event()), 30 * SHORT.seconds)


async def test_who_does_not_lead_appends_nothing() -> None:
    log, leads = MemoryLog(), True
    led = LedLog(log, lambda: leads)
    first = await led.append(RUN, b"1", 0)
    leads = False
    with pytest.raises(Unavailable, match="does not lead"):
        await led.append(RUN, b"2", first)
    assert [stored.payload for stored in await log.read(RUN)] == [b"1"]


async def test_own_entries_are_told_from_those_of_others() -> None:
    log = MemoryLog()
    led = LedLog(log, lambda: True)
    follower = led.follow(0)
    before = await log.append(RUN, b"1", 0)
    appending = asyncio.ensure_future(led.append(RUN, b"2", before))
    found: list[Stored] = []
    while len(found) < 2:
        found += await anext(follower)
    assert [await led.is_foreign(stored) for stored in found] == [True, False]
    await appending
    await follower.aclose()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemoryLog(), free_address(), auth.new_keypair(), auth.new_keypair())


async def lead(world: World, leases: Leases, address: str, stop: asyncio.Event) -> None:
    """A scheduler as a process runs it, with an address of its own."""
    config = Config(
        data_directory=world.directory,
        nats_url="",
        nats_user="",
        nats_password="",
        address=address,
        git_address=NOWHERE,
        service_token=world.token,
        service_verify_key=world.keys.verify_key,
        claim_signing_key=world.claims.signing_key,
    )
    async with dial(NOWHERE, world.token) as git:
        workspaces = WorkspaceServiceStub(git)
        candidate = Candidate(leases, terms=TERMS)
        await candidate.run(lambda leads, over: app.work(config, world.log, workspaces, over, leads), stop)


async def test_runs_go_on_when_another_scheduler_leads(world: World) -> None:
    """The first one is cut off from the leases while tasks are under way."""
    leases, stops = MemoryLeases(), (asyncio.Event(), asyncio.Event())
    silent, addresses = Silent(leases), (free_address(), free_address())
    world.scheduler_address = addresses[0]
    async with running(lead(world, silent, addresses[0], stops[0]), stops[0]), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="r", workflow=chain(200, steps=5)))
        world.scheduler_address = ",".join(addresses)
        async with running(lead(world, leases, addresses[1], stops[1]), stops[1]), world.executor():
            await world.until("r", lambda run: len(run.tasks) > 20)
            silent.is_silent = True
            state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED
    assert max(task.generation for task in state.tasks.values()) <= 2


async def test_a_claim_that_a_frozen_scheduler_had_on_its_way_is_noticed(world: World) -> None:
    """It is stored when another scheduler has opened the run already; whom it names does not know of it."""
    log = HoldsClaims()
    world.log = log
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        log.holds = True
        await scheduler.Start(StartRun(run_id="r", workflow=chain(1)))
        await asyncio.wait_for(log.held.wait(), 10)
    log.holds = False
    async with world.scheduler():
        async with client(world):
            await log.deliver()
        async with world.executor():
            state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED


class HoldsClaims(MemoryLog):
    """A log with an append of a claim that arrives when its sender is long gone."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.held = asyncio.Event()
        self._late: tuple[AggregateId, bytes, int] | None = None

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        if self.holds and _claims(payload):
            self._late = (aggregate, payload, expected_revision)
            self.held.set()
            await asyncio.Event().wait()
        return await super().append(aggregate, payload, expected_revision)

    async def deliver(self) -> None:
        assert self._late is not None
        await super().append(*self._late)


def _claims(payload: bytes) -> bool:
    events = (event for decision in Entry.FromString(payload).decisions for event in decision.events)
    return any(event.WhichOneof("fact") == "task_claimed" for event in events)
