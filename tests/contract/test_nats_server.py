"""The nats-server that we start: its end, its lock, its secrets, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from crewlog.domain.errors import NotAuthenticated, Unavailable, WrongState
from crewlog.eventlog import connection as connections
from crewlog.eventlog.nats_server import NatsServer, lock_directory, new_passwords
from crewlog.eventlog.permissions import USERS

Until = Callable[[Callable[[], bool]], Awaitable[None]]

_PARENT = """
import sys, time
from pathlib import Path
from crewlog.eventlog.nats_server import NatsServer
server = NatsServer.start(Path(sys.argv[1]))
print(server.pid, flush=True)
while True:
    time.sleep(1)
"""


def is_running(pid: int) -> bool:
    """A process that has ended and that nobody has waited for does not run."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_free(directory: Path) -> bool:
    """The last thread of a process that was killed holds its files."""
    with contextlib.suppress(WrongState):
        lock_directory(directory).release()
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux only")
async def test_it_dies_with_its_parent(tmp_path: Path, until: Until) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", _PARENT, str(tmp_path), stdout=PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_running(pid)
    with pytest.raises(WrongState):
        lock_directory(tmp_path)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_running(pid) and is_free(tmp_path))


def test_two_servers_cannot_share_a_directory(own_nats_server: NatsServer) -> None:
    with pytest.raises(WrongState):
        NatsServer.start(own_nats_server.directory)


def test_a_directory_is_locked_once(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path)
    with pytest.raises(WrongState):
        lock_directory(tmp_path)
    lock.release()
    lock_directory(tmp_path).release()


def test_it_comes_back_on_its_port_whatever_a_crash_has_left(own_nats_server: NatsServer) -> None:
    port = own_nats_server.port
    own_nats_server.kill()
    assert list((own_nats_server.directory / "run").glob("*.ports"))
    own_nats_server.run()
    assert own_nats_server.port == port
    own_nats_server.stop()
    own_nats_server.stop()
    assert own_nats_server.pid == 0


def test_no_password_is_in_a_file_or_in_the_arguments(own_nats_server: NatsServer) -> None:
    arguments = Path(f"/proc/{own_nats_server.pid}/cmdline").read_bytes()
    files = [path.read_bytes() for path in own_nats_server.directory.rglob("*") if path.is_file()]
    for password in own_nats_server.passwords.values():
        assert not any(password.encode() in content for content in (arguments, *files))


@pytest.mark.parametrize("password", ["12", "-1", "1e5", "true", "10MB", "_", "A-b_9"])
async def test_every_password_is_text(tmp_path: Path, password: str) -> None:
    server = NatsServer.start(tmp_path / "nats", passwords=new_passwords() | {"git": password})
    try:
        connection = await connections.connect(server.url, "git", password, name="test")
        await connection.close()
    finally:
        server.stop()


@pytest.mark.parametrize("user", [*USERS, "nobody"])
async def test_a_wrong_password_is_refused_at_once(nats_server: NatsServer, user: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(NotAuthenticated):
            await connections.connect(nats_server.url, user, "wrong", name="test")


def test_it_says_why_it_does_not_start(nats_server: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="address already in use"):
        NatsServer.start(tmp_path / "nats", port=nats_server.port)


def test_it_listens_on_loopback_only(nats_server: NatsServer) -> None:
    assert nats_server.url.startswith("nats://127.0.0.1:")
    sockets = Path(f"/proc/{nats_server.pid}/net/tcp").read_text()
    listening = [line.split()[1] for line in sockets.splitlines() if line.split()[3] == "0A"]
    mine = [address for address in listening if address.endswith(f":{nats_server.port:04X}")]
    assert mine == [f"0100007F:{nats_server.port:04X}"]
