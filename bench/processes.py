"""What the processes of a platform use, as the kernel accounts it (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from crewlog.cli.launcher.environment import LOG, SERVICES
from crewlog.cli.launcher.platform import Platform

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree(platform: Platform) -> list[int]:
    """The processes of the platform, without the launcher, which is this process here."""
    return [pid for pid in (platform.pid_of(name) for name in (*SERVICES, LOG)) if pid]


def cpu_seconds(pids: Iterable[int]) -> float:
    return sum(_ticks(pid) for pid in pids) / _TICKS_PER_SECOND


def pss_mib(pids: Iterable[int]) -> float:
    """Memory, with what is shared divided among those who share it."""
    return sum(_pss_kib(pid) for pid in pids) / 1024


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def began_at(pid: int) -> float:
    """In seconds since 1970, within one tick of the kernel."""
    after_boot = int(_fields(pid)[19]) / _TICKS_PER_SECOND
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot)


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ticks(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[11]) + int(fields[12])


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
