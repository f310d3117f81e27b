"""The test's side of crewlog.runtime.failpoints: arms points, and reads which were reached and which have killed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crewlog.runtime.failpoints import FOLDERS

VARIABLE = "CREWLOG_FAILPOINTS"


@dataclass(frozen=True, order=True)
class Point:
    service: str
    name: str

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


@dataclass(frozen=True, order=True)
class Kill:
    """The death of a service at the n-th time that it reaches a point."""

    point: Point
    n: int = 1

    def __str__(self) -> str:
        return f"{self.point}#{self.n}"


class Failpoints:
    """One directory, for all processes of a platform."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        for name in FOLDERS:
            (directory / name).mkdir(parents=True)

    def arm(self, kill: Kill) -> Armed:
        name = str(next(self._numbers))
        aside = self._directory / f"{name}.aside"
        aside.write_text(str(kill))
        aside.rename(self._directory / "armed" / name)
        return Armed(kill, self._directory / "armed" / name, self._directory / "killed" / name)

    def now(self) -> Mapping[Path, int]:
        """A position: what `reached_since` counts from."""
        return {path: path.stat().st_size for path in (self._directory / "reached").iterdir()}

    def reached_since(self, position: Mapping[Path, int]) -> Counter[Point]:
        found: Counter[Point] = Counter()
        for path in (self._directory / "reached").iterdir():
            service = path.name.partition(".")[0]
            lines = path.read_bytes()[position.get(path, 0) :].decode().splitlines()
            found.update(Point(service, line.rpartition("#")[0]) for line in lines)
        return found


@dataclass(frozen=True)
class Armed:
    kill: Kill
    armed: Path
    killed: Path

    @property
    def has_killed(self) -> bool:
        return self.killed.exists()

    @property
    def killed_at(self) -> float:
        """Seconds since 1970: a file that is moved gets a new change time."""
        return self.killed.stat().st_ctime

    def disarm(self) -> None:
        self.armed.unlink(missing_ok=True)
