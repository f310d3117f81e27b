"""Where the scheduler goes on after a restart: the open runs, the budgets that are set, how far the log was read.

A cache: without it, the log is surveyed (crewlog.scheduler.survey). All of it is written in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crewlog.runtime import failpoints

_SCHEMA = """
create table if not exists position (epoch text primary key, revision integer not null);
create table if not exists open_run (run_id text primary key) without rowid;
create table if not exists budget (budget_id text primary key) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Every run that was started at or before `revision` and is not over is among `open_runs`."""

    revision: int
    open_runs: frozenset[str]
    budgets: frozenset[str] = frozenset()


class Checkpoint:
    """Of another epoch, or without a file, nothing is remembered."""

    def __init__(self, path: Path, epoch: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._epoch = epoch
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")
        self._database.executescript(_SCHEMA)

    def load(self) -> Position | None:
        row = self._database.execute("select revision from position where epoch = ?", (self._epoch,)).fetchone()
        if row is None:
            return None
        runs = self._database.execute("select run_id from open_run").fetchall()
        budgets = self._database.execute("select budget_id from budget").fetchall()
        return Position(row[0], frozenset(run for (run,) in runs), frozenset(budget for (budget,) in budgets))

    def save(self, revision: int, opened: Iterable[str], closed: Iterable[str], budgets: Iterable[str] = ()) -> None:
        with failpoints.around("checkpoint"), self._database:
            self._database.execute("delete from position where epoch <> ?", (self._epoch,))
            if not self._database.execute("select 1 from position").fetchone():
                self._database.execute("delete from open_run")
                self._database.execute("delete from budget")
            self._database.execute("insert or replace into position values (?, ?)", (self._epoch, revision))
            self._database.executemany("insert or ignore into open_run values (?)", ((run_id,) for run_id in opened))
            self._database.executemany("insert or ignore into budget values (?)", ((budget,) for budget in budgets))
            self._database.executemany("delete from open_run where run_id = ?", ((run_id,) for run_id in closed))

    def close(self) -> None:
        self._database.close()
