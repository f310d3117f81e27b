"""A server starts, says whether it is ready, ends its streams and stops; a process ends with its launcher."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from crewlog.domain.errors import Unavailable
from crewlog.runtime import status
from crewlog.runtime.channel import dial
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.v1.events_pb2 import GetStatus, PlatformStatus, WatchEvents, WatchEventsMessage
from crewlog.v1.events_pb2_grpc import EventServiceServicer, EventServiceStub, add_EventServiceServicer_to_server
from crewlog.v1.run_service_pb2 import Heartbeat
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

TOKEN = "client-token"


class Endless(EventServiceServicer):
    """`Watch` sends one heartbeat and goes on for ever; `Status` answers when it is let go."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.let_go = asyncio.Event()
        self.asked = asyncio.Event()

    async def Watch(self, request: WatchEvents, context: Any) -> AsyncIterator[WatchEventsMessage]:
        try:
            yield WatchEventsMessage(heartbeat=Heartbeat(revision=7))
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def Status(self, request: GetStatus, context: Any) -> PlatformStatus:
        self.asked.set()
        await self.let_go.wait()
        return PlatformStatus(head_revision=7)

    async def ReadBlob(self, request: Any, context: Any) -> Any: ...


async def serve(servicer: Endless, address: str = "127.0.0.1:0", **options: Any) -> RunningServer:
    registration = Registration("crewlog.v1.EventService", add_EventServiceServicer_to_server, servicer, Access.CLIENT)
    return await start_server([registration], address=address, verifier=Verifier(TOKEN), **options)


async def test_streams_end_at_once_when_the_server_stops() -> None:
    servicer = Endless()
    server = await serve(servicer, drain_seconds=60)
    async with dial(server.address, TOKEN) as channel:
        streams = [EventServiceStub(channel).Watch(WatchEvents()) for _ in range(20)]
        for stream in streams:
            assert (await anext(aiter(stream))).heartbeat.revision == 7
        started = time.monotonic()
        await server.stop()
        assert time.monotonic() - started < 30
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(stream))
            refusal = status.refusal_of(caught.value)
            assert isinstance(refusal, Unavailable)
            assert "connect again" in refusal.what_to_do
    assert server.stopping.is_set() and servicer.left.is_set()


async def test_calls_finish_while_the_server_stops() -> None:
    servicer = Endless()
    server = await serve(servicer, drain_seconds=10)
    async with dial(server.address, TOKEN) as channel:

        async def ask() -> PlatformStatus:
            return await EventServiceStub(channel).Status(GetStatus())

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(servicer.asked.wait(), 5)
        stopping = asyncio.create_task(server.stop())
        await asyncio.wait_for(server.stopping.wait(), 5)
        servicer.let_go.set()
        assert (await asyncio.wait_for(asking, 5)).head_revision == 7
        await asyncio.wait_for(stopping, 5)


async def test_a_call_that_does_not_finish_is_cut_off_after_the_drain_time() -> None:
    servicer = Endless()
    server = await serve(servicer, drain_seconds=0.2)
    async with dial(server.address, TOKEN) as channel:

        async def ask() -> PlatformStatus:
            return await EventServiceStub(channel).Status(GetStatus())

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(servicer.asked.wait(), 5)
        await asyncio.wait_for(server.stop(), 5)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(asking, 5)


async def test_a_client_that_leaves_ends_its_stream_on_the_server() -> None:
    servicer = Endless()
    server = await serve(servicer)
    async with dial(server.address, TOKEN) as channel:
        stream = EventServiceStub(channel).Watch(WatchEvents())
        await anext(aiter(stream))
        stream.cancel()
        await asyncio.wait_for(servicer.left.wait(), 5)
    await server.stop()


async def test_stopping_twice_is_stopping_once() -> None:
    server = await serve(Endless())
    await asyncio.gather(server.stop(), server.stop())
    await server.stop()


async def test_health_says_whether_the_service_is_ready() -> None:
    states = health_pb2.HealthCheckResponse
    server = await serve(Endless(), ready=False)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == states.NOT_SERVING
        await server.set_ready(True)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == states.SERVING
    await server.stop()


async def test_a_port_that_is_taken_is_said_so() -> None:
    server = await serve(Endless())
    with pytest.raises(OSError, match="cannot listen"):
        await serve(Endless(), server.address)
    await server.stop()


PROGRAM = """
import asyncio, sys
from crewlog.runtime import log, serve
async def main(stop):
    print("running", flush=True)
    await stop.wait()
    {after}
    print("stopped", flush=True)
log.configure("test")
sys.exit(serve.run(main))
"""


def start(after: str = "pass", **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(after=after)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert process.stdout and process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_in_order(number: signal.Signals) -> None:
    process = start()
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("stopped\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("after", "output", "status"),
    [
        ("pass", "stopped\n", 0),
        pytest.param("__import__('time').sleep(60)", "", 1, marks=pytest.mark.slow),
    ],
    ids=["in order", "stuck"],
)
def test_the_end_of_the_launcher_ends_the_service(after: str, output: str, status: int) -> None:
    reading, writing = os.pipe()
    environment = {**os.environ, "CREWLOG_PARENT_FD": str(reading)}
    process = start(after, pass_fds=[reading], env=environment)
    os.close(reading)
    os.close(writing)
    assert process.communicate(timeout=15) == (output, "")
    assert process.returncode == status


def test_a_service_that_fails_says_why_in_its_log() -> None:
    process = start("raise ValueError('no disk')")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    line = json.loads(errors.splitlines()[-1])
    assert process.returncode == 1
    assert (line["service"], line["level"], line["message"]) == ("test", "critical", "the process ends: no disk")
    assert "Traceback" in line["traceback"]
