"""A real nats-server for the whole session, logs in memory and on that server, and waiting for conditions."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from crewlog.eventlog.jetstream import JetStreamLog, connect_log, create_stream
from crewlog.eventlog.jetstream_leases import create_leases
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import EventLog
from hypothesis import HealthCheck, settings

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[..., Awaitable[JetStreamLog]]
UNTIL_SECONDS_MAX = 15.0

# An example is right or wrong; how long it takes depends on what else this machine does.
settings.register_profile("crewlog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("crewlog")


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """What a shell starts in the background ignores interrupts, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server with one log, which all tests share: use aggregate ids of your own, and never stop it."""
    server = start_with_log(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with an empty log, for tests that kill it."""
    server = start_with_log(tmp_path / "nats")
    yield server
    server.stop()


@pytest.fixture
async def connect(nats_server: NatsServer) -> AsyncIterator[Connect]:
    """`await connect("scheduler")`: a log of the shared server, closed at the end of the test."""
    logs: list[JetStreamLog] = []

    async def connect_as(user: str = "operator") -> JetStreamLog:
        logs.append(await connect_log(nats_server.url, user, nats_server.passwords[user], name=f"test-{user}"))
        return logs[-1]

    yield connect_as
    for log in logs:
        await log.close()


@pytest.fixture
async def jetstream_log(connect: Connect) -> JetStreamLog:
    """A log on the shared server, as a user who may do everything."""
    return await connect("operator")


@pytest.fixture(params=["memory", "jetstream"])
def log(request: pytest.FixtureRequest) -> EventLog:
    """Every adapter in turn. What other tests have appended may be in it: use ids of your own, follow from `head`."""
    adapter: EventLog = MemoryLog() if request.param == "memory" else request.getfixturevalue("jetstream_log")
    return adapter


@pytest.fixture
def unique_id() -> Callable[[], str]:
    """Ids that no other test uses."""
    return lambda: f"t{secrets.token_hex(6)}"


@pytest.fixture
def until() -> Until:
    """`await until(lambda: done)`: waits for a condition, and fails when it does not come."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while not condition():
                await asyncio.sleep(0.005)

    return wait


def start_with_log(directory: Path) -> NatsServer:
    server = NatsServer.start(directory, sync_always=False)
    asyncio.run(create_stream(server.url, "operator", server.passwords["operator"], "test"))
    asyncio.run(create_leases(server.url, "operator", server.passwords["operator"]))
    return server
