"""Streams across kills of the gateway and of nats-server: a client that comes again from its last revision has missed
nothing, has got nothing twice, and everything in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.errors import Unavailable
from crewlog.domain.run import decider as run
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.owner import Meta, Owner
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.v1.agent_pb2 import EffectKey, FinishToolCall, HostAgent, ToolOutput
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.run_pb2 import ClaimTask, EndTask, FinishRun, Node, NoopNode, StartRun, TaskResult, Workflow
from crewlog.v1.run_service_pb2 import WatchRun
from crewlog.v1.run_service_pb2_grpc import RunServiceStub

from tests.service.gateway.program import TOKEN, Program

RUN, AGENT, STEPS = "run-1", "run-1_a-1", 240
WORKFLOW = Workflow(name="noop", version="1", nodes=[Node(node_id="a", noop=NoopNode(steps=STEPS))])
SECONDS_MAX = 90.0

Watch = Callable[[grpc.aio.Channel, int], Any]


class Writer:
    """What the scheduler and an executor write of a run: every command until it is acknowledged."""

    def __init__(self, log: JetStreamLog) -> None:
        options: dict[str, Any] = {"tenant": "local", "clock": now_micros, "code_version": "test"}
        self._runs: Owner[Any] = Owner(log, run, **options)
        self._agents: Owner[Any] = Owner(log, agent, **options)

    async def begin(self) -> None:
        start = StartRun(run_id=RUN, project_id="p", workflow=WORKFLOW, input="do it", at_unix_micros=1)
        await self._handle(self._runs, RUN, start)
        await self._handle(self._runs, RUN, ClaimTask(run_id=RUN, task_id="a-1", executor_id="e-1", at_unix_micros=2))
        host = HostAgent(agent_id=AGENT, run_id=RUN, task_id="a-1", generation=1, executor_id="e-1")
        host.noop.CopyFrom(WORKFLOW.nodes[0].noop)
        await self._handle(self._agents, AGENT, host)

    async def steps(self, first: int, last: int) -> None:
        for turn in range(first, last + 1):
            key = EffectKey(turn=turn, index=0, attempt=1)
            step = FinishToolCall(agent_id=AGENT, generation=1, key=key, output=ToolOutput())
            await self._handle(self._agents, AGENT, step)

    async def end(self) -> None:
        await self._handle(self._runs, RUN, EndTask(run_id=RUN, task_id="a-1", succeeded=TaskResult()))
        await self._handle(self._runs, RUN, FinishRun(run_id=RUN, at_unix_micros=3))

    async def _handle(self, owner: Owner[Any], id: str, command: Any) -> None:
        while True:
            try:
                await owner.handle(id, command, Meta("test", "service:test", RUN))
                return
            except Unavailable:
                await asyncio.sleep(0.02)


class Client:
    """Watches, and comes again from its last revision whenever the stream breaks. `streams` have delivered an entry."""

    def __init__(self, address: str, watch: Watch) -> None:
        self._address, self._watch = address, watch
        self.entries: list[RecordedEntry] = []
        self.streams = 0

    async def follow(self) -> None:
        """Until the stream ends in order."""
        async with dial(self._address, TOKEN) as channel:
            while True:
                try:
                    await self._collect(self._watch(channel, self.last))
                    return
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                    await asyncio.sleep(0.02)

    @property
    def last(self) -> int:
        return self.entries[-1].revision if self.entries else 0

    async def _collect(self, stream: Any) -> None:
        has_delivered = False
        async for message in stream:
            if message.HasField("entry"):
                self.streams += not has_delivered
                has_delivered = True
                self.entries.append(message.entry)
                if message.entry.entry.decisions[0].events[0].HasField("run_succeeded"):
                    return


@pytest.fixture
async def log(own_nats_server: NatsServer) -> AsyncIterator[JetStreamLog]:
    log = await connect_log(own_nats_server.url, "operator", own_nats_server.passwords["operator"], name="test")
    yield log
    await log.close()


def watch_run(channel: grpc.aio.Channel, revision: int) -> Any:
    request = WatchRun(run_id=RUN, from_revision=revision, with_live=True, with_stored=True)
    return RunServiceStub(channel).Watch(request)


def watch_events(channel: grpc.aio.Channel, revision: int) -> Any:
    return EventServiceStub(channel).Watch(WatchEvents(from_revision=revision, with_stored=True))


async def kill_gateway(gateway: Program, _: NatsServer) -> None:
    await gateway.end(signal.SIGKILL)
    await gateway.start()


async def kill_nats(_: Program, nats_server: NatsServer) -> None:
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.run)


async def kill_both(gateway: Program, nats_server: NatsServer) -> None:
    await asyncio.to_thread(nats_server.kill)
    await gateway.end(signal.SIGKILL)
    await asyncio.to_thread(nats_server.run)
    await gateway.start()


async def test_fault_9_nothing_is_missed_across_kills(
    gateway: Program, own_nats_server: NatsServer, log: JetStreamLog
) -> None:
    writer = Writer(log)
    await writer.begin()
    clients = [Client(gateway.address, watch) for watch in (watch_run, watch_events)]
    following = [asyncio.create_task(client.follow()) for client in clients]
    kills = (kill_gateway, kill_nats, kill_both, kill_gateway)
    async with asyncio.timeout(SECONDS_MAX):
        for number, kill in enumerate(kills):
            first = 1 + number * (STEPS // len(kills))
            writing = asyncio.create_task(writer.steps(first, first + STEPS // len(kills) - 1))
            await _in_the_middle(clients, first)
            await kill(gateway, own_nats_server)
            await writing
        await writer.end()
        await asyncio.gather(*following)
    stored = await _all_stored(log)
    assert len(stored) == STEPS + 5
    for client in clients:
        assert client.streams > 3
        assert [(entry.revision, entry.stored) for entry in client.entries] == stored


async def _in_the_middle(clients: list[Client], entries: int) -> None:
    """Every client has got so many entries, and more are on their way."""
    while min(len(client.entries) for client in clients) < entries:
        await asyncio.sleep(0.005)


async def _all_stored(log: JetStreamLog) -> list[tuple[int, bytes]]:
    stored: list[tuple[int, bytes]] = []
    head = await log.head()
    async for batch in log.follow(0):
        stored += [(each.revision, each.payload) for each in batch]
        if stored[-1][0] >= head:
            break
    return stored
