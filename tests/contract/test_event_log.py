"""What every EventLog does: each sentence of the port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from crewlog.domain.errors import InvalidCommand, TooLarge
from crewlog.eventlog.jetstream import connect_log, create_stream
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import ENTRY_BYTES_MAX, AggregateId, EventLog, Stored, WrongRevision

UniqueId = Callable[[], str]
MEGABYTE = 1024 * 1024


@pytest.fixture
def run(unique_id: UniqueId) -> AggregateId:
    return AggregateId("local", "run", unique_id())


@pytest.fixture(params=["memory", "jetstream"])
async def empty_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    if request.param == "memory":
        yield MemoryLog("fresh")
        return
    server = NatsServer.start(tmp_path / "empty")
    try:
        await create_stream(server.url, "operator", server.passwords["operator"], "fresh")
        log = await connect_log(server.url, "operator", server.passwords["operator"], name="test")
        yield log
        await log.close()
    finally:
        server.stop()


async def append_all(log: EventLog, aggregate: AggregateId, payloads: Sequence[bytes], revision: int = 0) -> list[int]:
    revisions = []
    for payload in payloads:
        revision = await log.append(aggregate, payload, revision)
        revisions.append(revision)
    return revisions


async def take(log: EventLog, count: int, after_revision: int, kinds: Sequence[str] = ()) -> list[Stored]:
    """The next `count` entries that a follower gets; checks that no batch is empty."""
    seen: list[Stored] = []
    async with asyncio.timeout(20), aclosing(log.follow(after_revision, kinds)) as batches:
        async for batch in batches:
            assert batch
            seen.extend(batch)
            if len(seen) >= count:
                return seen
    raise AssertionError("the follower ended by itself")


async def test_an_empty_log_has_an_epoch_and_no_head(empty_log: EventLog) -> None:
    assert empty_log.epoch == "fresh"
    assert await empty_log.head() == 0
    assert await empty_log.append(AggregateId("local", "run", "a"), b"x", 0) == await empty_log.head() == 1


async def test_revisions_grow_and_entries_are_read_byte_for_byte(log: EventLog, run: AggregateId) -> None:
    payloads = [bytes(range(256)), b"", b"\r\nMSG +OK\r\n", "ä🦜".encode()]
    revisions = await append_all(log, run, payloads)
    assert revisions == sorted(set(revisions))
    assert await log.read(run) == [Stored(*entry) for entry in zip(revisions, [run] * 4, payloads, strict=True)]
    assert await log.head() == revisions[-1]


async def test_read_gives_what_follows_a_revision(log: EventLog, run: AggregateId) -> None:
    revisions = await append_all(log, run, [b"1", b"2", b"3"])
    assert [stored.payload for stored in await log.read(run, revisions[0])] == [b"2", b"3"]
    assert [stored.payload for stored in await log.read(run, revisions[1] - 1)] == [b"2", b"3"]
    assert await log.read(run, revisions[2]) == []
    assert await log.read(run, revisions[2] + 1_000) == []


async def test_many_reads_at_once_get_theirs(log: EventLog, unique_id: UniqueId) -> None:
    aggregates = [AggregateId("local", "run", unique_id()) for _ in range(300)]
    for number in range(3):
        lasts = [await log.last(one) for one in aggregates]
        await asyncio.gather(
            *(
                log.append(one, b"%d %s" % (number, one.id.encode()), last.revision if last else 0)
                for one, last in zip(aggregates, lasts, strict=True)
            )
        )
    nobody = AggregateId("local", "run", unique_id())
    *found, nothing = await asyncio.gather(*(log.read(one) for one in [*aggregates, nobody]))
    assert nothing == []
    for one, entries in zip(aggregates, found, strict=True):
        assert [stored.payload for stored in entries] == [b"%d %s" % (number, one.id.encode()) for number in range(3)]
    later = await asyncio.gather(*(log.read(entries[0].aggregate, entries[1].revision) for entries in found))
    assert [len(entries) for entries in later] == [1] * 300


async def test_long_reads_at_once_from_different_revisions(log: EventLog, unique_id: UniqueId) -> None:
    one, other = (AggregateId("local", "run", unique_id()) for _ in range(2))
    first = await append_all(log, one, [b"one %d" % number for number in range(150)])
    second = await append_all(log, other, [b"other %d" % number for number in range(150)])
    positions = [(one, revision) for revision in first[::10]] + [(other, revision) for revision in second[::10]]
    found = await asyncio.gather(*(log.read(aggregate, revision) for aggregate, revision in positions))
    assert [len(entries) for entries in found] == [*range(149, 0, -10)] * 2
    assert found[0][-1].payload == b"one 149" and found[-1][-1].payload == b"other 149"


async def test_a_read_that_was_cancelled_holds_up_nobody(log: EventLog, run: AggregateId) -> None:
    await append_all(log, run, [b"x"] * 100)
    for pauses in range(12):
        reads = [asyncio.create_task(log.read(run)) for _ in range(40)]
        for _ in range(pauses):
            await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        found = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 20)
        assert all(isinstance(entries, list) and len(entries) == 100 for entries in found[1::2])


async def test_an_aggregate_without_entries_is_empty(log: EventLog, run: AggregateId) -> None:
    assert await log.read(run) == []


async def test_aggregates_with_similar_names_are_apart(log: EventLog, unique_id: UniqueId) -> None:
    name = unique_id()
    others = [("local", "run", name + "_a"), ("local", "agent", name), ("other", "run", name)]
    for other in others:
        await log.append(AggregateId(*other), b"other", 0)
    mine = AggregateId("local", "run", name)
    await log.append(mine, b"mine", 0)
    assert [stored.payload for stored in await log.read(mine)] == [b"mine"]


@pytest.mark.parametrize("stale", [0, 1, -1, 1_000])
async def test_a_wrong_revision_writes_nothing(log: EventLog, run: AggregateId, stale: int) -> None:
    first, second = await append_all(log, run, [b"1", b"2"])
    expected = {0: 0, 1: first, -1: second - 1, 1_000: second + 1_000}[stale]
    head = await log.head()
    with pytest.raises(WrongRevision):
        await log.append(run, b"3", expected)
    assert [stored.payload for stored in await log.read(run)] == [b"1", b"2"]
    assert await log.head() == head


async def test_a_new_aggregate_has_revision_zero_only(log: EventLog, run: AggregateId) -> None:
    with pytest.raises(WrongRevision):
        await log.append(run, b"1", 7)
    assert await log.read(run) == []


async def test_the_same_bytes_again_are_another_entry(log: EventLog, run: AggregateId) -> None:
    first = await log.append(run, b"same", 0)
    with pytest.raises(WrongRevision):
        await log.append(run, b"same", 0)
    assert await log.append(run, b"same", first) > first
    assert len(await log.read(run)) == 2


async def test_the_largest_entry_is_stored_read_and_followed(log: EventLog, run: AggregateId) -> None:
    head = await log.head()
    payload = b"e" * ENTRY_BYTES_MAX
    await log.append(run, payload, 0)
    assert [stored.payload == payload for stored in await log.read(run)] == [True]
    assert [stored.payload == payload for stored in await take(log, 1, head)] == [True]


async def test_a_larger_entry_is_refused(log: EventLog, run: AggregateId) -> None:
    with pytest.raises(TooLarge):
        await log.append(run, b"e" * (ENTRY_BYTES_MAX + 1), 0)
    assert await log.read(run) == []


async def test_large_histories_are_read_and_followed_whole(log: EventLog, run: AggregateId) -> None:
    head = await log.head()
    payloads = [bytes([number]) * (3 * MEGABYTE) for number in range(9)]
    await append_all(log, run, payloads)
    assert [stored.payload[:1] for stored in await log.read(run)] == [payload[:1] for payload in payloads]
    assert [stored.payload[:1] for stored in await take(log, 9, head)] == [payload[:1] for payload in payloads]


async def test_long_histories_are_read_and_followed_whole(log: EventLog, run: AggregateId) -> None:
    head = await log.head()
    payloads = [b"%d" % number for number in range(1_103)]
    revisions = await append_all(log, run, payloads)
    assert [stored.payload for stored in await log.read(run)] == payloads
    assert [stored.payload for stored in await log.read(run, revisions[99])] == payloads[100:]
    assert [stored.payload for stored in await take(log, 1_103, head)] == payloads


async def test_eight_writers_on_one_aggregate_make_one_chain(log: EventLog, run: AggregateId) -> None:
    async def write(name: int) -> None:
        written = 0
        while written < 10:
            entries = await log.read(run)
            last = entries[-1].revision if entries else 0
            try:
                await log.append(run, b"%d after %d" % (name, last), last)
                written += 1
            except WrongRevision:
                continue

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(name) for name in range(8)))
    entries = await log.read(run)
    assert len(entries) == 80
    assert all(after.payload.endswith(b"after %d" % before.revision) for before, after in pairwise(entries))


async def test_of_many_who_expect_the_same_one_wins(log: EventLog, run: AggregateId) -> None:
    outcomes = await asyncio.gather(*(log.append(run, b"%d" % n, 0) for n in range(40)), return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert sum(isinstance(outcome, WrongRevision) for outcome in outcomes) == 39
    assert [stored.revision for stored in await log.read(run)] == won


async def test_many_appends_at_once_each_get_their_revision(log: EventLog, unique_id: UniqueId) -> None:
    head = await log.head()
    aggregates = [AggregateId("local", "run", unique_id()) for _ in range(700)]
    revisions = await asyncio.gather(*(log.append(one, one.id.encode(), 0) for one in aggregates))
    followed = {stored.revision: stored for stored in await take(log, 700, head)}
    assert len(followed) == len(set(revisions)) == 700
    for revision, one in zip(revisions, aggregates, strict=True):
        assert followed[revision] == Stored(revision, one, one.id.encode())


async def test_among_many_only_the_wrong_one_fails(log: EventLog, unique_id: UniqueId) -> None:
    taken = AggregateId("local", "run", unique_id())
    await log.append(taken, b"before", 0)
    fresh = [AggregateId("local", "run", unique_id()) for _ in range(120)]
    outcomes = await asyncio.gather(
        *(log.append(one, b"x", 0) for one in [*fresh[:60], taken, *fresh[60:]]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int] * 60 + [WrongRevision] + [int] * 60
    assert [len(await log.read(one)) for one in fresh] == [1] * 120
    assert [stored.payload for stored in await log.read(taken)] == [b"before"]


async def test_a_cancelled_append_holds_up_nobody(log: EventLog, unique_id: UniqueId) -> None:
    tasks = [asyncio.create_task(log.append(AggregateId("local", "run", unique_id()), b"x", 0)) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert all(isinstance(outcome, int) for outcome in outcomes[1::2])
    more = [log.append(AggregateId("local", "run", unique_id()), b"x", 0) for _ in range(50)]
    assert len(await asyncio.wait_for(asyncio.gather(*more), 10)) == 50


async def test_whoever_is_cancelled_when_it_is_their_turn_holds_up_nobody(log: EventLog, unique_id: UniqueId) -> None:
    async def append() -> None:
        await log.append(AggregateId("local", "run", unique_id()), b"x", 0)

    async def append_and_cancel() -> None:
        await append()
        for task in others:
            task.cancel()

    for _ in range(8):
        first = asyncio.create_task(append_and_cancel())
        others = [asyncio.create_task(append()) for _ in range(7)]
        await asyncio.wait_for(first, 5)
        await asyncio.gather(*others, return_exceptions=True)


async def test_a_follower_gets_every_entry_in_order(log: EventLog, unique_id: UniqueId) -> None:
    head = await log.head()
    runs = [AggregateId("local", "run", unique_id()) for _ in range(3)]
    await asyncio.gather(*(append_all(log, one, [b"%d" % number for number in range(50)]) for one in runs))
    seen = await take(log, 150, head)
    assert [stored.revision for stored in seen] == sorted({stored.revision for stored in seen})
    for one in runs:
        assert [stored for stored in seen if stored.aggregate == one] == await log.read(one)


async def test_a_follower_gets_what_comes_later(log: EventLog, run: AggregateId) -> None:
    following = asyncio.create_task(take(log, 3, await log.head()))
    revisions: list[int] = []
    for payload in (b"1", b"2", b"3"):
        revisions += await append_all(log, run, [payload], revisions[-1] if revisions else 0)
    assert [stored.revision for stored in await following] == revisions


async def test_a_follower_begins_behind_a_revision(log: EventLog, run: AggregateId) -> None:
    revisions = await append_all(log, run, [b"1", b"2", b"3"])
    assert [stored.payload for stored in await take(log, 2, revisions[0])] == [b"2", b"3"]


async def test_a_follower_gets_the_kinds_that_it_asks_for(log: EventLog, unique_id: UniqueId) -> None:
    head, name = await log.head(), unique_id()
    for kind in ("run", "agent", "workspace", "agent"):
        await log.append(AggregateId("local", kind, unique_id()), kind.encode(), 0)
    await log.append(AggregateId("other", "workspace", name), b"other tenant", 0)
    wanted = await take(log, 3, head, ("run", "workspace"))
    assert [stored.payload for stored in wanted] == [b"run", b"workspace", b"other tenant"]
    assert [stored.payload for stored in await take(log, 2, head, ("agent",))] == [b"agent", b"agent"]


async def test_followers_do_not_disturb_one_another(log: EventLog, run: AggregateId) -> None:
    head = await log.head()
    followers = [asyncio.create_task(take(log, 20, head)) for _ in range(5)]
    revisions = await append_all(log, run, [b"x"] * 20)
    for seen in await asyncio.gather(*followers):
        assert [stored.revision for stored in seen] == revisions


async def test_a_reader_that_takes_its_time_misses_nothing(log: EventLog, run: AggregateId) -> None:
    head = await log.head()
    written = await append_all(log, run, [b"first"])
    seen: list[int] = []
    async with asyncio.timeout(30), aclosing(log.follow(head)) as batches:
        async for batch in batches:
            seen.extend(stored.revision for stored in batch)
            if len(written) == 1:
                written += await append_all(log, run, [b"x" * 20_000] * 1_500, written[0])
            if len(seen) == 1_501:
                break
    assert seen == written


async def test_a_follower_stops_when_it_is_cancelled(log: EventLog, run: AggregateId) -> None:
    batches = log.follow(await log.head())
    first = await log.append(run, b"1", 0)
    assert [stored.revision for stored in await anext(batches)] == [first]
    following = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert await log.append(run, b"2", first) > first
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "A", "a b", "-a", "a\r\nPUB", "é", "a" * 129])
def test_a_bad_token_is_no_aggregate_id(bad: str) -> None:
    for tokens in ((bad, "run", "x"), ("local", bad, "x"), ("local", "run", bad)):
        with pytest.raises(InvalidCommand):
            AggregateId(*tokens)


@pytest.mark.parametrize("bad", ["*", ">", "run.*", ""])
def test_a_bad_kind_cannot_be_followed(log: EventLog, bad: str) -> None:
    with pytest.raises(InvalidCommand):
        log.follow(0, (bad,))
    with pytest.raises(InvalidCommand):
        log.last_of_each(bad)


def test_an_aggregate_id_comes_back_from_its_subject() -> None:
    one = AggregateId("local", "agent", "fix-slug-7_implementer-2")
    assert AggregateId.of_subject(one.subject) == one


async def lasts(log: EventLog, kind: str) -> dict[AggregateId, Stored]:
    """What a look at a kind gives while nobody appends; checks that each comes once, in order, in batches."""
    seen = await look(log, kind)
    found = {stored.aggregate: stored for stored in seen}
    assert len(found) == len(seen)
    return found


async def look(log: EventLog, kind: str) -> list[Stored]:
    seen: list[Stored] = []
    async with asyncio.timeout(20), aclosing(log.last_of_each(kind)) as batches:
        async for batch in batches:
            assert batch
            seen.extend(batch)
    assert [stored.revision for stored in seen] == sorted({stored.revision for stored in seen})
    return seen


async def test_the_last_entry_of_an_aggregate(log: EventLog, run: AggregateId) -> None:
    assert await log.last(run) is None
    revisions = await append_all(log, run, [b"1", b"2", bytes(range(256)) * 4_096])
    assert await log.last(run) == Stored(revisions[-1], run, bytes(range(256)) * 4_096)
    assert await log.last(AggregateId("local", "run", run.id + "_a")) is None


async def test_the_last_of_each_of_a_kind(log: EventLog, unique_id: UniqueId) -> None:
    runs = [AggregateId("local", "run", unique_id()) for _ in range(1_103)]
    agent = AggregateId("local", "agent", unique_id())
    await asyncio.gather(*(append_all(log, one, [b"first", one.id.encode()]) for one in runs))
    await append_all(log, agent, [b"agent"])
    found = await lasts(log, "run")
    assert [found[one].payload for one in runs] == [one.id.encode() for one in runs]
    assert agent not in found and (await lasts(log, "agent"))[agent].payload == b"agent"


async def test_there_is_no_last_of_a_kind_without_aggregates(log: EventLog, empty_log: EventLog) -> None:
    assert await lasts(empty_log, "run") == {}
    assert await lasts(log, "nothing") == {}


async def test_the_last_of_each_ends_while_others_append(log: EventLog, unique_id: UniqueId) -> None:
    async def append_on() -> None:
        revision = 0
        while True:
            revision = await log.append(busy, b"x", revision)

    quiet, busy = (AggregateId("local", "run", unique_id()) for _ in range(2))
    await append_all(log, quiet, [b"1", b"2"])
    appending = asyncio.create_task(append_on())
    try:
        for _ in range(5):
            assert [stored.payload for stored in await look(log, "run") if stored.aggregate == quiet] == [b"2"]
    finally:
        appending.cancel()


async def test_what_was_acknowledged_before_is_among_the_last_of_each(log: EventLog, run: AggregateId) -> None:
    revision = 0
    for number in range(20):
        revision = await log.append(run, b"%d" % number, revision)
        assert (await lasts(log, "run"))[run].revision == revision
