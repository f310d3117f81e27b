"""Acknowledgements that get lost: the entry is stored once, or somebody else's is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import AggregateId, AppendInDoubt, EventLog, WrongRevision

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Wire(Protocol):
    holds: bytes | None
    loses_answers: bool
    held: bytes
    connections: int

    def cut(self) -> None: ...
    async def deliver_late(self) -> None: ...


@pytest.fixture
def run(unique_id: Callable[[], str]) -> AggregateId:
    return AggregateId("local", "run", unique_id())


async def until_stored(log: EventLog, aggregate: AggregateId, count: int) -> list[int]:
    async with asyncio.timeout(10):
        while len(entries := await log.read(aggregate)) < count:
            pass
    return [stored.revision for stored in entries]


async def payloads(log: EventLog, aggregate: AggregateId) -> list[bytes]:
    return [stored.payload for stored in await log.read(aggregate)]


async def test_stored_with_a_successor_behind_it(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId
) -> None:
    first = await log_behind_wire.append(run, b"1", 0)
    wire.loses_answers = True
    appending = asyncio.create_task(log_behind_wire.append(run, b"2", first))
    _, second = await until_stored(jetstream_log, run, 2)
    await jetstream_log.append(run, b"3", second)
    wire.cut()
    assert await appending == second
    assert await payloads(jetstream_log, run) == [b"1", b"2", b"3"]


async def test_lost_before_it_was_stored(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b""
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 0))
    await until(lambda: b"the entry" in wire.held)
    wire.cut()
    revision = await appending
    assert [stored.revision for stored in await jetstream_log.read(run)] == [revision]


async def test_lost_and_somebody_else_was_faster(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b""
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 0))
    await until(lambda: b"the entry" in wire.held)
    await jetstream_log.append(run, b"of another", 0)
    wire.cut()
    with pytest.raises(WrongRevision):
        await appending
    assert await payloads(jetstream_log, run) == [b"of another"]


async def test_an_attempt_that_arrives_long_after_it_was_given_up(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b""
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 0))
    await until(lambda: b"the entry" in wire.held)
    wire.cut()
    revision = await appending
    await wire.deliver_late()
    assert await log_behind_wire.append(run, b"next", revision) > revision
    assert await payloads(jetstream_log, run) == [b"the entry", b"next"]


async def test_an_attempt_that_arrives_while_we_look(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b""
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 0))
    await until(lambda: b"the entry" in wire.held)
    wire.cut()
    await wire.deliver_late()
    (revision,) = await until_stored(jetstream_log, run, 1)
    assert await appending == revision
    assert await payloads(jetstream_log, run) == [b"the entry"]


async def test_an_attempt_that_arrives_between_our_look_and_the_next_attempt(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b"the entry"
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 0))
    await until(lambda: wire.held.count(b"the entry") == 1)
    wire.cut()
    wire.holds = b"the entry"
    await until(lambda: wire.held.count(b"the entry") == 2)
    wire.holds = None
    await wire.deliver_late()
    revision = await appending
    assert [stored.revision for stored in await jetstream_log.read(run)] == [revision]


async def test_lost_with_a_revision_that_was_never_there(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    wire.holds = b""
    appending = asyncio.create_task(log_behind_wire.append(run, b"the entry", 1_000_000))
    await until(lambda: b"the entry" in wire.held)
    wire.cut()
    with pytest.raises(WrongRevision):
        await appending
    assert await payloads(jetstream_log, run) == []


@pytest.mark.parametrize("where", ["requests", "answers"])
async def test_a_lost_batch(
    jetstream_log: JetStreamLog,
    log_behind_wire: JetStreamLog,
    wire: Wire,
    where: str,
    unique_id: Callable[[], str],
    until: Until,
) -> None:
    runs = [AggregateId("local", "run", unique_id()) for _ in range(100)]
    wire.holds, wire.loses_answers = (b"", False) if where == "requests" else (None, True)
    appending = [asyncio.create_task(log_behind_wire.append(one, one.id.encode(), 0)) for one in runs]
    if where == "requests":
        await until(lambda: bool(wire.held))
    else:
        await until_stored(jetstream_log, runs[0], 1)
    wire.cut()
    revisions = await asyncio.gather(*appending)
    for one, revision in zip(runs, revisions, strict=True):
        assert [(stored.revision, stored.payload) for stored in await jetstream_log.read(one)] == [
            (revision, one.id.encode())
        ]


async def test_a_connection_that_keeps_breaking(
    jetstream_log: JetStreamLog, log_behind_wire: JetStreamLog, wire: Wire, run: AggregateId, until: Until
) -> None:
    async def break_once() -> None:
        await log_behind_wire.head()
        connections = wire.connections
        wire.loses_answers = True
        await until_stored(jetstream_log, run, len(written) + 1)
        wire.cut()
        await until(lambda: wire.connections > connections and log_behind_wire.connection.is_connected)

    async def break_it() -> None:
        while True:
            await break_once()

    written: list[int] = []
    breaking = asyncio.create_task(break_it())
    async with asyncio.timeout(30):
        while len(written) < 12:
            written.append(await log_behind_wire.append(run, b"%d" % len(written), written[-1] if written else 0))
    breaking.cancel()
    assert [stored.revision for stored in await jetstream_log.read(run)] == written


async def test_a_log_that_stays_silent_leaves_it_in_doubt(own_nats_server: NatsServer, run: AggregateId) -> None:
    password = own_nats_server.passwords["operator"]
    log = await connect_log(own_nats_server.url, "operator", password, name="test", in_doubt_seconds=0.3)
    first = await log.append(run, b"1", 0)
    own_nats_server.kill()
    with pytest.raises(AppendInDoubt):
        await log.append(run, b"2", first)
    own_nats_server.run()
    for stored in await log.read(run, first):
        first = stored.revision
    assert await log.append(run, b"3", first) > first
    await log.close()
