"""What is read from the projection. Each answer comes from one snapshot of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crewlog.gateway import folding, schema
from crewlog.gateway.folding import Folded, Hot, Key
from crewlog.gateway.writer import refold
from crewlog.v1.agent_pb2 import AgentView
from crewlog.v1.project_pb2 import ProjectView
from crewlog.v1.run_pb2 import RunView

PAGE_ENTRIES_MAX = 256
PAGE_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Everything that is set has to match; types are looked at by the caller."""

    run_id: str = ""
    project_id: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in order, and how far the log was looked at; `run_is_over` is about the run of the filter."""

    entries: Sequence[tuple[int, bytes]]
    up_to: int
    has_more: bool
    run_is_over: bool


@dataclass(frozen=True, slots=True)
class RunFilter:
    project_id: str = ""
    statuses: tuple[int, ...] = ()
    parent_run_id: str = ""
    with_children: bool = False


class Queries:
    """Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, hot: Hot) -> None:
        self._connection = connection
        self._hot = hot

    def page(self, wanted: EntryFilter, after: int) -> Page:
        with self.snapshot():
            up_to = schema.number(self._connection, "revision")
            is_over = bool(wanted.run_id) and self._run_is_over(wanted.run_id)
            entries, size = [], 0
            query, parameters = _entries_query(wanted, after)
            for revision, payload in self._connection.execute(query, parameters):
                entries.append((revision, payload))
                size += len(payload)
                if len(entries) == PAGE_ENTRIES_MAX or size >= PAGE_BYTES_MAX:
                    return Page(entries, revision, True, is_over)
            return Page(entries, max(up_to, after), False, is_over)

    def unknown_events(self) -> int:
        return schema.number(self._connection, "unknown_events")

    def has_run(self, run_id: str) -> bool:
        return self._one("select 1 from run where run_id = ?", run_id) is not None

    def run(self, run_id: str) -> RunView | None:
        with self.snapshot():
            row = self._one("select revision, view_revision, view from run where run_id = ?", run_id)
            if row is None:
                return None
            if row[0] == row[1]:
                return RunView.FromString(row[2])
            folded = self.folded(("run", run_id))
            return folding.run_view_of(folded.state, folded.revision)

    def generation_of(self, run_id: str, task_id: str) -> int:
        """The latest generation of a task; 0 when it is not known."""
        with self.snapshot():
            folded = self._hot.get(("run", run_id)) or refold(self._connection, ("run", run_id))
        task = folded.state.tasks.get(task_id) if folded else None
        return task.generation if task else 0

    def runs(self, wanted: RunFilter, before: int, limit: int) -> list[tuple[int, RunView]]:
        """Those that were started before a revision, newest first, each with the revision of its start."""
        query, parameters = _runs_query(wanted, before, limit)
        with self.snapshot():
            rows = self._connection.execute(query, parameters).fetchall()
            return [(started, self._summary(*rest)) for started, *rest in rows]

    def agent(self, agent_id: str) -> AgentView | None:
        with self.snapshot():
            row = self._one("select agent_id, revision, view_revision, view from agent where agent_id = ?", agent_id)
            return self._agent(*row) if row else None

    def agents(self, run_id: str) -> list[AgentView] | None:
        """In the order of their start; None when there is no such run."""
        query = "select agent_id, revision, view_revision, view from agent where run_id = ? order by started"
        with self.snapshot():
            if not self.has_run(run_id):
                return None
            return [self._agent(*row) for row in self._connection.execute(query, (run_id,)).fetchall()]

    def project(self, project_id: str) -> ProjectView | None:
        row = self._one("select project_id, path, revision from project where project_id = ?", project_id)
        return _project(row) if row else None

    def project_at(self, path: str) -> ProjectView | None:
        row = self._one("select project_id, path, revision from project where path = ? order by revision", path)
        return _project(row) if row else None

    def projects(self, after: str, limit: int) -> list[ProjectView]:
        query = "select project_id, path, revision from project where project_id > ? order by project_id limit ?"
        return [_project(row) for row in self._connection.execute(query, (after, limit))]

    def _run_is_over(self, run_id: str) -> bool:
        row = self._one("select is_over from run where run_id = ?", run_id)
        return bool(row and row[0])

    def _summary(self, run_id: str, revision: int, view_revision: int, summary: bytes | None) -> RunView:
        if revision == view_revision and summary is not None:
            return RunView.FromString(summary)
        folded = self.folded(("run", run_id))
        return folding.run_view_of(folded.state, folded.revision, with_tasks=False)

    def _agent(self, agent_id: str, revision: int, view_revision: int, view: bytes | None) -> AgentView:
        if revision == view_revision and view is not None:
            return AgentView.FromString(view)
        folded = self.folded(("agent", agent_id))
        return folding.agent_view_of(folded.state, agent_id, folded.revision)

    def folded(self, key: Key) -> Folded:
        """Of a state that is at work, the writer may already have folded an entry that it has not written yet."""
        folded = self._hot.get(key) or refold(self._connection, key)
        assert folded is not None, f"there are no entries of {key}"
        return folded

    def _one(self, query: str, parameter: str) -> Any:
        return self._connection.execute(query, (parameter,)).fetchone()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """What is read inside the context belongs together."""
        self._connection.execute("begin")
        try:
            yield self._connection
        finally:
            self._connection.execute("commit")


def _entries_query(wanted: EntryFilter, after: int) -> tuple[str, list[object]]:
    conditions = ["revision > ?"]
    values: list[object] = [after, *wanted.kinds]
    if wanted.kinds:
        conditions.append(f"kind in ({_marks(wanted.kinds)})")
    if wanted.run_id:
        conditions.append("run_id = ? and run_id <> ''")
        values.append(wanted.run_id)
    if wanted.project_id:
        of_runs = "run_id in (select run_id from run where project_id = ?)"
        conditions.append(f"({of_runs} or (kind = 'project' and aggregate_id = ?))")
        values += [wanted.project_id, wanted.project_id]
    return f"select revision, payload from entry where {' and '.join(conditions)} order by revision", values


def _runs_query(wanted: RunFilter, before: int, limit: int) -> tuple[str, list[object]]:
    conditions = ["started < ?"]
    values: list[object] = [before, *wanted.statuses]
    if wanted.statuses:
        conditions.append(f"status in ({_marks(wanted.statuses)})")
    if wanted.project_id:
        conditions.append("project_id = ?")
        values.append(wanted.project_id)
    if wanted.parent_run_id or not wanted.with_children:
        conditions.append("parent = ?")
        values.append(wanted.parent_run_id)
    columns = "started, run_id, revision, view_revision, summary"
    return f"select {columns} from run where {' and '.join(conditions)} order by started desc limit ?", [*values, limit]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _project(row: tuple[str, str, int]) -> ProjectView:
    return ProjectView(project_id=row[0], path=row[1], revision=row[2])
