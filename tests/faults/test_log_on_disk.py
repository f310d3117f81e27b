"""What happens to the files of the log: full, damaged, cut off, put back from an older copy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from crewlog.domain.errors import Unavailable, WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run.state import Run
from crewlog.eventlog import connection as connections
from crewlog.eventlog import following
from crewlog.eventlog.connection import Connection
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.owner import Meta, Owner
from crewlog.eventlog.port import AggregateId
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import Node, NoopNode, PauseRun, ResumeRun, StartRun, Workflow

RUN = AggregateId("local", "run", "r")
WORKFLOW = Workflow(name="w", nodes=[Node(node_id="a", noop=NoopNode(steps=1))])
META = Meta("command", "test", correlation_id="")
FULL_BYTES = 64 * 1024
Open = Callable[[], Awaitable[JetStreamLog]]


@pytest.fixture
async def open_log(own_nats_server: NatsServer) -> AsyncIterator[Open]:
    """`await open_log()`: a connection to the server as it is now."""
    logs: list[JetStreamLog] = []

    async def connect() -> JetStreamLog:
        logs.append(
            await connect_log(own_nats_server.url, "operator", own_nats_server.passwords["operator"], name="test")
        )
        return logs[-1]

    yield connect
    for log in logs:
        await log.close()


@pytest.fixture
async def admin(own_nats_server: NatsServer) -> AsyncIterator[Connection]:
    server = own_nats_server
    connection = await connections.connect(server.url, "operator", server.passwords["operator"], name="admin")
    yield connection
    await connection.close()


def owner(log: JetStreamLog) -> Owner[Run]:
    return Owner(log, run, tenant="local", clock=lambda: 1, code_version="test")


async def filled(log: JetStreamLog, count: int) -> list[int]:
    """The revisions of so many entries of one run."""
    revisions = [0]
    for number in range(count):
        revisions.append(await log.append(RUN, b"entry %04d " % number + b"x" * 100, revisions[-1]))
    return revisions[1:]


async def limit(admin: Connection, bytes_max: int) -> None:
    config = (await admin.api("STREAM.INFO.EVENTS_test", {}))["config"]
    await admin.api("STREAM.UPDATE.EVENTS_test", config | {"max_bytes": bytes_max})


async def test_fault_28_a_full_log_refuses_keeps_what_it_has_and_goes_on_with_room(
    open_log: Open, admin: Connection
) -> None:
    log = await open_log()
    await limit(admin, FULL_BYTES)
    revisions = [0]
    with pytest.raises(Unavailable, match="does not take entries"):
        while True:
            revisions.append(await log.append(RUN, b"x" * 1000, revisions[-1]))
    others = [AggregateId("local", "run", f"r{number}") for number in range(100)]
    outcomes = await asyncio.gather(*(log.append(other, b"x" * 1000, 0) for other in others), return_exceptions=True)
    stored = [len(await log.read(other)) for other in others]
    assert stored == [int(isinstance(outcome, int)) for outcome in outcomes]
    assert 0 in stored and {type(outcome) for outcome in outcomes} <= {int, Unavailable}
    assert [one.revision for one in await log.read(RUN)] == revisions[1:]
    await limit(admin, -1)
    assert await log.append(RUN, b"after it", revisions[-1]) > revisions[-1]


def block_of(server: NatsServer) -> Path:
    [block] = server.directory.glob("jetstream/**/EVENTS_test/msgs/1.blk")
    return block


def _flip(block: Path, place: int) -> None:
    content = bytearray(block.read_bytes())
    content[place] ^= 1
    block.write_bytes(content)


def _cut(block: Path, place: int) -> None:
    block.write_bytes(block.read_bytes()[:place])


@pytest.mark.parametrize("harm", [_flip, _cut])
async def test_fault_30_an_end_that_is_lost_to_damage_is_noticed_before_anything_is_read(
    own_nats_server: NatsServer, open_log: Open, harm: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cuts off what follows the damage when it starts after a crash, and says nothing."""
    monkeypatch.setattr(following, "BEHIND_SECONDS_MAX", 0.2)
    revisions = await filled(await open_log(), 100)
    own_nats_server.kill()
    block = block_of(own_nats_server)
    harm(block, block.read_bytes().index(b"entry 0050") + 20)
    own_nats_server.run()
    log = await open_log()
    assert await log.head() == revisions[49]
    async with aclosing(log.follow(revisions[-1])) as batches:
        with pytest.raises(WrongState, match=f"ends at revision {revisions[49]}, and was read up to {revisions[-1]}"):
            await anext(batches)


async def test_fault_30_an_entry_that_cannot_be_read_is_named_and_only_its_run_stands_still(
    own_nats_server: NatsServer, open_log: Open
) -> None:
    """After an orderly stop the server knows its end; it leaves out what is damaged, and says nothing."""
    at_work = owner(await open_log())
    for run_id in ("damaged", "other"):
        await at_work.handle(run_id, StartRun(run_id=run_id, workflow=WORKFLOW, budget=Limit(usd_micros=1)), META)
        for number in range(10):
            pause = PauseRun(run_id=run_id, reason=f"pause {number} of {run_id}")
            await at_work.handle(run_id, pause if number % 2 else ResumeRun(run_id=run_id), META)
            await at_work.handle(run_id, ResumeRun(run_id=run_id), META)
    own_nats_server.stop()
    block = block_of(own_nats_server)
    _flip(block, block.read_bytes().index(b"pause 5 of damaged"))
    own_nats_server.run()
    after = owner(await open_log())
    with pytest.raises(WrongState, match="run damaged is damaged in the log: entry 7 does not follow entry 5"):
        await after.handle("damaged", PauseRun(run_id="damaged"), META)
    assert (await after.handle("other", PauseRun(run_id="other"), META)).events


async def test_fault_32_a_log_that_was_put_back_from_an_older_copy_is_not_followed(
    own_nats_server: NatsServer, open_log: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BEHIND_SECONDS_MAX", 0.2)
    log = await open_log()
    async with aclosing(log.follow(0)) as batches:
        first = await filled(log, 10)
        own_nats_server.stop()
        files = own_nats_server.directory / "jetstream"
        shutil.copytree(files, tmp_path / "older")
        own_nats_server.run()
        last = first[-1]
        for number in range(10):
            last = await log.append(RUN, b"later %d" % number, last)
        while (await anext(batches))[-1].revision < last:
            pass
        own_nats_server.stop()
        shutil.rmtree(files)
        shutil.copytree(tmp_path / "older", files)
        own_nats_server.run()
        with pytest.raises(WrongState, match=f"ends at revision {first[-1]}, and was read up to {last}"):
            await anext(batches)


async def test_fault_38_half_a_batch_is_as_if_it_had_never_been_sent(open_log: Open, admin: Connection) -> None:
    log = await open_log()
    stream = {"Nats-Expected-Stream": "EVENTS_test"}
    for number in range(1, 4):
        headers = {"Nats-Batch-Id": "half", "Nats-Batch-Sequence": str(number), **stream}
        await admin.publish(RUN.subject, b"half", headers=headers)
    await admin.client.flush()
    assert (await log.read(RUN), await log.head()) == ([], 0)
    assert [stored.payload for stored in await log.read(RUN, await log.append(RUN, b"whole", 0) - 1)] == [b"whole"]


async def test_fault_38_a_batch_that_is_too_long_is_refused_whole(admin: Connection, open_log: Open) -> None:
    log = await open_log()
    for number in range(1, 1002):
        headers = {"Nats-Batch-Id": "long", "Nats-Batch-Sequence": str(number)}
        await admin.publish(f"crewlog.events.local.run.r{number}", b"x", headers=headers)
    await admin.client.flush()
    assert await log.head() == 0
