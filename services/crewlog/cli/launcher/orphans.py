"""Children that outlive a launcher which was killed.

A child holds the lock of `run/<name>.lock` as long as it lives: it inherits the locked file, and nobody else has it
open. So a lock that is taken proves that the process named in the file still lives, whatever became of process ids
since.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crewlog.cli.launcher.directory import FILE_MODE, read_pid, try_lock, write_pid
from crewlog.domain.errors import WrongState

ORPHAN_SECONDS_MAX = 10.0
LOOK_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ChildLock:
    """The lock of one child, on its way to it."""

    fd: int

    def held_by(self, pid: int) -> None:
        write_pid(self.fd, pid)


@contextmanager
def child_lock(path: Path) -> Iterator[ChildLock]:
    """For the time of starting a child, which has to inherit `fd`. The launcher's own hold ends with the block."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        if not try_lock(fd):
            raise WrongState(f"process {read_pid(fd)} of an earlier start still holds {path}")
        write_pid(fd, 0)
        yield ChildLock(fd)
    finally:
        os.close(fd)


async def end_orphans(folder: Path) -> dict[str, int]:
    """Kills what is left of an earlier start, and returns the processes by name when they are gone.

    Raises WrongState when one does not go.
    """
    ended = {path.stem: await _end(path) for path in _locks(folder)}
    return {name: pid for name, pid in ended.items() if pid}


def _locks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.lock"))


async def _end(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return 0 if try_lock(fd) else await _kill(fd, path)
    finally:
        os.close(fd)


async def _kill(fd: int, path: Path) -> int:
    """A child that was started a moment before the crash may not be named yet: it ends by itself."""
    pid = read_pid(fd)
    if pid:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + ORPHAN_SECONDS_MAX
    while not try_lock(fd):
        if time.monotonic() > deadline:
            raise WrongState(f"process {pid or 'unknown'} of an earlier start still holds {path}")
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return pid
