"""A log of three replicas, with our way of appending: whoever leads is killed, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.eventlog.port import AggregateId, WrongRevision

from tests.faults import replicas
from tests.faults.replicas import Replicas

pytestmark = pytest.mark.slow

WRITERS = 6
RACERS = 3
SECONDS_MAX = 60.0
SHARED = AggregateId("local", "run", "shared")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Each test leaves all of them running."""
    with replicas.running(tmp_path_factory.mktemp("replicas")) as running:
        yield running


class Writers:
    """Append as fast as they can; what was acknowledged is remembered with its revision."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self._stop = asyncio.Event()
        self.acknowledged: dict[AggregateId, list[tuple[int, bytes]]] = {SHARED: []}
        self.conflicts = 0

    async def write(self, number: int) -> None:
        """To an aggregate of its own."""
        run = AggregateId("local", "run", f"r{number}")
        mine = self.acknowledged.setdefault(run, [])
        while not self._stop.is_set():
            payload = b"%d" % len(mine)
            mine.append((await self._log.append(run, payload, mine[-1][0] if mine else 0), payload))

    async def race(self, number: int) -> None:
        """To one that others write to as well."""
        tries = 0
        while not self._stop.is_set():
            stored = await self._log.read(SHARED)
            payload = b"%d:%d" % (number, tries)
            tries += 1
            try:
                revision = await self._log.append(SHARED, payload, stored[-1].revision if stored else 0)
                self.acknowledged[SHARED].append((revision, payload))
            except WrongRevision:
                self.conflicts += 1

    async def until_more(self, count: int) -> None:
        """Everybody has got so many more entries acknowledged."""
        goals = {run: len(mine) + count for run, mine in self.acknowledged.items()}
        async with asyncio.timeout(SECONDS_MAX):
            while any(len(self.acknowledged[run]) < goal for run, goal in goals.items()):
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()


async def test_fault_33_the_leader_is_killed_and_nothing_acknowledged_is_lost(servers: Replicas) -> None:
    leader = await servers.leader(through=0)
    log = await servers.connect((leader + 1) % replicas.COUNT)
    writers = Writers(log)
    working = [asyncio.create_task(writers.write(number)) for number in range(WRITERS)]
    working += [asyncio.create_task(writers.race(number)) for number in range(RACERS)]
    await writers.until_more(20)
    servers.kill(leader)
    await writers.until_more(20)
    servers.run(leader)
    await writers.until_more(20)
    writers.stop()
    await asyncio.gather(*working)
    assert writers.conflicts > 0
    for run, acknowledged in writers.acknowledged.items():
        stored = [(one.revision, one.payload) for one in await log.read(run)]
        assert stored == sorted(acknowledged), f"{run.id} is not what was acknowledged"
    await log.close()


async def test_fault_33_without_a_majority_nothing_is_acknowledged_and_with_one_it_goes_on(servers: Replicas) -> None:
    leader = await servers.leader(through=0)
    others = [number for number in range(replicas.COUNT) if number != leader]
    log = await servers.connect(leader)
    run = AggregateId("local", "run", "alone")
    first = await log.append(run, b"1", 0)
    for number in others:
        servers.kill(number)
    appending = asyncio.create_task(log.append(run, b"2", first))
    done, _ = await asyncio.wait((appending,), timeout=2.0)
    assert not done
    for number in others:
        servers.run(number)
    second = await asyncio.wait_for(appending, SECONDS_MAX)
    assert [(one.revision, one.payload) for one in await log.read(run)] == [(first, b"1"), (second, b"2")]
    await log.close()
