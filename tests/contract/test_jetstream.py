"""What only the log on JetStream does: restarts, batches, permissions, and a stream from which nothing goes away."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from crewlog.domain.errors import NotFound, NotPermitted, Unavailable, WrongState
from crewlog.eventlog import connection as connections
from crewlog.eventlog.connection import ApiError
from crewlog.eventlog.jetstream import JetStreamLog, connect_log, create_stream, find_epoch
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.permissions import OWNED_KINDS, USERS, appended_kinds
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.telemetry import traces

Until = Callable[[Callable[[], bool]], Awaitable[None]]
UniqueId = Callable[[], str]
Connect = Callable[[str], Awaitable[JetStreamLog]]
WAIT_SECONDS = 15.0


def run_of(unique_id: UniqueId) -> AggregateId:
    return AggregateId("local", "run", unique_id())


async def message_at(server: NatsServer, revision: int) -> dict[str, Any]:
    """The message as the server holds it, with its headers."""
    connection = await connections.connect(server.url, "operator", server.passwords["operator"], name="looking")
    try:
        answer = await connection.api("STREAM.MSG.GET.EVENTS_test", {"seq": revision})
    finally:
        await connection.close()
    message: dict[str, Any] = answer["message"]
    return message


def headers_of(message: dict[str, Any]) -> dict[str, str]:
    lines = base64.b64decode(message["hdrs"]).decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines if line)


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
async def test_restarts_lose_nothing_and_repeat_nothing(
    own_nats_server: NatsServer, unique_id: UniqueId, until: Until, crash: bool
) -> None:
    server = own_nats_server
    log = await connect_log(server.url, "operator", server.passwords["operator"], name="test")
    acknowledged: dict[AggregateId, list[Stored]] = {run_of(unique_id): [] for _ in range(12)}
    followed: list[Stored] = []
    stop = asyncio.Event()

    async def write(run: AggregateId, mine: list[Stored]) -> None:
        while not stop.is_set():
            payload = b"%d" % len(mine)
            revision = await log.append(run, payload, mine[-1].revision if mine else 0)
            mine.append(Stored(revision, run, payload))

    async def follow() -> None:
        async with aclosing(log.follow(0)) as batches:
            async for batch in batches:
                followed.extend(batch)

    writers = [asyncio.create_task(write(run, mine)) for run, mine in acknowledged.items()]
    follower = asyncio.create_task(follow())
    for _ in range(3):
        goal = len(followed) + 100
        await until(lambda: len(followed) > goal)  # noqa: B023
        server.kill() if crash else server.stop()
        server.run()
    goal = len(followed) + 100
    await until(lambda: len(followed) > goal)
    stop.set()
    await asyncio.gather(*writers)
    everything = sorted((stored for mine in acknowledged.values() for stored in mine), key=lambda one: one.revision)
    await until(lambda: len(followed) >= len(everything))
    follower.cancel()
    assert followed == everything
    for run, mine in acknowledged.items():
        assert await log.read(run) == mine
    await log.close()


async def test_an_idle_follower_survives_a_restart(
    own_nats_server: NatsServer, unique_id: UniqueId, until: Until
) -> None:
    server, run = own_nats_server, run_of(unique_id)
    log = await connect_log(server.url, "operator", server.passwords["operator"], name="test")
    async with aclosing(log.follow(0)) as batches:
        first = await log.append(run, b"1", 0)
        assert [stored.revision for stored in await anext(batches)] == [first]
        waiting = asyncio.ensure_future(anext(batches))
        server.kill()
        server.run()
        second = await log.append(run, b"2", first)
        assert [stored.revision for stored in await asyncio.wait_for(waiting, WAIT_SECONDS)] == [second]
    await log.close()


async def test_a_follower_whose_consumer_is_deleted_makes_another(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    run = run_of(unique_id)
    async with aclosing(jetstream_log.follow(await jetstream_log.head())) as batches:
        first = await jetstream_log.append(run, b"1", 0)
        assert [stored.revision for stored in await anext(batches)] == [first]
        admin = await connections.connect(nats_server.url, "operator", nats_server.passwords["operator"], name="admin")
        for name in (await admin.api("CONSUMER.NAMES.EVENTS_test", {}))["consumers"]:
            await admin.api(f"CONSUMER.DELETE.EVENTS_test.{name}", {})
        await admin.close()
        second = await jetstream_log.append(run, b"2", first)
        assert [stored.revision for stored in await asyncio.wait_for(anext(batches), WAIT_SECONDS)] == [second]


async def test_a_follower_that_stops_leaves_no_consumer(own_nats_server: NatsServer, unique_id: UniqueId) -> None:
    server = own_nats_server
    admin = await connections.connect(server.url, "operator", server.passwords["operator"], name="admin")

    async def until_consumers(count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await admin.api("CONSUMER.NAMES.EVENTS_test", {}))["total"] != count:
                pass

    log = await connect_log(server.url, "scheduler", server.passwords["scheduler"], name="test")
    await log.append(run_of(unique_id), b"1", 0)
    batches = [log.follow(0) for _ in range(3)]
    for one in batches:
        await anext(one)
    cancelled = asyncio.ensure_future(anext(batches[0]))
    await until_consumers(3)
    cancelled.cancel()
    await batches[1].aclose()
    await until_consumers(1)
    await batches[2].aclose()
    await until_consumers(0)
    await asyncio.gather(cancelled, return_exceptions=True)
    await log.close()
    await admin.close()


async def test_a_closed_log_says_so(nats_server: NatsServer, unique_id: UniqueId) -> None:
    log = await connect_log(nats_server.url, "operator", nats_server.passwords["operator"], name="test")
    run = run_of(unique_id)
    batches = log.follow(await log.head())
    waiting = asyncio.ensure_future(anext(batches))
    await log.append(run, b"1", 0)
    await waiting
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    await log.close()
    for attempt in (waiting, log.append(run, b"2", 1), log.read(run), log.head()):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(attempt, 5)


async def test_what_waits_goes_in_batches(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    runs = [run_of(unique_id) for _ in range(600)]
    revisions = await asyncio.gather(*(jetstream_log.append(run, b"x", 0) for run in runs))
    headers = [headers_of(await message_at(nats_server, revision)) for revision in revisions[::7] + revisions[:1]]
    batches = Counter(header.get("Nats-Batch-Id", "") for header in headers)
    assert "Nats-Batch-Id" not in headers[-1]
    assert 2 <= len(batches) - 1 <= 4


async def test_few_appends_are_sent_alone(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    revisions = await asyncio.gather(*(jetstream_log.append(run_of(unique_id), b"x", 0) for _ in range(8)))
    for revision in revisions:
        headers = headers_of(await message_at(nats_server, revision))
        assert set(headers) == {"Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Stream"}


async def test_the_trace_goes_along_when_one_is_recorded(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        def record(self, span: traces.Span) -> None:
            pass

        def close(self, seconds: float) -> None:
            pass

    traceparent = traces.traceparent_of_run("demo")
    monkeypatch.setattr(traces, "_recorder", Recorder())
    with traces.within(traceparent):
        revision = await jetstream_log.append(run_of(unique_id), b"x", 0)
    assert headers_of(await message_at(nats_server, revision))["traceparent"] == traceparent


@pytest.mark.parametrize("user", OWNED_KINDS)
async def test_a_service_appends_only_to_what_it_owns(connect: Connect, unique_id: UniqueId, user: str) -> None:
    log, admin = await connect(user), await connect("operator")
    for kinds in OWNED_KINDS.values():
        for kind in kinds:
            aggregate = AggregateId("local", kind, unique_id())
            if kind in appended_kinds(user):
                assert await log.append(aggregate, b"x", 0) > 0
                assert len(await log.read(aggregate)) == 1
            else:
                with pytest.raises(NotPermitted):
                    await asyncio.wait_for(log.append(aggregate, b"x", 0), 5)
                assert await admin.read(aggregate) == []


def test_only_agents_have_somebody_besides_their_owner_who_ends_them() -> None:
    beyond = {user: set(appended_kinds(user)) - set(kinds) for user, kinds in OWNED_KINDS.items()}
    assert {user: kinds for user, kinds in beyond.items() if kinds} == {"scheduler": {"agent"}}


async def test_in_a_batch_only_the_forbidden_one_fails(connect: Connect, unique_id: UniqueId) -> None:
    log = await connect("scheduler")
    allowed = [run_of(unique_id) for _ in range(60)]
    forbidden = AggregateId("local", "workspace", unique_id())
    outcomes = await asyncio.gather(
        *(log.append(one, b"x", 0) for one in [*allowed[:30], forbidden, *allowed[30:]]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int] * 30 + [NotPermitted] + [int] * 30


@pytest.mark.parametrize("user", [user for user in USERS if user != "operator"])
@pytest.mark.parametrize(
    "subject", ["STREAM.DELETE", "STREAM.UPDATE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT"]
)
async def test_a_service_cannot_administer_the_log(nats_server: NatsServer, user: str, subject: str) -> None:
    connection = await connections.connect(nats_server.url, user, nats_server.passwords[user], name="test")
    with pytest.raises(NotPermitted):
        await connection.api(f"{subject}.EVENTS_test", {})
    await connection.close()


@pytest.mark.parametrize("subject", ["_INBOX_executor.>", "_INBOX.>", "crewlog.events.>", ">", "$JS.API.>"])
async def test_a_service_cannot_listen_to_others(nats_server: NatsServer, until: Until, subject: str) -> None:
    connection = await connections.connect(
        nats_server.url, "scheduler", nats_server.passwords["scheduler"], name="test"
    )
    await connection.client.subscribe(subject)
    await until(lambda: "permissions violation" in str(connection.client.last_error).lower())
    await connection.close()


async def test_nothing_goes_away_not_even_for_the_operator(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    run = run_of(unique_id)
    revision = await jetstream_log.append(run, b"1", 0)
    admin = await connections.connect(nats_server.url, "operator", nats_server.passwords["operator"], name="admin")
    for subject, body in (
        ("STREAM.PURGE.EVENTS_test", {}),
        ("STREAM.PURGE.EVENTS_test", {"filter": run.subject}),
        ("STREAM.MSG.DELETE.EVENTS_test", {"seq": revision}),
    ):
        with pytest.raises(ApiError):
            await admin.api(subject, body)
    config = (await admin.api("STREAM.INFO.EVENTS_test", {}))["config"]
    for change in ({"deny_delete": False}, {"deny_purge": False}):
        with pytest.raises(ApiError):
            await admin.api("STREAM.UPDATE.EVENTS_test", config | change)
    answer = await admin.request(run.subject, b"2", {"Nats-Rollup": "sub"})
    assert b"10111" in answer.data
    await admin.close()
    assert [stored.payload for stored in await jetstream_log.read(run)] == [b"1"]


async def test_the_stream_is_made_once(own_nats_server: NatsServer, unique_id: UniqueId) -> None:
    server, password = own_nats_server, own_nats_server.passwords["operator"]
    log = await connect_log(server.url, "operator", password, name="test")
    await log.append(run_of(unique_id), b"1", 0)
    await create_stream(server.url, "operator", password, "test")
    assert await log.head() == 1
    with pytest.raises(WrongState):
        await create_stream(server.url, "operator", password, "another")
    assert await find_epoch(server.url, "operator", password) == log.epoch == "test"
    await log.close()


async def test_a_server_without_a_log_is_told_apart(tmp_path: Any) -> None:
    server = NatsServer.start(tmp_path / "nats")
    try:
        with pytest.raises(NotFound):
            await connect_log(server.url, "scheduler", server.passwords["scheduler"], name="test")
        assert await find_epoch(server.url, "operator", server.passwords["operator"]) is None
    finally:
        server.stop()


async def test_an_entry_for_another_epoch_is_refused(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    run = run_of(unique_id)
    connection = await connections.connect(nats_server.url, "operator", nats_server.passwords["operator"], name="test")
    of_old = JetStreamLog(connection, "old", replicas=1, in_doubt_seconds=1)
    with pytest.raises(Unavailable):
        await of_old.append(run, b"x", 0)
    assert await jetstream_log.read(run) == []
    await of_old.close()


async def test_reading_asks_the_leader_where_replicas_may_be_behind(
    nats_server: NatsServer, jetstream_log: JetStreamLog, unique_id: UniqueId
) -> None:
    connection = await connections.connect(nats_server.url, "operator", nats_server.passwords["operator"], name="test")
    replicated = JetStreamLog(connection, "test", replicas=3, in_doubt_seconds=1)
    run = run_of(unique_id)
    first = await jetstream_log.append(run, b"1", 0)
    await jetstream_log.append(run, b"2", first)
    assert [stored.payload for stored in await replicated.read(run)] == [b"1", b"2"]
    assert [stored.payload for stored in await replicated.read(run, first)] == [b"2"]
    await replicated.close()
