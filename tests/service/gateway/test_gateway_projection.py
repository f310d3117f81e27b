"""What is read comes from the log alone: a file that is deleted, or shows another log, is made anew, and the same."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand, NotFound, Unavailable, WrongState
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.port import AggregateId
from crewlog.gateway import folding, projection, queries, schema
from crewlog.v1.agent_pb2 import ListAgents
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, Event
from crewlog.v1.events_pb2 import GetStatus, WatchEvents
from crewlog.v1.project_pb2 import ListProjects
from crewlog.v1.run_pb2 import GetRun, ListRuns, RunStatus, TaskStatus
from crewlog.v1.run_service_pb2 import WatchRun


async def some_history(world: Any) -> int:
    """Runs that are over, that go on and that have not begun, some with agents."""
    project_id = await world.register()
    for number in range(6):
        await world.start_run(f"run-{number}", project_id)
        if number % 3:
            await world.claim(f"run-{number}")
            await world.host(f"run-{number}")
        if number % 3 == 2:
            await world.finish_agent(f"run-{number}")
            await world.finish(f"run-{number}")
    head: int = await world.gateway.projection.caught_up()
    return head


async def everything(world: Any) -> list[Any]:
    """All that clients can read."""
    head = await world.log.head()
    runs = await world.run_service.List(ListRuns(at_least_revision=head))
    views = [await world.run_service.Get(GetRun(run_id=run.run_id)) for run in runs.runs]
    agents = [await world.agent_service.List(ListAgents(run_id=run.run_id)) for run in runs.runs]
    projects = await world.project_service.List(ListProjects())
    streams = [world.run_service.Watch(WatchRun(run_id=run.run_id, until_now=True)) for run in runs.runs]
    streams.append(world.event_service.Watch(WatchEvents(until_now=True, with_stored=True)))
    return [runs, *views, *agents, projects, *[[m.entry async for m in stream] for stream in streams]]


async def test_a_file_that_was_deleted_is_rebuilt_and_says_the_same(world: Any) -> None:
    await some_history(world)
    before = await everything(world)
    await world.stop_gateway()
    for path in world.projection_file.parent.iterdir():
        path.unlink()
    await world.start_gateway()
    assert await everything(world) == before


async def test_a_restart_reads_only_what_is_new_and_says_the_same(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = await some_history(world)
    before = await everything(world)
    followed: list[int] = []
    follow = MemoryLog.follow

    def spy(self: MemoryLog, after_revision: int, kinds: Any = ()) -> Any:
        followed.append(after_revision)
        return follow(self, after_revision, kinds)

    monkeypatch.setattr(MemoryLog, "follow", spy)
    await world.restart()
    assert followed == [head]
    assert await everything(world) == before
    revision = await world.finish("run-1")
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    assert view.status == RunStatus.RUN_STATUS_SUCCEEDED
    assert view.tasks[0].status == TaskStatus.TASK_STATUS_SUCCEEDED


async def test_views_are_the_same_whether_folded_at_once_or_piece_by_piece(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_history(world)
    before = await everything(world)
    monkeypatch.setattr(folding, "STATES_MAX", 1)
    monkeypatch.setattr(projection, "BATCH_ENTRIES_MAX", 1)
    await world.stop_gateway()
    world.projection_file.unlink()
    await world.start_gateway()
    assert await everything(world) == before


@pytest.mark.parametrize(("key", "value"), [("epoch", "older"), ("rules", "0")])
async def test_fault_77_a_file_of_another_log_or_of_other_rules_is_made_anew(world: Any, key: str, value: str) -> None:
    await some_history(world)
    before = await everything(world)
    await world.stop_gateway()
    with sqlite3.connect(world.projection_file) as connection:
        connection.execute("update meta set value = ? where key = ?", (value, key))
        connection.execute("update project set path = '/wrong'")
        connection.execute("insert into run values ('ghost', 'p', 1, 0, 1, 1, '', 0, null, null)")
    connection.close()
    await world.start_gateway()
    assert await everything(world) == before


async def test_fault_32_a_log_that_has_become_shorter_is_not_read(tmp_path: Path, world: Any) -> None:
    await some_history(world)
    await world.stop_gateway()
    older, kept = MemoryLog(world.log.epoch), await world.log.read(AggregateId("local", "run", "run-1"))
    await older.append(kept[0].aggregate, kept[0].payload, 0)
    for _ in range(2):
        behind = projection.Projection(world.projection_file, older)
        with pytest.raises(WrongState, match="the log ends at revision 1, and was read up to"):
            await behind.open()


async def test_a_batch_that_fails_leaves_everything_where_it_was(world: Any) -> None:
    head = await some_history(world)
    await world.stop_gateway()
    broken = await _opened(world.projection_file, world.log)
    connection = schema.connect(world.projection_file)
    connection.execute("create trigger full before insert on entry begin select raise(abort, 'disk full'); end")
    await world.finish("run-1")
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        await asyncio.wait_for(broken.follow(), 10)
    assert schema.number(connection, "revision") == broken.revision == head
    connection.execute("drop trigger full")
    connection.close()
    following = asyncio.create_task(broken.follow())
    await broken.caught_up()
    view = await broken.read(queries.Queries.run, "run-1")
    assert view is not None
    assert (view.status, view.spent_usd_micros) == (RunStatus.RUN_STATUS_SUCCEEDED, 5)
    following.cancel()
    await asyncio.wait([following])
    await broken.close()


async def test_events_of_a_later_release_are_skipped_counted_and_delivered(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    later = Event.FromString(bytes([0xFA, 0x3F, 0]))  # field 1023 of the oneof, which this release does not have
    assert later.WhichOneof("fact") is None
    entry = Entry(
        aggregate=Aggregate(tenant="local", kind="run", id="run-1"),
        ordinal=2,
        decisions=[Decision(correlation_id="run-1", events=[later])],
    )
    revision = await world.append_raw("run", "run-1", entry)
    session = Entry(aggregate=Aggregate(tenant="local", kind="session", id="s-1"), decisions=[Decision(events=[later])])
    head = await world.append_raw("session", "s-1", session)
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=head))
    assert (view.status, view.revision) == (RunStatus.RUN_STATUS_RUNNING, revision)
    status = await world.event_service.Status(GetStatus())
    assert (status.unknown_events, status.projected_revision, status.head_revision) == (2, head, head)
    stream = world.event_service.Watch(WatchEvents(until_now=True))
    assert [m.entry.entry async for m in stream][-2:] == [entry, session]


async def test_a_read_waits_for_its_revision(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project_id = await world.register()
    monkeypatch.setattr(projection, "WAIT_SECONDS_MAX", 0.2)
    head = await world.log.head()
    with pytest.raises(InvalidCommand) as caught:
        await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=head + 1))
    assert "at_least_revision" in caught.value.violations
    with pytest.raises(NotFound):
        await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=head))
    for number in range(20):
        revision = await world.start_run(f"run-{number}", project_id)
        view = await world.run_service.Get(GetRun(run_id=f"run-{number}", at_least_revision=revision))
        assert view.revision == revision


async def test_a_projection_that_does_not_follow_says_how_far_it_is(tmp_path: Path, world: Any) -> None:
    head = await some_history(world)
    behind = await _opened(tmp_path / "behind.sqlite", world.log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "WAIT_SECONDS_MAX", 0.05)
        with pytest.raises(Unavailable, match="up to revision 0"):
            await behind.reached(head)
    following = asyncio.create_task(behind.follow())
    await behind.reached(head)
    following.cancel()
    await asyncio.wait([following])
    await behind.close()


def test_a_run_is_known_by_the_correlation_or_by_the_name() -> None:
    def entry(kind: str, id: str, correlation_id: str = "") -> Entry:
        decision = Decision(correlation_id=correlation_id)
        return Entry(aggregate=Aggregate(kind=kind, id=id), decisions=[decision])

    assert folding.run_id_of(entry("agent", "run-1_a-1")) == "run-1"
    assert folding.run_id_of(entry("workspace", "x", "run-2")) == "run-2"
    assert folding.run_id_of(entry("change", "run-1")) == "run-1"
    assert folding.run_id_of(entry("project", "slug")) == ""


async def _opened(path: Path, log: MemoryLog) -> projection.Projection:
    opened = projection.Projection(path, log)
    await opened.open()
    return opened
