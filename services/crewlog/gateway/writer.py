"""Writes entries into the projection: a batch, the rows that it changes and the position, in one transaction."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, NamedTuple

from crewlog.domain import names
from crewlog.domain.run import view as run_view
from crewlog.eventlog import codec
from crewlog.eventlog.port import Stored
from crewlog.gateway import costs, folding, schema
from crewlog.gateway.costs import Cost
from crewlog.gateway.folding import FOLDS, Folded, Hot, Key
from crewlog.runtime import failpoints
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.project_pb2 import ProjectRegistered
from crewlog.v1.run_pb2 import GateStatus, TaskCancelled, TaskFailed

_ADD_ENTRY = "insert or ignore into entry values (?, ?, ?, ?, ?)"
_ADD_RUN = """
insert into run (run_id, project_id, status, is_over, started, revision, parent) values (?, ?, ?, ?, ?, ?, ?)
on conflict (run_id) do update set
    project_id = excluded.project_id, status = excluded.status, is_over = excluded.is_over,
    revision = excluded.revision, parent = excluded.parent
"""
_ADD_AGENT = """
insert into agent (agent_id, run_id, started, revision) values (?, ?, ?, ?)
on conflict (agent_id) do update set revision = excluded.revision
"""
_ADD_PROJECT = "insert or replace into project values (?, ?, ?)"
_ADD_GATE = "insert or replace into gate values (?, ?, ?, ?, ?)"
_ADD_COST = f"insert or replace into cost values ({', '.join('?' * len(fields(Cost)))})"
_REST_RUN = "update run set view_revision = ?, summary = ?, view = ? where run_id = ?"
_REST_AGENT = "update agent set view_revision = ?, view = ? where agent_id = ?"


class Row(NamedTuple):
    """An entry, as it stands in the file."""

    revision: int
    run_id: str
    kind: str
    aggregate_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class News:
    """The entries of the log up to `revision` that were not there before; `over` says of each run that was folded on
    whether it is over now."""

    revision: int
    rows: Sequence[Row]
    by_run: Mapping[str, Sequence[Row]]
    over: Mapping[str, bool]


@dataclass(slots=True)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    before: dict[Key, Any] = field(default_factory=dict)
    touched: dict[Key, Folded] = field(default_factory=dict)
    projects: list[tuple[str, str, int]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    unknown_events: int = 0


class Writer:
    """Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, hot: Hot) -> None:
        self._connection = connection
        self._hot = hot

    def write(self, entries: Sequence[Stored]) -> News:
        """All of it or nothing: after an error the projection stands where it stood before."""
        try:
            self._connection.execute("begin immediate")
            batch = self._fold(entries)
            self._store(batch, entries[-1].revision)
            with failpoints.around("projection"):
                self._connection.execute("commit")
        except BaseException:
            self._hot.clear()
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise
        at_rest = {key: folding.is_at_rest(key[0], folded.state) for key, folded in batch.touched.items()}
        self._hot.drop(key for key, rests in at_rest.items() if rests)
        self._hot.trim()
        return _news(batch, entries[-1].revision, at_rest)

    def _fold(self, entries: Sequence[Stored]) -> _Batch:
        batch = _Batch()
        for stored in entries:
            entry = Entry.FromString(stored.payload)
            kind, id = stored.aggregate.kind, stored.aggregate.id
            batch.rows.append(Row(stored.revision, folding.run_id_of(entry), kind, id, stored.payload))
            batch.unknown_events += sum(codec.unpack(e) is None for d in entry.decisions for e in d.events)
            if kind in FOLDS:
                folded = self._fold_one(batch, (kind, id), stored.revision, entry)
                batch.costs += folded.costs
                if kind == "run":
                    batch.costs += self._given_up(id, stored.revision, entry)
            elif kind == "project":
                facts = codec.known_facts((entry,))
                registered = [fact for fact in facts if isinstance(fact, ProjectRegistered)]
                batch.projects += [(id, fact.path, stored.revision) for fact in registered]
        return batch

    def _fold_one(self, batch: _Batch, key: Key, revision: int, entry: Entry) -> Folded:
        known = self._hot.get(key)
        if known is None and entry.ordinal > 1:
            known = refold(self._connection, key, before=revision)
        batch.before.setdefault(key, known.state if known else FOLDS[key[0]].INITIAL)
        batch.touched[key] = folded = folding.fold(key[0], known, revision, entry)
        self._hot.put(key, folded)
        return folded

    def _given_up(self, run_id: str, revision: int, entry: Entry) -> Iterator[Cost]:
        """Model calls that a task has paid for which ended without its agent."""
        for fact in codec.known_facts((entry,)):
            if not isinstance(fact, TaskFailed | TaskCancelled) or not fact.result.cost_usd_micros:
                continue
            key = ("agent", names.agent_id(run_id, fact.task_id))
            agent = self._hot.get(key) or refold(self._connection, key, before=revision)
            if agent and fact.result.cost_usd_micros > agent.state.spent.usd_micros:
                yield from costs.given_up(key[1], agent.state, agent.calls, fact.at_unix_micros)

    def _store(self, batch: _Batch, revision: int) -> None:
        connection = self._connection
        connection.executemany(_ADD_ENTRY, batch.rows)
        runs = [(id, folded) for (kind, id), folded in batch.touched.items() if kind == "run"]
        agents = [(id, folded) for (kind, id), folded in batch.touched.items() if kind == "agent"]
        connection.executemany(_ADD_RUN, [_run_row(id, folded) for id, folded in runs])
        connection.executemany(_ADD_AGENT, [_agent_row(id, folded) for id, folded in agents])
        connection.executemany(_ADD_PROJECT, batch.projects)
        connection.executemany(_ADD_COST, map(astuple, batch.costs))
        connection.executemany(_ADD_GATE, _gate_rows(batch))
        connection.executemany(_REST_RUN, _rested_runs(runs))
        connection.executemany(_REST_AGENT, _rested_agents(agents))
        schema.set_number(connection, "revision", revision)
        if batch.unknown_events:
            unknown = schema.number(connection, "unknown_events") + batch.unknown_events
            schema.set_number(connection, "unknown_events", unknown)


def _news(batch: _Batch, revision: int, at_rest: Mapping[Key, bool]) -> News:
    by_run = defaultdict[str, list[Row]](list)
    for row in batch.rows:
        by_run[row.run_id].append(row)
    return News(revision, batch.rows, by_run, {id: rests for (kind, id), rests in at_rest.items() if kind == "run"})


def refold(connection: sqlite3.Connection, key: Key, before: int = 2**62) -> Folded | None:
    """The state of an aggregate from its stored entries; None when there are none."""
    query = "select revision, payload from entry where kind = ? and aggregate_id = ? and revision < ? order by revision"
    folded = None
    for revision, payload in connection.execute(query, (*key, before)):
        folded = folding.fold(key[0], folded, revision, Entry.FromString(payload))
    return folded


def _run_row(run_id: str, folded: Folded) -> tuple[object, ...]:
    run = folded.state
    is_over = folding.is_at_rest("run", run)
    parent = run.started.parent.run_id
    return (run_id, run.started.project_id, run_view.status(run), is_over, folded.started, folded.revision, parent)


def _agent_row(agent_id: str, folded: Folded) -> tuple[object, ...]:
    return (agent_id, folded.state.started.run_id, folded.started, folded.revision)


def _gate_rows(batch: _Batch) -> Iterator[tuple[object, ...]]:
    for (kind, run_id), folded in batch.touched.items():
        if kind == "run" and folded.state.gates:
            for gate in run_view.changed_gates(batch.before[kind, run_id], folded.state):
                is_open = gate.status == GateStatus.GATE_STATUS_OPEN
                yield (run_id, gate.gate_id, is_open, gate.opened_at_unix_micros, gate.SerializeToString())


def _rested_runs(runs: list[tuple[str, Folded]]) -> Iterator[tuple[object, ...]]:
    for run_id, folded in runs:
        if folding.is_at_rest("run", folded.state):
            summary = folding.run_view_of(folded.state, folded.revision, with_tasks=False).SerializeToString()
            view = folding.run_view_of(folded.state, folded.revision).SerializeToString()
            yield (folded.revision, summary, view, run_id)


def _rested_agents(agents: list[tuple[str, Folded]]) -> Iterator[tuple[object, ...]]:
    for agent_id, folded in agents:
        if folding.is_at_rest("agent", folded.state):
            view = folding.agent_view_of(folded.state, agent_id, folded.revision)
            yield (folded.revision, view.SerializeToString(), agent_id)
