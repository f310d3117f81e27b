"""The descendants of this process: counted, and ended without leaving any behind.

On Linux orphans come back to the supervisor, so a process that starts a session of its own is still found. Elsewhere
only the process group of the command is. Only the standard library is used.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

if sys.platform == "linux":
    from crewlog.tools import kernel

_KILL_SECONDS_MAX = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Process(NamedTuple):
    pid: int
    parent: int
    group: int
    threads: int
    is_alive: bool


def adopt_orphans() -> None:
    if sys.platform == "linux":
        kernel.adopt_orphans()


def die_with_parent() -> None:
    if sys.platform == "linux":
        kernel.die_with_parent()


def run_at(niceness: int) -> None:
    """As far as it is allowed: to come before others is not, to most users."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def reaped() -> Iterator[tuple[int, int]]:
    """Every child that has ended, with its status."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


class Usage(NamedTuple):
    """Of all processes below this one: how many threads they have, and how much memory each has for itself. Memory that
    a fork shares with its parent counts for both here, so it is at least as much as there really is."""

    threads: int
    memory_bytes: int
    pids: list[int]


def usage() -> Usage:
    """Without waiting for any of them."""
    alive = [process for process in _descendants() if process.is_alive]
    pids = [process.pid for process in alive]
    return Usage(sum(process.threads for process in alive), sum(map(_own_bytes, pids)), pids)


class SharedOut:
    """What processes have in memory, exactly: what several share counts once.

    It is measured beside the caller. A process that is forking keeps its memory locked until it runs again, and where
    too many want to run that may take longer than there is time.
    """

    def __init__(self, pids: list[int]) -> None:
        self._bytes: int | None = None
        self._measuring = threading.Thread(target=self._measure, args=(pids,), daemon=True)
        self._measuring.start()

    def within(self, seconds: float) -> int | None:
        """None when it is not known yet."""
        self._measuring.join(seconds)
        return self._bytes

    def _measure(self, pids: list[int]) -> None:
        self._bytes = sum(map(_shared_out_bytes, pids))


def terminate_descendants(spared: int | None) -> None:
    """SIGTERM to all but `spared`, which only stands between."""
    for process in _descendants():
        if process.pid != spared:
            _send(process.pid, signal.SIGTERM)


def kill_descendants(child: int) -> None:
    """SIGKILL until none is left. A whole group at once, so that one that forks cannot run ahead.

    One that forks and ends while the list is read may be missed: only an empty list after another one is the end.
    """
    deadline = time.monotonic() + _KILL_SECONDS_MAX
    _send_group(child, signal.SIGKILL)
    if sys.platform != "linux":
        return
    empty = 0
    while _has_children() and time.monotonic() < deadline and empty < 2:
        left = [process for process in _descendants() if process.is_alive]
        empty = 0 if left else empty + 1
        for group in {process.group for process in left} - {os.getpgrp()}:
            _send_group(group, signal.SIGKILL)
        for process in left:
            _send(process.pid, signal.SIGKILL)
        time.sleep(0.001)
        _forget_ended(child)


def _has_children() -> bool:
    """Without a child there is no descendant either: orphans are adopted."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _forget_ended(child: int) -> None:
    """Reaps the adopted; the status of the command itself is for the caller."""
    for process in _descendants():
        if process.parent == os.getpid() and process.pid != child and not process.is_alive:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _send_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _descendants() -> list[_Process]:
    children: dict[int, list[_Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found: list[_Process] = []
    ahead = [os.getpid()]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.extend(below)
        ahead.extend(process.pid for process in below)
    return found


def _all() -> Iterator[_Process]:
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (process := _process(name)):
            yield process


def _process(pid: str) -> _Process | None:
    """None for one that has ended meanwhile."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(fields) < 18:
        return None
    is_alive = fields[0] not in (b"Z", b"X")
    return _Process(int(pid), int(fields[1]), int(fields[2]), int(fields[17]), is_alive)


def _own_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if len(fields) > 2 else 0


def _shared_out_bytes(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return _own_bytes(pid)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
