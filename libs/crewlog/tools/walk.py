"""The files of a workspace, in the order of their names.

Directories that hold what others have made are left out unless the caller names them; git's own always. Links are
listed, never followed. Only the standard library is used: the search worker imports this.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from crewlog.tools.answers import FAILED, NotDone, shown
from crewlog.tools.limits import WALK_DEPTH_MAX, WALK_ENTRIES_MAX
from crewlog.tools.root import Place, Root, reason_of

ALWAYS_LEFT_OUT = frozenset({".git"})
LEFT_OUT = frozenset(
    {
        ".hypothesis",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".venv",
        "__pycache__",
        "node_modules",
    }
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[str, ...]


@dataclass
class Walk:
    """One pass over the files below `start`. Afterwards `left_out` says what the limits have hidden."""

    root: Root
    start: str = "."
    named: frozenset[str] = frozenset()
    deadline: float = float("inf")
    left_out: list[str] = field(default_factory=list[str])
    _entries: int = 0
    _stopped: bool = False

    def files(self) -> Iterator[Parts]:
        """The parts of each path from the root, as the system has them: bytes that are no UTF-8 are surrogates."""
        with self.root.resolve(self.start) as place:
            first, is_directory = place.parts, _is_directory(place)
        if is_directory:
            yield from self._below(first)
        else:
            yield first

    def _below(self, first: Parts) -> Iterator[Parts]:
        ahead = [first]
        while ahead and not self._is_over():
            parts = ahead.pop()
            files, directories = self._list(parts)
            yield from ((*parts, name) for name in files)
            ahead.extend((*parts, name) for name in reversed(directories))

    def _is_over(self) -> bool:
        if self._entries > WALK_ENTRIES_MAX:
            self._stop(f"stopped after {WALK_ENTRIES_MAX} entries")
        elif time.monotonic() > self.deadline:
            self._stop("stopped for time")
        return self._stopped

    def _stop(self, why: str) -> None:
        self._stopped = True
        self.left_out.append(why)

    def _list(self, parts: Parts) -> tuple[list[str], list[str]]:
        if len(parts) > WALK_DEPTH_MAX:
            return self._left_out(f"directories more than {WALK_DEPTH_MAX} deep are left out")
        try:
            with directory_below(self.root, parts) as descriptor, os.scandir(descriptor) as entries:
                return self._sorted(list(entries))
        except OSError as error:
            return self._left_out(f"{shown('/'.join(parts))}: {reason_of(error)}")

    def _left_out(self, what: str) -> tuple[list[str], list[str]]:
        if what not in self.left_out:
            self.left_out.append(what)
        return [], []

    def _sorted(self, entries: list[os.DirEntry[str]]) -> tuple[list[str], list[str]]:
        self._entries += len(entries)
        directories = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        files = sorted(entry.name for entry in entries if entry.name not in directories | ALWAYS_LEFT_OUT)
        return files, sorted(name for name in directories if not self._is_left_out(name))

    def _is_left_out(self, name: str) -> bool:
        return name in ALWAYS_LEFT_OUT or (name in LEFT_OUT and name not in self.named)


@contextmanager
def directory_below(root: Root, parts: Parts) -> Generator[int, None, None]:
    """An open directory below the root, reached without following any link. Raises OSError."""
    with ExitStack() as opened:
        descriptor = os.open(root.path, _DIRECTORY)
        opened.callback(os.close, descriptor)
        for part in parts:
            descriptor = os.open(part, _DIRECTORY, dir_fd=descriptor)
            opened.callback(os.close, descriptor)
        yield descriptor


def _is_directory(place: Place) -> bool:
    try:
        info = os.stat(place.name or ".", dir_fd=place.directory, follow_symlinks=False)
    except OSError as error:
        raise NotDone(FAILED, f"{place.shown}: {reason_of(error)}") from error
    return stat.S_ISDIR(info.st_mode)
