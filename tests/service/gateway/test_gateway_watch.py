"""Streams have every entry once and in order: while the log grows, when they break off, when the gateway restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from crewlog.domain.errors import InvalidCommand, NotFound, Refused, Unavailable
from crewlog.gateway import queries, watch
from crewlog.gateway.projection import Projection
from crewlog.runtime import status
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.run_service_pb2 import LiveDelta, WatchRun


async def collect(stream: Any, count: int | None = None) -> list[Any]:
    """The entries of a stream: so many, or until it ends."""
    entries: list[Any] = []
    async with asyncio.timeout(20):
        async for message in stream:
            if message.HasField("entry"):
                entries.append(message.entry)
                if len(entries) == count:
                    break
    return entries


async def refusal(stream: Any) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(stream)
    found = status.refusal_of(caught.value)
    assert isinstance(found, Refused)
    return found


async def test_a_stream_of_a_run_has_all_of_it_and_ends_with_it(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    watching = asyncio.create_task(collect(world.run_service.Watch(WatchRun(run_id="run-1", with_stored=True))))
    await world.start_run("run-2", project_id)
    await world.claim("run-1")
    await world.host("run-1")
    await world.finish_agent("run-1")
    await world.finish("run-1")
    entries = await watching
    stored = {entry.revision: entry for entry in await _all_stored(world)}
    assert [entry.revision for entry in entries] == [
        revision for revision, s in stored.items() if s.aggregate.id.startswith("run-1")
    ]
    for entry in entries:
        assert entry.stored == stored[entry.revision].payload
        assert entry.entry == Entry.FromString(entry.stored)
    again = await collect(world.run_service.Watch(WatchRun(run_id="run-1")))
    assert [e.revision for e in again] == [e.revision for e in entries]
    assert again[0].stored == b""
    last = await collect(world.run_service.Watch(WatchRun(run_id="run-1", from_revision=entries[-2].revision)))
    assert [entry.revision for entry in last] == [entries[-1].revision]


async def test_there_are_no_gaps_while_the_log_grows_and_the_client_comes_and_goes(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE_ENTRIES_MAX", 7)
    project_id = await world.register()
    runs = [f"run-{number}" for number in range(40)]

    async def work() -> None:
        for run_id in runs:
            await world.start_run(run_id, project_id)
            await world.claim(run_id)
            await world.finish(run_id)

    working = asyncio.create_task(work())
    revisions: list[int] = []
    while len(revisions) < 1 + 4 * len(runs):
        request = WatchEvents(from_revision=revisions[-1] if revisions else 0)
        stream = world.event_service.Watch(request)
        revisions += [entry.revision for entry in await collect(stream, min(11, 1 + 4 * len(runs) - len(revisions)))]
        stream.cancel()
    await working
    assert revisions == list(range(1, await world.log.head() + 1))


@pytest.mark.parametrize(("entries_max", "bytes_max"), [(3, 10**6), (256, 1)])
async def test_there_are_no_gaps_between_pages(
    world: Any, monkeypatch: pytest.MonkeyPatch, entries_max: int, bytes_max: int
) -> None:
    monkeypatch.setattr(queries, "PAGE_ENTRIES_MAX", entries_max)
    monkeypatch.setattr(queries, "PAGE_BYTES_MAX", bytes_max)
    project_id = await world.register()
    for number in range(10):
        await world.start_run(f"run-{number}", project_id)
    for from_revision in (0, 1, 4, 11):
        stream = world.event_service.Watch(WatchEvents(from_revision=from_revision, until_now=True))
        assert [entry.revision for entry in await collect(stream)] == list(range(from_revision + 1, 12))


async def test_what_is_written_while_a_page_is_read_comes_with_the_next(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = await world.register()
    read = Projection.read

    async def read_slowly(self: Projection, query: Any, *args: Any) -> Any:
        answer = await read(self, query, *args)
        if query is queries.Queries.page and await world.log.head() < 5:
            number = await world.log.head()
            await self.reached(await world.start_run(f"run-{number}", project_id))
        return answer

    monkeypatch.setattr(Projection, "read", read_slowly)
    entries = await collect(world.event_service.Watch(WatchEvents()), 5)
    assert [entry.revision for entry in entries] == [1, 2, 3, 4, 5]


async def test_there_are_no_gaps_when_the_gateway_restarts(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-0", project_id)
    stream = world.event_service.Watch(WatchEvents())
    entries = await collect(stream, 2)
    ending = asyncio.create_task(refusal(stream))
    await world.gateway.server.stop()
    assert isinstance(await ending, Unavailable)
    await world.stop_gateway()
    await world.claim("run-0")
    await world.finish("run-0")
    await world.start_gateway()
    request = WatchEvents(from_revision=entries[-1].revision, until_now=True)
    entries += await collect(world.event_service.Watch(request))
    assert [entry.revision for entry in entries] == list(range(1, await world.log.head() + 1))


async def test_many_streams_of_which_some_are_slow(world: Any) -> None:
    project_id = await world.register()
    slow = [world.event_service.Watch(WatchEvents()) for _ in range(5)]
    for stream in slow:
        await collect(stream, 1)
    fast = [asyncio.create_task(collect(world.event_service.Watch(WatchEvents()), 31)) for _ in range(10)]
    for number in range(30):
        await world.start_run(f"run-{number}", project_id)
    assert [len(entries) for entries in await asyncio.gather(*fast)] == [31] * 10
    assert [len(await collect(stream, 30)) for stream in slow] == [30] * 5


async def test_filters_choose_whole_entries(world: Any) -> None:
    one, two = await world.register("/repos/one"), await world.register("/repos/two")
    for run_id, project_id in (("run-1", one), ("run-2", two)):
        await world.start_run(run_id, project_id)
        await world.claim(run_id)
        await world.host(run_id)

    async def subjects(**request: Any) -> list[str]:
        stream = world.event_service.Watch(WatchEvents(until_now=True, **request))
        return [f"{e.entry.aggregate.kind} {e.entry.aggregate.id}" for e in await collect(stream)]

    assert await subjects(kinds=["agent"]) == ["agent run-1_a-1", "agent run-2_a-1"]
    assert await subjects(project_id=one) == [f"project {one}", "run run-1", "run run-1", "agent run-1_a-1"]
    assert await subjects(run_id="run-2", kinds=["run"]) == ["run run-2", "run run-2"]
    assert await subjects(types=["task_claimed"]) == ["run run-1", "run run-2"]
    assert await subjects(types=["task_claimed"], run_id="run-2") == ["run run-2"]
    assert await subjects(types=["task_cancelled"]) == []
    assert len(await subjects()) == 8


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (WatchEvents(kinds=["runs"]), "kinds"),
        (WatchEvents(types=["TaskClaimed"]), "types"),
        (WatchEvents(run_id="A"), "run_id"),
        (WatchEvents(project_id="A"), "project_id"),
        (WatchEvents(from_revision=99), "from_revision"),
    ],
)
async def test_a_filter_that_cannot_match_is_refused(world: Any, request_: WatchEvents, field: str) -> None:
    found = await refusal(world.event_service.Watch(request_))
    assert isinstance(found, InvalidCommand)
    assert field in found.violations


async def test_a_run_that_does_not_exist_is_not_watched(world: Any) -> None:
    assert isinstance(await refusal(world.run_service.Watch(WatchRun(run_id="run-1"))), NotFound)
    assert isinstance(await refusal(world.run_service.Watch(WatchRun(run_id="a.b"))), InvalidCommand)


async def test_until_now_ends_at_once_although_the_run_goes_on(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    await world.start_run("run-2", project_id)
    assert len(await collect(world.run_service.Watch(WatchRun(run_id="run-1", until_now=True)))) == 1
    assert await collect(world.run_service.Watch(WatchRun(run_id="run-1", until_now=True, from_revision=2))) == []


async def test_heartbeats_name_what_was_delivered(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT_SECONDS", 0.05)
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    stream = world.run_service.Watch(WatchRun(run_id="run-1"))
    await collect(stream, 1)
    head = await world.start_run("run-2", project_id)
    async with asyncio.timeout(10):
        async for message in stream:
            assert message.WhichOneof("message") == "heartbeat"
            if message.heartbeat.revision == head:
                break


async def test_live_deltas_stand_beside_the_entries(world: Any, until: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    stream = world.run_service.Watch(WatchRun(run_id="run-1", with_live=True))
    quiet = world.run_service.Watch(WatchRun(run_id="run-1"))
    await collect(stream, 1)
    await until(lambda: bool(world.live._readers))
    for number in range(3):
        delta = LiveDelta(run_id="run-1", agent_id="run-1_a-1", turn=1, index=-1, offset=number, text=str(number))
        await world.live.publish("local", "run-1", delta.SerializeToString())
    messages = [await anext(aiter(stream)) for _ in range(3)]
    assert [message.live.text for message in messages] == ["0", "1", "2"]
    await world.claim("run-1")
    await world.finish("run-1")
    assert len(await collect(stream)) == 3
    assert len(await collect(quiet)) == 4
    await until(lambda: not world.live._readers)


async def test_a_client_that_leaves_leaves_nothing_behind(world: Any, until: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    streams = [world.run_service.Watch(WatchRun(run_id="run-1", with_live=True)) for _ in range(5)]
    for stream in streams:
        await collect(stream, 1)
        stream.cancel()
    await until(lambda: not world.gateway.projection._inboxes and not world.live._readers)


async def _all_stored(world: Any) -> list[Any]:
    async for batch in world.log.follow(0):
        return list(batch)
    return []
