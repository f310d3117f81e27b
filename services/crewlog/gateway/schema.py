"""The file of the projection: everything in it comes from the log, so any doubt about it is settled by starting anew.

`entry` holds the log as it is stored, so that streams and replay are served from here. A row of `run` or `agent` holds
a view only once the aggregate has come to rest: `view_revision` says which revision the view shows.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from crewlog.domain import project
from crewlog.domain.agent import decider as agent
from crewlog.domain.run import decider as run
from crewlog.eventlog.limits import check_head

SCHEMA_VERSION = 6

_TABLES = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists entry (
    revision integer primary key, run_id text not null, kind text not null, aggregate_id text not null,
    payload blob not null
);
create index if not exists entry_of_run on entry (run_id, revision) where run_id <> '';
create index if not exists entry_of_aggregate on entry (kind, aggregate_id, revision);
create table if not exists run (
    run_id text primary key, project_id text not null, status integer not null, is_over integer not null,
    started integer not null, revision integer not null, parent text not null default '',
    view_revision integer not null default 0, summary blob, view blob
) without rowid;
create index if not exists run_of_parent on run (parent, started);
create index if not exists run_by_start on run (started);
create index if not exists run_open on run (run_id) where not is_over;
create index if not exists run_of_project on run (project_id, started);
create table if not exists agent (
    agent_id text primary key, run_id text not null, started integer not null, revision integer not null,
    view_revision integer not null default 0, view blob
) without rowid;
create index if not exists agent_of_run on agent (run_id, started);
create table if not exists project (
    project_id text primary key, path text not null, revision integer not null
) without rowid;
create index if not exists project_by_path on project (path);
create table if not exists gate (
    run_id text not null, gate_id text not null, is_open integer not null, opened integer not null, view blob not null,
    primary key (run_id, gate_id)
) without rowid;
create index if not exists gate_open on gate (opened, run_id, gate_id) where is_open;
create table if not exists cost (
    agent_id text not null, turn integer not null, attempt integer not null,
    run_id text not null, task_id text not null, role text not null, model text not null, credential text not null,
    at integer not null, usd integer not null, lost integer not null, saved integer not null,
    input integer not null, output integer not null, cache_read integer not null, cache_write integer not null,
    primary key (agent_id, turn, attempt)
) without rowid;
create index if not exists cost_of_run on cost (run_id);
create index if not exists cost_by_time on cost (at);
"""
_DATA = ("entry", "run", "agent", "project", "gate", "cost", "meta")


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode; used by one thread at a time."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    return connection


def prepare(connection: sqlite3.Connection, epoch: str, head_revision: int) -> None:
    """Makes the tables, anew where they show another log, or were made by other rules. Raises WrongState
    when the log has become shorter."""
    connection.execute("create table if not exists meta (key text primary key, value text not null) without rowid")
    if _is_of(connection, epoch, head_revision):
        return
    connection.execute("begin immediate")
    for table in _DATA:
        connection.execute(f"drop table if exists {table}")
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    rows = [("epoch", epoch), ("rules", rules()), ("revision", "0"), ("unknown_events", "0")]
    connection.executemany("insert into meta values (?, ?)", rows)
    connection.execute("commit")


def number(connection: sqlite3.Connection, key: str) -> int:
    return int(connection.execute("select value from meta where key = ?", (key,)).fetchone()[0])


def set_number(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute("update meta set value = ? where key = ?", (str(value), key))


def rules() -> str:
    """Changes with everything that the content of the file depends on, besides the log."""
    return f"{SCHEMA_VERSION}.{run.VERSION}.{agent.VERSION}.{project.VERSION}"


def _is_of(connection: sqlite3.Connection, epoch: str, head_revision: int) -> bool:
    known = dict(connection.execute("select key, value from meta").fetchall())
    if known.get("epoch") == epoch:
        check_head(head_revision, int(known["revision"]))
    return (known.get("epoch"), known.get("rules")) == (epoch, rules())
