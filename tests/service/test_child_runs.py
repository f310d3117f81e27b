"""Child runs, with a real scheduler and a real executor on a log in memory."""

from __future__ import annotations

import pytest
from crewlog.domain import names
from crewlog.domain.run import state as run_state
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.v1.run_pb2 import MapNode, Node, RunStatus, StartRun, Workflow, WorkflowNode

from tests.service.test_scheduling import World, chain, client, world

__all__ = ["world"]


async def test_they_begin_without_a_look_for_what_cannot_be_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of the log for each of them was a round trip for nothing."""
    empty, read = set[str](), MemoryLog.read

    async def noted(log: MemoryLog, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        found = await read(log, aggregate, after_revision)
        empty.update([] if found or after_revision or aggregate.kind != "run" else [aggregate.id])
        return found

    inner = Workflow(name="inner", nodes=[Node(node_id="leaf", workflow=WorkflowNode(workflow=chain(1)))])
    fan = MapNode(times=5, body=Node(workflow=WorkflowNode(workflow=inner)))
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        monkeypatch.setattr(MemoryLog, "read", noted)
        await scheduler.Start(StartRun(run_id="r", workflow=Workflow(name="w", nodes=[Node(node_id="m", map=fan)])))
        state = await world.until("r", run_state.is_over)
    assert state.status == RunStatus.RUN_STATUS_SUCCEEDED
    assert empty == {"r"}


async def test_one_whose_name_is_taken_fails_its_task(world: World) -> None:
    within = Workflow(name="w", nodes=[Node(node_id="sub", workflow=WorkflowNode(workflow=chain(1)))])
    taken = names.child_run_id("r", "sub-1")
    async with world.scheduler(), world.executor(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id=taken, workflow=chain(1)))
        await scheduler.Start(StartRun(run_id="r", workflow=within))
        state = await world.until("r", run_state.is_over)
    assert state.failure is not None
    assert (state.failure.reason, taken in state.failure.message) == ("child_run_refused", True)
