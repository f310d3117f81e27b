"""Failpoints in a process of its own: each armed point kills once, at the time that was asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
from crewlog.runtime import failpoints

ROUNDS = 5
PROGRAM = f"""
from crewlog.runtime import failpoints
failpoints.configure("painter")
for _ in range({ROUNDS}):
    with failpoints.around("paint"):
        pass
"""
UNARMED_SECONDS_MAX = 2e-6


def run(directory: Path) -> int:
    environment = {"CREWLOG_FAILPOINTS": str(directory)}
    return subprocess.run((sys.executable, "-c", PROGRAM), env=environment).returncode


def arm(directory: Path, name: str, point: str) -> None:
    (directory / "armed").mkdir(exist_ok=True)
    (directory / "armed" / name).write_text(point)


def reached(directory: Path) -> list[list[str]]:
    """What each process has reached."""
    return [path.read_text().splitlines() for path in sorted((directory / "reached").iterdir())]


def test_a_point_that_is_not_armed_is_only_seen(tmp_path: Path) -> None:
    arm(tmp_path, "other", "sculptor/paint.before#1")
    assert run(tmp_path) == 0
    [lines] = reached(tmp_path)
    assert lines == [f"paint.{side}#{n}" for n in range(1, ROUNDS + 1) for side in ("before", "after")]


@pytest.mark.parametrize(("point", "last"), [("paint.before#1", "paint.before#1"), ("paint.after#3", "paint.after#3")])
def test_an_armed_point_kills_once(tmp_path: Path, point: str, last: str) -> None:
    arm(tmp_path, "first", f"painter/{point}")
    assert run(tmp_path) == -signal.SIGKILL
    assert reached(tmp_path)[0][-1] == last
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["first"]
    assert run(tmp_path) == 0


def test_every_armed_point_has_a_process(tmp_path: Path) -> None:
    arm(tmp_path, "first", "painter/paint.before#2")
    arm(tmp_path, "second", "painter/paint.before#3")
    assert [run(tmp_path) for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert not list((tmp_path / "armed").iterdir())


def test_work_that_fails_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWLOG_FAILPOINTS", str(tmp_path))
    monkeypatch.setattr(failpoints, "_points", None)
    failpoints.configure("painter")
    with pytest.raises(ValueError), failpoints.around("paint"):
        raise ValueError
    assert reached(tmp_path) == [["paint.before#1"]]


def test_an_unarmed_point_costs_next_to_nothing() -> None:
    assert not failpoints.is_configured()
    rounds = 10_000
    seconds = min(timeit.repeat(lambda: failpoints.around("paint").__enter__(), number=rounds, repeat=5))
    assert seconds / rounds < UNARMED_SECONDS_MAX
