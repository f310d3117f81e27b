"""A service with several addresses: callers find whoever serves, and turn away from whoever is gone or frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest
from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.runtime.channel import dial, target_of
from crewlog.runtime.limits import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS, RECONNECT_MILLIS_MAX
from crewlog.runtime.serve import RunningServer, Verifier, start_server
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

LOOK_AGAIN_SECONDS = 0.02
SLACK_SECONDS = 4.0
TRIES_MAX = 3
SERVES = """
import asyncio, sys
from crewlog.runtime import serve
async def main(stop):
    server = await serve.start_server([], address=sys.argv[1], verifier=serve.Verifier())
    await stop.wait()
    await server.stop()
serve.run(main)
"""


def free_addresses() -> tuple[str, str]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{other.getsockname()[1]}"


@asynccontextmanager
async def server_at(address: str) -> AsyncIterator[RunningServer]:
    server = await start_server([], address=address, verifier=Verifier(), drain_seconds=0)
    yield server
    await server.stop()


async def answers(channel: grpc.aio.Channel) -> bool:
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=KEEPALIVE_SECONDS * 4)
    except Unavailable:
        return False
    return True


async def seconds_until_answered(channel: grpc.aio.Channel) -> float:
    began = time.monotonic()
    async with asyncio.timeout(60):
        while not await answers(channel):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("scheduler:7700", "scheduler:7700"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_one_address_or_several(addresses: str, target: str) -> None:
    assert target_of(addresses) == target


@pytest.mark.parametrize("addresses", ["a:1,b:2", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,", "127.0.0.1,127.0.0.2:2"])
def test_what_cannot_stand_in_a_list_is_refused(addresses: str) -> None:
    with pytest.raises(InvalidCommand):
        target_of(addresses)


async def test_whoever_serves_is_found() -> None:
    addresses = free_addresses()
    async with dial(",".join(addresses), "") as channel:
        for address in addresses:
            async with server_at(address):
                assert await seconds_until_answered(channel) < RECONNECT_MILLIS_MAX / 1e3 + SLACK_SECONDS


async def test_the_next_one_is_found_soon_after_it_has_started() -> None:
    """Also when nobody was there for so long that callers try again seldom. One of several tries has to show it."""
    one, other = free_addresses()
    tries = [await seconds_until_found(one, other)]
    while min(tries) > RECONNECT_MILLIS_MAX / 1e3 + 1 and len(tries) < TRIES_MAX:
        tries.append(await seconds_until_found(one, other))
    assert min(tries) < RECONNECT_MILLIS_MAX / 1e3 + 1


async def seconds_until_found(one: str, other: str) -> float:
    async with dial(f"{one},{other}", "") as channel:
        async with server_at(one):
            await seconds_until_answered(channel)
        lonely_since = time.monotonic()
        while time.monotonic() - lonely_since < 3.0:
            assert not await answers(channel)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        async with server_at(other):
            return await seconds_until_answered(channel)


@pytest.mark.slow
async def test_one_that_is_frozen_is_left() -> None:
    one, other = free_addresses()
    with process_at(one) as process:
        async with dial(f"{one},{other}", "") as channel:
            await seconds_until_answered(channel)
            os.kill(process.pid, signal.SIGSTOP)
            async with server_at(other):
                seconds = await seconds_until_answered(channel)
    assert seconds < KEEPALIVE_SECONDS + KEEPALIVE_TIMEOUT_SECONDS + 2 * SLACK_SECONDS


@pytest.mark.slow
async def test_a_quiet_connection_is_kept() -> None:
    """Asking whether somebody is there is not too much for who is asked."""
    one, other = free_addresses()
    async with server_at(one), server_at(other), dial(f"{one},{other}", "") as channel:
        await seconds_until_answered(channel)
        until = time.monotonic() + 4 * KEEPALIVE_SECONDS
        while time.monotonic() < until:
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


@contextmanager
def process_at(address: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen((sys.executable, "-c", SERVES, address))
    try:
        yield process
    finally:
        process.kill()
        process.wait()
