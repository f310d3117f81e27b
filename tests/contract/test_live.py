"""What every live plane does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.live import NatsLive
from crewlog.eventlog.live_queue import MESSAGES_MAX
from crewlog.eventlog.memory import MemoryLive
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import Live

UniqueId = Callable[[], str]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(params=["memory", "nats"])
def live(request: pytest.FixtureRequest) -> Live:
    if request.param == "memory":
        return MemoryLive()
    log: JetStreamLog = request.getfixturevalue("jetstream_log")
    return NatsLive(log.connection)


class Reader:
    """Reads in a task of its own; `began` says that the subscription is there."""

    def __init__(self, live: Live, run_id: str) -> None:
        self._live = live
        self._run_id = run_id
        self.deltas: AsyncGenerator[bytes, None] = live.subscribe("local", run_id)

    async def begin(self) -> None:
        """Returns when the subscription is there: it hears what we say until it does."""
        first = asyncio.ensure_future(anext(self.deltas))
        while not first.done():
            await self._live.publish("local", self._run_id, b"are you there?")
            await asyncio.wait((first,), timeout=0.01)

    async def until(self, last: bytes) -> list[bytes]:
        """What comes, up to `last`."""
        heard: list[bytes] = []
        async with asyncio.timeout(10):
            async for delta in self.deltas:
                if delta != b"are you there?":
                    heard.append(delta)
                if delta == last:
                    return heard
        raise AssertionError("the deltas ended by themselves")


async def test_every_reader_of_a_run_hears_it(live: Live, unique_id: UniqueId) -> None:
    run_id = unique_id()
    readers = [Reader(live, run_id) for _ in range(3)]
    for reader in readers:
        await reader.begin()
    spoken = [b"%d" % number for number in range(100)]
    for delta in spoken:
        await live.publish("local", run_id, delta)
    for reader in readers:
        assert await reader.until(b"99") == spoken
        await reader.deltas.aclose()


async def test_other_runs_and_tenants_are_not_heard(live: Live, unique_id: UniqueId) -> None:
    run_id = unique_id()
    reader = Reader(live, run_id)
    await reader.begin()
    await live.publish("local", run_id + "-other", b"other run")
    await live.publish("other", run_id, b"other tenant")
    await live.publish("local", run_id, b"mine")
    assert await reader.until(b"mine") == [b"mine"]
    await reader.deltas.aclose()


async def test_nobody_has_to_listen(live: Live, unique_id: UniqueId) -> None:
    run_id = unique_id()
    await live.publish("local", run_id, b"lost")
    reader = Reader(live, run_id)
    await reader.begin()
    await live.publish("local", run_id, b"heard")
    assert await reader.until(b"heard") == [b"heard"]
    await reader.deltas.aclose()


async def test_a_slow_reader_loses_the_oldest(live: Live, unique_id: UniqueId) -> None:
    run_id = unique_id()
    slow, quick = Reader(live, run_id), Reader(live, run_id)
    await quick.begin()
    await slow.begin()
    spoken = [b"%d" % number for number in range(MESSAGES_MAX * 2)]
    hearing = asyncio.create_task(quick.until(spoken[-1]))
    for delta in spoken:
        await live.publish("local", run_id, delta)
        await asyncio.sleep(0)
    await hearing
    heard = await slow.until(spoken[-1])
    assert heard == spoken[-len(heard) :]
    assert MESSAGES_MAX // 2 < len(heard) < len(spoken)
    await slow.deltas.aclose()
    await quick.deltas.aclose()


async def test_a_reader_that_stops_hears_nothing_more(live: Live, unique_id: UniqueId) -> None:
    run_id = unique_id()
    reader = Reader(live, run_id)
    await reader.begin()
    waiting = asyncio.ensure_future(anext(reader.deltas))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    await live.publish("local", run_id, b"nobody hears this")
    with pytest.raises(StopAsyncIteration):
        await anext(reader.deltas)


async def test_readers_survive_a_restart(own_nats_server: NatsServer, unique_id: UniqueId) -> None:
    server, run_id = own_nats_server, unique_id()
    log = await connect_log(server.url, "operator", server.passwords["operator"], name="test")
    live = NatsLive(log.connection)
    reader = Reader(live, run_id)
    await reader.begin()
    server.kill()
    await live.publish("local", run_id, b"lost or late")
    server.run()
    again = asyncio.create_task(reader.until(b"again"))
    while not again.done():
        await live.publish("local", run_id, b"again")
        await asyncio.wait((again,), timeout=0.02)
    assert (await again)[-1] == b"again"
    await reader.deltas.aclose()
    await log.close()


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "", "a b"])
async def test_a_bad_name_is_refused(live: Live, bad: str) -> None:
    with pytest.raises(InvalidCommand):
        await live.publish("local", bad, b"x")
    with pytest.raises(InvalidCommand):
        async with aclosing(live.subscribe(bad, "run")) as deltas:
            await anext(deltas)


async def test_only_the_executor_speaks_and_the_gateway_hears(
    nats_server: NatsServer, unique_id: UniqueId, until: Until
) -> None:
    run_id = unique_id()
    logs = {
        user: await connect_log(nats_server.url, user, nats_server.passwords[user], name="test")
        for user in ("gateway", "executor", "scheduler")
    }
    heard = NatsLive(logs["gateway"].connection).subscribe("local", run_id)
    first = asyncio.ensure_future(anext(heard))
    while not first.done():
        await NatsLive(logs["scheduler"].connection).publish("local", run_id, b"forged")
        await NatsLive(logs["executor"].connection).publish("local", run_id, b"said")
        await asyncio.wait((first,), timeout=0.01)
    assert await first == b"said"
    await until(lambda: "permissions violation" in str(logs["scheduler"].connection.last_error).lower())
    await heard.aclose()
    for log in logs.values():
        await log.close()
