"""What every adapter of leases has to do: the one in memory and the one on JetStream pass the same tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from crewlog.domain.errors import NotPermitted, Unavailable
from crewlog.eventlog import connection as connections
from crewlog.eventlog.jetstream_leases import JetStreamLeases, create_leases
from crewlog.eventlog.leases import Lease, LeaseLost, Leases
from crewlog.eventlog.memory_leases import MemoryLeases
from crewlog.eventlog.nats_server import NatsServer

from tests.contract.wire import Wire

Until = Callable[[Callable[[], bool]], Awaitable[None]]
UniqueId = Callable[[], str]
LONG = 60
SHORT = 1
RENEWED = 3
# The server looks for what has expired four times a second.
EXPIRY_SECONDS_MAX = 10.0


@asynccontextmanager
async def leases_of(server: NatsServer, url: str = "", user: str = "scheduler") -> AsyncIterator[JetStreamLeases]:
    connection = await connections.connect(url or server.url, user, server.passwords[user], name="leases")
    yield JetStreamLeases(connection)
    await connection.close()


@pytest.fixture
async def jetstream_leases(nats_server: NatsServer) -> AsyncIterator[JetStreamLeases]:
    async with leases_of(nats_server) as leases:
        yield leases


@pytest.fixture(params=["memory", "jetstream"])
def leases(request: pytest.FixtureRequest) -> Leases:
    adapter: Leases = MemoryLeases() if request.param == "memory" else request.getfixturevalue("jetstream_leases")
    return adapter


async def taken(leases: Leases, key: str, holder: str = "one", seconds: int = LONG) -> Lease:
    lease = await leases.take(key, holder, seconds)
    assert lease is not None
    return lease


async def test_who_has_it_keeps_it(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    assert await leases.look(key) is None
    lease = await taken(leases, key)
    assert await leases.take(key, "two", LONG) is None
    found = await leases.look(key)
    assert found == lease
    assert found.holder == "one"


async def test_of_many_who_want_it_one_gets_it(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    found = await asyncio.gather(*(leases.take(key, f"holder-{number}", LONG) for number in range(16)))
    assert len([lease for lease in found if lease is not None]) == 1


async def test_what_one_has_does_not_concern_another_key(leases: Leases, unique_id: UniqueId) -> None:
    await taken(leases, unique_id())
    await taken(leases, unique_id(), "two")


@pytest.mark.slow
async def test_it_ends_when_it_is_not_renewed_and_not_before(leases: Leases, unique_id: UniqueId) -> None:
    key, began = unique_id(), time.monotonic()
    lease = await taken(leases, key, seconds=SHORT)
    async with asyncio.timeout(SHORT + EXPIRY_SECONDS_MAX):
        while (next_one := await leases.take(key, "two", LONG)) is None:
            await asyncio.sleep(0.01)
    assert time.monotonic() - began >= SHORT
    assert next_one.fencing > lease.revision
    with pytest.raises(LeaseLost, match="held by two"):
        await leases.renew(lease, LONG)


@pytest.mark.slow
async def test_one_that_is_over_is_not_renewed(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = await taken(leases, key, seconds=SHORT)
    async with asyncio.timeout(SHORT + EXPIRY_SECONDS_MAX):
        while await leases.look(key):
            await asyncio.sleep(0.01)
    with pytest.raises(LeaseLost, match="held by nobody"):
        await leases.renew(lease, LONG)


@pytest.mark.slow
async def test_renewing_keeps_it_and_its_fencing(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = first = await taken(leases, key, seconds=RENEWED)
    began = time.monotonic()
    while time.monotonic() - began < 1.1 * RENEWED:
        lease = await leases.renew(lease, RENEWED)
        assert await leases.take(key, "two", LONG) is None
        await asyncio.sleep(0.05)
    assert lease.revision > first.revision == lease.fencing


async def test_given_up_it_can_be_had_at_once(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = await leases.renew(await taken(leases, key), LONG)
    await leases.give_up(lease)
    assert await leases.look(key) is None
    assert (await taken(leases, key, "two")).fencing > lease.revision


async def test_who_has_lost_it_gives_up_nothing(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = await taken(leases, key)
    await leases.give_up(lease)
    await taken(leases, key, "two")
    await leases.give_up(lease)
    found = await leases.look(key)
    assert found is not None
    assert found.holder == "two"


async def test_a_holder_that_is_gone_is_succeeded(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = await taken(leases, key, "one_first")
    found = await leases.look(key)
    successor = await leases.take(key, "one_second", LONG, instead_of=found)
    assert successor is not None
    assert successor.fencing > lease.fencing
    with pytest.raises(LeaseLost):
        await leases.renew(lease, LONG)


async def test_a_holder_that_has_renewed_since_is_not_succeeded(leases: Leases, unique_id: UniqueId) -> None:
    key = unique_id()
    lease = await taken(leases, key, "one_first")
    found = await leases.look(key)
    await leases.renew(lease, LONG)
    assert await leases.take(key, "one_second", LONG, instead_of=found) is None


async def test_a_renewal_whose_answer_was_lost_counts(leases: Leases, unique_id: UniqueId) -> None:
    """Then the revision is not the one that the holder knows, and the lease is still its own."""
    key = unique_id()
    lease = await taken(leases, key)
    stored = await leases.renew(lease, LONG)
    again = await leases.renew(lease, LONG)
    assert again.revision > stored.revision
    assert again.fencing == lease.fencing
    await leases.give_up(replace(again, revision=lease.revision))
    assert await leases.look(key) is None


async def test_without_an_answer_nobody_knows(nats_server: NatsServer, wire: Wire, unique_id: UniqueId) -> None:
    key = unique_id()
    async with leases_of(nats_server, wire.url) as behind_wire:
        lease = await taken(behind_wire, key)
        wire.loses_answers = True
        renewing = asyncio.ensure_future(behind_wire.renew(lease, LONG))
        async with leases_of(nats_server) as other, asyncio.timeout(5):
            while (found := await other.look(key)) is None or found.revision == lease.revision:
                await asyncio.sleep(0.01)
        wire.cut()
        with pytest.raises(Unavailable):
            await renewing


@pytest.mark.slow
@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
async def test_a_restart_of_the_server_changes_nothing(
    own_nats_server: NatsServer, unique_id: UniqueId, crash: bool
) -> None:
    kept, forgotten = unique_id(), unique_id()
    async with leases_of(own_nats_server) as before:
        lease = await taken(before, kept)
        await taken(before, forgotten, seconds=SHORT)
    own_nats_server.kill() if crash else own_nats_server.stop()
    own_nats_server.run()
    async with leases_of(own_nats_server) as after:
        assert await after.take(kept, "two", LONG) is None
        assert (await after.renew(lease, LONG)).revision > lease.revision
        async with asyncio.timeout(SHORT + EXPIRY_SECONDS_MAX):
            while (next_one := await after.take(forgotten, "two", LONG)) is None:
                await asyncio.sleep(0.01)
        assert next_one.fencing > lease.revision


async def test_the_bucket_is_made_once(own_nats_server: NatsServer, unique_id: UniqueId) -> None:
    async with leases_of(own_nats_server) as leases:
        lease = await taken(leases, unique_id())
        await create_leases(own_nats_server.url, "operator", own_nats_server.passwords["operator"])
        assert await leases.look(lease.key) is not None


@pytest.mark.parametrize("user", ["gateway", "executor", "git"])
async def test_only_the_scheduler_takes_leases(nats_server: NatsServer, unique_id: UniqueId, user: str) -> None:
    key = unique_id()
    async with leases_of(nats_server, user=user) as leases:
        with pytest.raises(NotPermitted):
            await leases.take(key, "one", LONG)
        assert await leases.look(key) is None
