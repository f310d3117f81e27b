"""The gateway as a process of its own on the real log: it gets ready, answers, is killed, comes back and stops."""

from __future__ import annotations

import secrets
import signal
import time

import grpc
import pytest
from crewlog.domain.errors import Unavailable
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import AggregateId
from crewlog.runtime.channel import dial
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, Event
from crewlog.v1.events_pb2 import GetStatus, WatchEvents
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.project_pb2 import GetProject, ProjectRegistered, RegisterProject
from crewlog.v1.project_pb2_grpc import ProjectServiceStub

from tests.service.gateway.program import TOKEN, Program


async def register(nats_server: NatsServer, project_id: str) -> int:
    """Appends what the gateway would, had it a git service to ask."""
    fact = ProjectRegistered(project_id=project_id, path=f"/repos/{project_id}")
    entry = Entry(
        aggregate=Aggregate(tenant="local", kind="project", id=project_id),
        ordinal=1,
        decisions=[Decision(events=[Event(project_registered=fact)])],
    )
    log = await connect_log(nats_server.url, "operator", nats_server.passwords["operator"], name="test")
    revision = await log.append(AggregateId("local", "project", project_id), entry.SerializeToString(), 0)
    await log.close()
    return revision


async def test_it_answers_from_the_log_and_comes_back_after_a_kill(
    gateway: Program, own_nats_server: NatsServer
) -> None:
    project_id = f"p{secrets.token_hex(6)}"
    revision = await register(own_nats_server, project_id)
    async with dial(gateway.address, TOKEN) as channel:
        question = GetProject(project_id=project_id, at_least_revision=revision)
        assert (await ProjectServiceStub(channel).Get(question)).path == f"/repos/{project_id}"
    await gateway.end(signal.SIGKILL)
    later = await register(own_nats_server, f"{project_id}-2")
    await gateway.start()
    async with dial(gateway.address, TOKEN) as channel:
        status = await EventServiceStub(channel).Status(GetStatus())
        assert status.projected_revision >= later
        assert (await ProjectServiceStub(channel).Get(question)).revision == revision


async def test_without_git_it_says_so_and_appends_nothing(gateway: Program) -> None:
    async with dial(gateway.address, TOKEN) as channel:
        head = (await EventServiceStub(channel).Status(GetStatus())).head_revision
        with pytest.raises(Unavailable):
            await ProjectServiceStub(channel).Register(RegisterProject(path="/repos/slug"))
        assert (await EventServiceStub(channel).Status(GetStatus())).head_revision == head


async def test_it_stops_in_order_with_streams_open(gateway: Program, own_nats_server: NatsServer) -> None:
    await register(own_nats_server, f"p{secrets.token_hex(6)}")
    async with dial(gateway.address, TOKEN) as channel:
        streams = [EventServiceStub(channel).Watch(WatchEvents()) for _ in range(10)]
        for stream in streams:
            await anext(aiter(stream))
        started = time.monotonic()
        assert await gateway.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < 8
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                async for _ in stream:
                    pass
