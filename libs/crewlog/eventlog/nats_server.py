"""One nats-server on loopback, as a child process that ends with its parent: the launcher, tests and benches use it.

Its files are in one directory: `nats.conf`, `jetstream/`, `run/` with the ports file, `nats-server.log`. Passwords are
in its environment only; the configuration names the variables.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crewlog.domain.errors import InvalidCommand, Unavailable, WrongState
from crewlog.eventlog import bound_to_parent
from crewlog.eventlog.permissions import USERS, Permissions

LOOPBACK = "127.0.0.1"
START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 5.0
LOOK_AGAIN_SECONDS = 0.003
LAST_WORDS_BYTES = 2_000
MEMORY_SOFT_LIMIT = "512MiB"
CONFIG = "nats.conf"
LOG = "nats-server.log"
RUN = "run"

_CONFIG = """\
listen: "{host}:{port}"
server_name: crewlog
ports_file_dir: "{directory}/run"
pid_file: "{directory}/run/nats-server.pid"
max_payload: 8MB
jetstream {{
  store_dir: "{directory}/jetstream"
  max_memory_store: 256MB
  max_file_store: 100GB
  sync_interval: {sync}
  limits {{
    default_max_consumers: 20000
    batch {{ max_inflight_per_stream: 500, timeout: "5s", max_msgs: 1000 }}
  }}
}}
authorization {{
  users: [
{users}
  ]
}}
"""


def write_config(directory: Path, *, port: int = 0, sync_always: bool = True, host: str = LOOPBACK) -> Path:
    """The configuration, made anew, in a directory that is made where it is missing. Port 0 lets the server choose."""
    directory = directory.absolute()
    if any(character in str(directory) for character in '"\\\n'):
        raise InvalidCommand(f"{directory} cannot stand in a configuration file")
    for folder in (directory, directory / RUN):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / CONFIG
    users = "\n".join(_user(user, permissions) for user, permissions in USERS.items())
    text = _CONFIG.format(
        host=host, port=port or -1, directory=directory, sync="always" if sync_always else '"2m"', users=users
    )
    path.write_text(text)
    return path


def command(config: Path) -> list[str]:
    """What to execute; the server ends when the process that calls this ends. Start it from the main thread."""
    wrapper = [sys.executable, "-I", "-S", bound_to_parent.__file__, str(os.getpid())]
    return [*wrapper, str(Path(sys.executable).parent / "nats-server"), "--config", str(config)]


def environment(passwords: Mapping[str, str]) -> dict[str, str]:
    """The variables that the configuration names, by user; passwords are of A-Z, a-z, 0-9, `-` and `_`."""
    # The quotes are read by the server: without them it would take `12` for a number.
    return {"GOMEMLIMIT": MEMORY_SOFT_LIMIT, **{_variable(user): f'"{passwords[user]}"' for user in USERS}}


def new_passwords() -> dict[str, str]:
    return {user: secrets.token_urlsafe(24) for user in USERS}


@dataclass(frozen=True, slots=True)
class DirectoryLock:
    """Held until it is released, and by whoever inherits `fd`, for as long as they live."""

    fd: int

    def release(self) -> None:
        os.close(self.fd)


def lock_directory(path: Path) -> DirectoryLock:
    """An exclusive lock, which nats-server does not take itself. Raises WrongState when somebody holds it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise WrongState(f"another process uses {path}", what_to_do="stop it, or use another directory") from None
    return DirectoryLock(fd)


class NatsServer:
    """`start` makes one; `passwords` has one for each of USERS. Starting and stopping takes milliseconds and blocks."""

    def __init__(self, directory: Path, *, port: int, passwords: Mapping[str, str], sync_always: bool) -> None:
        self.directory = directory.absolute()
        self.port = port
        self.passwords = dict(passwords)
        self._sync_always = sync_always
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, data_dir: Path, *, port: int = 0, passwords: Mapping[str, str] | None = None, sync_always: bool = True
    ) -> Self:
        """A server that accepts connections. Raises Unavailable with its last words, or WrongState."""
        server = cls(data_dir, port=port, passwords=passwords or new_passwords(), sync_always=sync_always)
        server.run()
        return server

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def run(self) -> None:
        """Starts it, again on the port that it had."""
        config = write_config(self.directory, port=self.port, sync_always=self._sync_always)
        lock = lock_directory(self.directory)
        try:
            remove_stale_ports_files(self.directory)
            with (self.directory / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    command(config),
                    env={**environment(self.passwords)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(lock.fd,),
                )
        finally:
            lock.release()
        try:
            self.port = self._wait_for(self._listening_port)
            self._wait_for(lambda: is_answering(self.port))
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Asks it to stop, and waits. Doing it twice is doing it once."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listening_port(self) -> int:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            path = self.directory / RUN / f"nats-server_{self.pid}.ports"
            return int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
        return 0

    def _wait_for(self, condition: Callable[[], int]) -> int:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            found = condition()
            if found:
                return found
            self._check_running(deadline)
            time.sleep(LOOK_AGAIN_SECONDS)

    def _check_running(self, deadline: float) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Unavailable(f"nats-server ended at once: {last_words(self.directory / LOG)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"nats-server is not ready after {START_SECONDS_MAX} s: see {self.directory / LOG}")


def is_answering(port: int) -> bool:
    """Whether a nats-server greets whoever connects to the port."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1) as connection:
        return connection.recv(4) == b"INFO"
    return False


def has_ports_file(directory: Path) -> bool:
    """Whether the server in the directory has bound its ports, once stale files were removed."""
    return any((directory / RUN).glob("*.ports"))


def remove_stale_ports_files(directory: Path) -> None:
    """Removes what a killed server has left; call it while none runs in the directory."""
    for path in (directory / RUN).glob("*.ports"):
        path.unlink(missing_ok=True)


def last_words(log: Path) -> str:
    """The end of what the server has written."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        return file.read().decode(errors="replace").strip()
    return ""


def _variable(user: str) -> str:
    return f"CREWLOG_LOG_PASSWORD_{user.upper()}"


def _user(user: str, permissions: Permissions) -> str:
    rules = f"publish: {json.dumps(list(permissions.publish))}, subscribe: {json.dumps(list(permissions.subscribe))}"
    return f'    {{ user: "{user}", password: ${_variable(user)}, permissions: {{ {rules} }} }}'
