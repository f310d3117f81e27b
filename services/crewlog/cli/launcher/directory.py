"""The data directory: who holds it, the local client's token, and where the platform answers.

    lock             held by the launcher as long as it lives; holds its process id
    token            of the local client, 0600
    endpoints.json   written when everything is ready, removed at the end; stale after a crash, so ask `holder` first
    epoch            of the log that was made here
    run/             locks that the children hold (crewlog.cli.launcher.orphans), and the ports of the last start
    logs/ nats/ blobs/ git/ gateway/ scheduler/

Everything in it is for its owner alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crewlog.domain.errors import InvalidCommand, WrongState

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
FOLDERS = ("run", "logs")
LOCK = "lock"
GLANCE_SECONDS_MAX = 0.2


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`pid` is the launcher's, `pids` are those of its children by name."""

    gateway: str
    pid: int
    pids: dict[str, int] = field(default_factory=dict)


class DataDirectory:
    """Paths and small files. Only the launcher, which holds the lock, writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    @property
    def endpoints_path(self) -> Path:
        return self.path / "endpoints.json"

    def log_path(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def lock(self) -> DirectoryLock:
        """Makes the directory where it is missing and takes it; raises WrongState, naming the process that has it."""
        _check(self.path)
        self.path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        lock = DirectoryLock(self)
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            folder.chmod(DIRECTORY_MODE)
        return lock

    def holder(self) -> int:
        """The process that holds the directory now; 0 for nobody."""
        try:
            fd = os.open(self.path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            return 0 if try_lock(fd) else read_pid(fd)
        finally:
            os.close(fd)

    def token(self) -> str:
        """The client's token, made at the first start; it stays the same."""
        with suppress(FileExistsError):
            fd = os.open(self.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_urlsafe(32))
        self.token_path.chmod(FILE_MODE)
        return self.read_token()

    def read_token(self) -> str:
        """Empty when there is none yet."""
        with suppress(FileNotFoundError):
            return self.token_path.read_text().strip()
        return ""

    def write_endpoints(self, endpoints: Endpoints) -> None:
        """Readers see the old file or the new one, never a part of it."""
        self._write_json(self.endpoints_path, asdict(endpoints))

    def read_endpoints(self) -> Endpoints | None:
        """None where there are none, or where something else stands in the file."""
        try:
            return Endpoints(**json.loads(self.endpoints_path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def remove_endpoints(self) -> None:
        self.endpoints_path.unlink(missing_ok=True)

    def read_ports(self) -> dict[str, int]:
        """Those of the last start, so that clients find the platform where it was."""
        with suppress(FileNotFoundError, ValueError):
            return {str(name): int(port) for name, port in json.loads(self._ports_path.read_text()).items()}
        return {}

    def write_ports(self, ports: Mapping[str, int]) -> None:
        self._write_json(self._ports_path, dict(ports))

    def read_epoch(self) -> str:
        """That of the log which was made here; empty before the first start."""
        with suppress(FileNotFoundError):
            return (self.path / "epoch").read_text().strip()
        return ""

    def write_epoch(self, epoch: str) -> None:
        self._write(self.path / "epoch", epoch + "\n")

    @property
    def _ports_path(self) -> Path:
        return self.path / "run" / "ports.json"

    def _write_json(self, path: Path, content: dict[str, object] | dict[str, int]) -> None:
        self._write(path, json.dumps(content, indent=2) + "\n")

    def _write(self, path: Path, text: str) -> None:
        fd, name = tempfile.mkstemp(dir=self.path, prefix=".new-")
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)


class DirectoryLock:
    """Held until `release`, or until the process is gone in whatever way. No child inherits it."""

    def __init__(self, directory: DataDirectory) -> None:
        self._fd = os.open(directory.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        if not _try_lock_for(self._fd, GLANCE_SECONDS_MAX):
            pid = read_pid(self._fd)
            os.close(self._fd)
            raise WrongState(
                f"crewlog is already running on {directory.path} (process {pid})",
                what_to_do=f"stop it with `crewlog down --data-dir {directory.path}`, or give another --data-dir",
            )
        write_pid(self._fd, os.getpid())

    def release(self) -> None:
        os.close(self._fd)


def try_lock(fd: int) -> bool:
    """Takes the lock of an open file unless somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_for(fd: int, seconds: float) -> bool:
    """Again for a moment: a command that looks whether somebody runs here takes the lock to find out."""
    deadline = time.monotonic() + seconds
    while not try_lock(fd):
        if time.monotonic() > deadline:
            return False
        time.sleep(seconds / 20)
    return True


def read_pid(fd: int) -> int:
    """The process id in the file; 0 when it was not written yet."""
    text = os.pread(fd, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdecimal() else 0


def write_pid(fd: int, pid: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{pid}\n".encode(), 0)


def _check(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InvalidCommand(f"{path} is not a directory", what_to_do="give another --data-dir")
    if path.is_dir() and not (path / LOCK).exists() and any(path.iterdir()):
        raise InvalidCommand(
            f"{path} is not empty, and is no data directory of crewlog", what_to_do="give a new or empty --data-dir"
        )
