"""The gateway as a process of its own on the real log: it gets ready, answers, is killed, comes back and stops."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from crewlog.domain.errors import Unavailable
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import AggregateId
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, Event
from crewlog.v1.events_pb2 import GetStatus, WatchEvents
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.project_pb2 import GetProject, ProjectRegistered, RegisterProject
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

TOKEN = "client-token"


class Program:
    """Starts and stops the process; the address stays."""

    def __init__(self, directory: Path, nats_server: NatsServer) -> None:
        keys = auth.new_keypair()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "CREWLOG_DATA_DIR": str(directory),
            "CREWLOG_NATS_URL": nats_server.url,
            "CREWLOG_NATS_USER": "gateway",
            "CREWLOG_NATS_PASSWORD": nats_server.passwords["gateway"],
            "CREWLOG_GATEWAY_ADDRESS": self.address,
            "CREWLOG_SCHEDULER_ADDRESS": "127.0.0.1:1",
            "CREWLOG_GIT_ADDRESS": "127.0.0.1:1",
            "CREWLOG_CLIENT_TOKEN": TOKEN,
            "CREWLOG_SERVICE_TOKEN": auth.mint_service_token(keys.signing_key, "gateway"),
            "CREWLOG_SERVICE_VERIFY_KEY": keys.verify_key,
            "CREWLOG_CLAIM_VERIFY_KEY": auth.new_keypair().verify_key,
        }
        self.process: Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "crewlog.gateway")
        self.process = await asyncio.create_subprocess_exec(*command, env=self._environment)
        async with asyncio.timeout(20), grpc.aio.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            answer = await stub.Check(request, wait_for_ready=True)
            while answer.status != health_pb2.HealthCheckResponse.SERVING:
                answer = await stub.Check(request, wait_for_ready=True)

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)


@pytest.fixture
async def gateway(tmp_path: Path, own_nats_server: NatsServer) -> AsyncIterator[Program]:
    """On a log of its own: others append to the shared one what is no entry."""
    gateway = Program(tmp_path, own_nats_server)
    await gateway.start()
    yield gateway
    if gateway.process is not None and gateway.process.returncode is None:
        await gateway.end(signal.SIGKILL)


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
        assert time.monotonic() - started < 5
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                async for _ in stream:
                    pass
