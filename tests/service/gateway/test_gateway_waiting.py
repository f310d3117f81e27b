"""Signals, what tasks wait for, limits on tasks at once, priorities, and runs that are tasks of others."""

from __future__ import annotations

from typing import Any, cast

import pytest
from crewlog.domain.errors import InvalidCommand, NotFound, WrongState
from crewlog.domain.run.results import STRUCTURED_BYTES_MAX
from crewlog.eventlog import codec
from crewlog.eventlog.port import AggregateId
from crewlog.runtime.clock import now_micros
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimit, ListAdmissionLimits, SetAdmissionLimit
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import GetRun, ListRuns, Node, Parent, SignalReceived, SignalRun, StartRun, Workflow
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting, WaitingReason, WaitingTask

from tests.service.gateway.conftest import NOOP

WAITS = Workflow(name="waits", nodes=[Node(node_id="w", wait=WaitNode(signal="approved"))])
ROLE = AdmissionDimension.ADMISSION_DIMENSION_ROLE
TWICE = SignalRun(run_id="run-1", name="approved", payload_json='{"ok": true}', request_id="r-1")


def signal(**changes: Any) -> SignalRun:
    command = SignalRun(run_id="run-1", name="approved", request_id="r-1")
    command.MergeFrom(SignalRun(**changes))
    return command


async def signals(world: Any) -> list[SignalReceived]:
    stored = await world.log.read(AggregateId("local", "run", "run-1"))
    facts = codec.known_facts([Entry.FromString(each.payload) for each in stored])
    return [fact for fact in facts if isinstance(fact, SignalReceived)]


async def test_the_same_signal_is_received_once(world: Any) -> None:
    await world.start_run("run-1", await world.register(), workflow=WAITS)
    first = await world.run_service.Signal(TWICE)
    again = await world.run_service.Signal(TWICE)
    (received,) = await signals(world)
    assert (received.name, received.payload_json, received.by) == ("approved", '{"ok":true}', "local")
    assert again.revision == first.revision


async def test_who_sends_a_signal_is_said_by_the_gateway(world: Any) -> None:
    await world.start_run("run-1", await world.register(), workflow=WAITS)
    await world.run_service.Signal(signal(by="somebody else", at_unix_micros=5))
    (received,) = await signals(world)
    assert received.by != "somebody else"
    assert received.at_unix_micros != 5


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (SignalRun(run_id="A", name="approved", request_id="r"), "run_id"),
        (SignalRun(run_id="run-1", name="Approved", request_id="r"), "name"),
        (SignalRun(run_id="run-1", name="a" * 65, request_id="r"), "name"),
        (SignalRun(run_id="run-1", name="aproved", request_id="r"), "name"),
        (SignalRun(run_id="run-1", name="approved"), "request_id"),
        (SignalRun(run_id="run-1", name="approved", request_id="r", payload_json="{"), "payload_json"),
        (SignalRun(run_id="run-1", name="approved", request_id="r", payload_json="NaN"), "payload_json"),
        (
            SignalRun(run_id="run-1", name="approved", request_id="r", payload_json=f'"{"ä" * 32_768}"'),
            "payload_json",
        ),
    ],
)
async def test_a_bad_signal_is_refused_by_field_and_nothing_is_appended(
    world: Any, command: SignalRun, field: str
) -> None:
    await world.start_run("run-1", await world.register(), workflow=WAITS)
    with pytest.raises(InvalidCommand) as refused:
        await world.run_service.Signal(command)
    assert field in refused.value.violations
    assert not await signals(world)


async def test_the_largest_signal_is_received(world: Any) -> None:
    await world.start_run("run-1", await world.register(), workflow=WAITS)
    largest = f'"{"a" * (STRUCTURED_BYTES_MAX - 2)}"'
    await world.run_service.Signal(signal(payload_json=largest))
    assert (await signals(world))[0].payload_json == largest


async def test_nothing_waits_for_a_signal_when_the_run_is_over(world: Any) -> None:
    await world.start_run("run-1", await world.register())
    await world.claim("run-1")
    await world.finish("run-1")
    with pytest.raises(WrongState, match="is over"):
        await world.run_service.Signal(TWICE)


async def test_a_signal_to_no_run_is_not_found(world: Any) -> None:
    with pytest.raises(NotFound):
        await world.run_service.Signal(TWICE)


async def test_what_tasks_wait_for_is_said_by_the_scheduler(world: Any) -> None:
    task = WaitingTask(run_id="run-1", task_id="a-1", reason=WaitingReason.WAITING_REASON_LIMIT, why="4 of 4", ahead=3)
    world.scheduler.waiting = Waiting(tasks=[task], revision=9, is_cut=True)
    assert await world.run_service.Explain(ExplainWaiting(run_id="run-1", tasks_max=1_000)) == world.scheduler.waiting
    assert world.scheduler.asked == [ExplainWaiting(run_id="run-1", tasks_max=1_000)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ExplainWaiting(run_id="A"), "run_id"),
        (ExplainWaiting(tasks_max=-1), "tasks_max"),
        (ExplainWaiting(tasks_max=1_001), "tasks_max"),
    ],
)
async def test_a_bad_question_is_not_passed_on(world: Any, request_: ExplainWaiting, field: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await world.run_service.Explain(request_)
    assert field in refused.value.violations
    assert not world.scheduler.asked


async def test_a_limit_is_passed_on_with_who_sets_it_and_listed(world: Any) -> None:
    command = SetAdmissionLimit(dimension=ROLE, name="implementer", tasks_max=4, by="me", at_unix_micros=5)
    assert (await world.admission_service.Set(command)).revision == 1
    passed_on = world.limits.set["implementer"]
    assert (passed_on.tasks_max, passed_on.by, passed_on.at_unix_micros) == (4, "local", 0)
    listed = await world.admission_service.List(ListAdmissionLimits())
    assert list(listed.limits) == [AdmissionLimit(dimension=ROLE, name="implementer", tasks_max=4)]


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (SetAdmissionLimit(name="a", tasks_max=1), "dimension"),
        (SetAdmissionLimit(dimension=cast(Any, 9), name="a", tasks_max=1), "dimension"),
        (SetAdmissionLimit(dimension=ROLE, name=" ", tasks_max=1), "name"),
        (SetAdmissionLimit(dimension=ROLE, name="a\x1b[2J", tasks_max=1), "name"),
        (SetAdmissionLimit(dimension=ROLE, name="a" * 129, tasks_max=1), "name"),
        (SetAdmissionLimit(dimension=ROLE, name="a", tasks_max=-2), "tasks_max"),
        (SetAdmissionLimit(dimension=ROLE, name="a", tasks_max=1_000_001), "tasks_max"),
    ],
)
async def test_a_bad_limit_is_refused_by_field_and_not_passed_on(
    world: Any, command: SetAdmissionLimit, field: str
) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await world.admission_service.Set(command)
    assert field in refused.value.violations
    assert not world.limits.set


@pytest.mark.parametrize("priority", [-11, 11])
async def test_a_priority_out_of_range_is_refused_and_nothing_starts(world: Any, priority: int) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await world.start_run("run-1", await world.register(), priority=priority)
    assert set(refused.value.violations) == {"priority"}
    assert not world.scheduler.started


@pytest.mark.parametrize("priority", [-10, 10])
async def test_a_run_says_its_priority(world: Any, priority: int) -> None:
    revision = await world.start_run("run-1", await world.register(), priority=priority)
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    assert view.priority == priority


async def test_a_client_starts_no_child_run(world: Any) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await world.start_run("run-1", await world.register(), parent=Parent(run_id="other", task_id="a-1"))
    assert set(refused.value.violations) == {"parent"}
    assert not world.scheduler.started


async def listed(world: Any, **wanted: Any) -> set[str]:
    wanted.setdefault("at_least_revision", await world.log.head())
    page = await world.run_service.List(ListRuns(**wanted))
    return {view.run_id for view in page.runs}


async def test_child_runs_are_listed_for_whoever_asks_for_them(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    await world.start_run("run-2", project_id)
    parent = Parent(run_id="run-1", task_id="a-1", root_run_id="run-1", depth=1)
    child = StartRun(run_id="child", project_id=project_id, workflow=NOOP, input="i", parent=parent)
    child.at_unix_micros = now_micros()
    revision = await world.run_command(child)
    assert await listed(world, at_least_revision=revision) == {"run-1", "run-2"}
    assert await listed(world, with_children=True) == {"run-1", "run-2", "child"}
    assert await listed(world, parent_run_id="run-1") == {"child"}
    assert await listed(world, parent_run_id="run-2") == set()
    assert (await world.run_service.Get(GetRun(run_id="child"))).parent == parent
