"""Three nats-servers on loopback that hold one log together."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.domain.errors import Unavailable
from crewlog.eventlog import connection as connections
from crewlog.eventlog import nats_server
from crewlog.eventlog.connection import ApiError, NoAnswer
from crewlog.eventlog.jetstream import JetStreamLog, connect_log, create_stream

COUNT = 3
READY_SECONDS_MAX = 40.0
LOOK_AGAIN_SECONDS = 0.05

_CLUSTER = """
cluster {{
  name: crewlog
  listen: "127.0.0.1:{port}"
  routes: [{routes}]
}}
"""


@dataclass
class Replicas:
    """`kill` and `run` go by the number of the server, from 0."""

    directory: Path
    passwords: dict[str, str] = field(default_factory=nats_server.new_passwords)
    ports: list[int] = field(default_factory=list)
    cluster_ports: list[int] = field(default_factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def url(self, number: int) -> str:
        return f"nats://{nats_server.LOOPBACK}:{self.ports[number]}"

    def run(self, number: int) -> None:
        directory = self.directory / str(number)
        config = nats_server.write_config(directory, port=self.ports[number])
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.cluster_ports)
        text = config.read_text().replace("server_name: crewlog", f"server_name: {name_of(number)}")
        config.write_text(text + _CLUSTER.format(port=self.cluster_ports[number], routes=routes))
        with (directory / nats_server.LOG).open("ab") as log:
            self.processes[number] = subprocess.Popen(
                nats_server.command(config),
                env=nats_server.environment(self.passwords),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, number: int) -> None:
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    async def connect(self, number: int, user: str = "operator") -> JetStreamLog:
        return await connect_log(self.url(number), user, self.passwords[user], name="test")

    async def leader(self, through: int) -> int:
        """Who leads the log now."""
        admin = await connections.connect(self.url(through), "operator", self.passwords["operator"], name="admin")
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                while True:
                    try:
                        info = await admin.api("STREAM.INFO.EVENTS_test", {})
                        if leader := info["cluster"].get("leader"):
                            return int(leader.removeprefix("crewlog-"))
                    except (ApiError, NoAnswer):
                        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        finally:
            await admin.close()


@contextmanager
def running(directory: Path) -> Iterator[Replicas]:
    """Three servers with an empty log of three replicas."""
    with free_ports(2 * COUNT) as ports:
        replicas = Replicas(directory, ports=ports[:COUNT], cluster_ports=ports[COUNT:])
    try:
        for number in range(COUNT):
            replicas.run(number)
        asyncio.run(_until_made(replicas))
        yield replicas
    finally:
        for number in list(replicas.processes):
            replicas.kill(number)


async def _until_made(replicas: Replicas) -> None:
    async with asyncio.timeout(READY_SECONDS_MAX):
        while not await _is_made(replicas):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _is_made(replicas: Replicas) -> bool:
    """The servers have to find each other and to agree on a leader first."""
    try:
        await create_stream(replicas.url(0), "operator", replicas.passwords["operator"], "test", replicas=COUNT)
    except Unavailable:
        return False
    return True


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((nats_server.LOOPBACK, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    yield ports


def name_of(number: int) -> str:
    return f"crewlog-{number}"
