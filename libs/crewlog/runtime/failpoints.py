"""Named points at which a process can be made to die, so that recovery is shown at each of them.

Unarmed, as everywhere but in tests of crashes, a point costs a look at one variable. CREWLOG_FAILPOINTS names a
directory by whose files points are armed and seen:

    reached/<service>.<pid>   a line `<point>#<count>` for each time that a process reaches a point
    armed/<name>              `<service>/<point>#<n>`: the n-th time since it has seen the file, the process moves it to
    killed/<name>             and is gone by SIGKILL; so each armed point kills once, whatever is started again

A test puts a file into `armed` by renaming it: processes read it once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from crewlog.runtime import config

FOLDERS = ("reached", "armed", "killed")

_UNARMED: AbstractContextManager[None] = nullcontext()
_points: _Points | None = None


def configure(service: str) -> None:
    """Takes part where the environment says so. Call it once, before anything is reached."""
    global _points
    directory = config.failpoints()
    if directory is not None:
        _points = _Points(service, directory)


def is_configured() -> bool:
    """Whether anybody asks for points here: whatever costs more than they do is done only then."""
    return _points is not None


def reach(point: str) -> None:
    """The process may end here."""
    if _points is not None:
        _points.reach(point)


def around(work: str) -> AbstractContextManager[None]:
    """Two points: `<work>.before`, and `<work>.after` unless the work raises."""
    return _UNARMED if _points is None else _Around(_points, work)


def of_rpc(side: str, method: str) -> str:
    """`serve.RunService.Start`, for a method with its package."""
    return f"{side}.{method.lstrip('/').removeprefix('crewlog.v1.').replace('/', '.')}"


def between(work: str, stream: Any) -> Any:
    """The stream of a call, with two points around what is done with each message that arrives."""
    return stream if _points is None else _Messages(work, stream)


class _Points:
    """Reached from any thread."""

    def __init__(self, service: str, directory: Path) -> None:
        for name in FOLDERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
        self._service = service
        self._directory = directory
        self._reached: Counter[str] = Counter()
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()
        path = directory / "reached" / f"{service}.{os.getpid()}"
        self._trace = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def reach(self, point: str) -> None:
        with self._lock:
            self._reached[point] += 1
            os.write(self._trace, f"{point}#{self._reached[point]}\n".encode())
            for name in os.listdir(self._directory / "armed"):  # noqa: PTH208
                self._count(name, point)

    def _count(self, name: str, point: str) -> None:
        """A file that is gone has killed another process."""
        path = self._directory / "armed" / name
        try:
            armed, _, times = path.read_text().rpartition("#")
            if armed != f"{self._service}/{point}":
                return
            self._left[name] = self._left.get(name, int(times)) - 1
            if self._left[name]:
                return
            path.rename(self._directory / "killed" / name)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class _Around(AbstractContextManager[None]):
    def __init__(self, points: _Points, work: str) -> None:
        self._points = points
        self._work = work

    def __enter__(self) -> None:
        self._points.reach(f"{self._work}.before")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._points.reach(f"{self._work}.after")


class _Messages:
    """In everything else it is the call."""

    def __init__(self, work: str, stream: Any) -> None:
        self._work = work
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for message in self._stream:
            reach(f"{self._work}.before")
            yield message
            reach(f"{self._work}.after")
