"""One child process: in a session of its own, with its log as output, and nothing of the launcher open but two files.

It inherits its lock (crewlog.cli.launcher.orphans), and the reading end of a pipe whose writing end the launcher holds:
end of file there means that the launcher is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crewlog.cli.launcher import orphans
from crewlog.cli.launcher.directory import FILE_MODE, DataDirectory


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. Every start asks for the environment anew."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Child:
    """A process that was started and not yet waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> int:
        """The exit status, or the negative number of the signal that ended it."""
        return await self._process.wait()

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    def terminate(self) -> None:
        """Asks it to stop; what it started is its own to stop."""
        if self.is_running:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it with everything in its process group."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


async def start(program: Program, directory: DataDirectory, parent_fd: int) -> Child:
    """Starts a child in the data directory: a user's directory must not lend modules to it."""
    log = _open_log(directory.log_path(program.name))
    try:
        with orphans.child_lock(_lock_path(directory, program.name)) as lock:
            process = await asyncio.create_subprocess_exec(
                *program.arguments,
                env={**program.environment, "CREWLOG_PARENT_FD": str(parent_fd)},
                cwd=directory.path,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(parent_fd, lock.fd),
            )
            lock.held_by(process.pid)
            return Child(process)
    finally:
        os.close(log)


def _lock_path(directory: DataDirectory, name: str) -> Path:
    return directory.path / "run" / f"{name}.lock"


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
