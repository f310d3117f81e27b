"""Limits on tasks at once and priorities, over real gRPC: what they do to real schedulers and executors, by the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.domain.run import state as run_state
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryLog
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.v1.admission_pb2 import (
    AdmissionDimension,
    AdmissionLimit,
    AdmissionLimitSet,
    ListAdmissionLimits,
    SetAdmissionLimit,
)
from crewlog.v1.admission_pb2_grpc import AdmissionServiceStub
from crewlog.v1.agent_pb2 import AgentSucceeded
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.node_pb2 import GateNode
from crewlog.v1.run_pb2 import Node, NoopNode, RunStarted, StartRun, TaskClaimed, Workflow, WorkflowNode
from crewlog.v1.scheduler_pb2 import ExecutorReport, RunningTask
from crewlog.v1.waiting_pb2 import ExplainWaiting, WaitingReason
from google.protobuf.message import Message

from tests.service.test_scheduling import World, chain, client, free_address

if TYPE_CHECKING:
    from crewlog.v1.admission_pb2_grpc import AdmissionServiceAsyncStub
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

TENANT = AdmissionDimension.ADMISSION_DIMENSION_TENANT
WORKFLOW = AdmissionDimension.ADMISSION_DIMENSION_WORKFLOW


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemoryLog(), free_address(), auth.new_keypair(), auth.new_keypair())


@asynccontextmanager
async def limits_of(world: World) -> AsyncIterator[AdmissionServiceAsyncStub]:
    async with dial(world.scheduler_address, world.token) as channel:
        yield AdmissionServiceStub(channel)


def wide(width: int, steps: int = 3, name: str = "wide") -> Workflow:
    return Workflow(name=name, nodes=[Node(node_id=f"n{n}", noop=NoopNode(steps=steps)) for n in range(width)])


def limit(tasks_max: int, name: str = "wide") -> SetAdmissionLimit:
    return SetAdmissionLimit(dimension=WORKFLOW, name=name, tasks_max=tasks_max, by="me")


async def history(world: World) -> list[tuple[str, Message]]:
    """Every fact of runs and agents as it came, with the id that it belongs to."""
    found: list[tuple[str, Message]] = []
    head = await world.log.head()
    async for batch in world.log.follow(0, ("run", "agent", "admission")):
        for stored in batch:
            facts = codec.facts(Entry.FromString(stored.payload))
            found.extend((stored.aggregate.id, fact) for fact in facts)
        if batch[-1].revision >= head:
            return found
    raise AssertionError("the log ended")


def at_work(facts: list[tuple[str, Message]]) -> list[int]:
    """How many tasks were at work after each of the facts."""
    counts = [0]
    for _, fact in facts:
        counts.append(counts[-1] + isinstance(fact, TaskClaimed) - isinstance(fact, AgentSucceeded))
    return counts[1:]


async def test_an_interactive_run_begins_in_the_next_slot_that_gets_free(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        for number in range(25):
            await scheduler.Start(StartRun(run_id=f"batch-{number}", workflow=wide(40), priority=-10))
        async with world.executor(slots=4):
            await world.until("batch-24", lambda state: len(state.tasks) > 3)
            await scheduler.Start(StartRun(run_id="mine", workflow=chain(1), priority=10))
            await world.until("mine", run_state.is_over)
    facts = await history(world)
    started = next(place for place, (id, fact) in enumerate(facts) if id == "mine" and isinstance(fact, RunStarted))
    claims = [id for id, fact in facts[started:] if isinstance(fact, TaskClaimed)]
    # What was on its way to the log already comes first.
    assert claims.index("mine") <= 4


async def test_a_limit_holds_while_many_runs_begin_and_end(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler:
        await limits.Set(limit(3))
        ids = [f"r{number}" for number in range(8)]
        await asyncio.gather(*(scheduler.Start(StartRun(run_id=id, workflow=wide(20))) for id in ids))
        async with world.executor(slots=8), world.executor("executor-2", slots=8):
            for id in ids:
                await world.until(id, run_state.is_over)
    assert max(at_work(await history(world))) == 3


async def test_others_are_not_kept_back(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler:
        await limits.Set(limit(0))
        await scheduler.Start(StartRun(run_id="kept", workflow=wide(20), priority=10))
        await scheduler.Start(StartRun(run_id="other", workflow=chain(3)))
        async with world.executor(slots=1):
            await world.until("other", run_state.is_over)
            assert not (await world.state("kept")).tasks
            await limits.Set(limit(-1))
            await world.until("kept", run_state.is_over)


async def test_a_limit_is_lowered_while_tasks_are_at_work(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler:
        await limits.Set(limit(8))
        await scheduler.Start(StartRun(run_id="r", workflow=wide(200)))
        async with world.executor(slots=16):
            await world.until("r", lambda state: len(state.tasks) > 40)
            await limits.Set(limit(2))
            await world.until("r", run_state.is_over)
    facts = await history(world)
    lowered = next(
        n for n, (_, fact) in enumerate(facts) if isinstance(fact, AdmissionLimitSet) and fact.tasks_max == 2
    )
    counts = at_work(facts)
    assert max(counts) == 8
    # Those that are at work end, and of what was on its way to the log nothing is left after so many steps.
    assert len(counts[lowered + 100 :]) > 200
    assert max(counts[lowered + 100 :]) == 2


@asynccontextmanager
async def busy_executor(scheduler: SchedulerServiceAsyncStub, *running: RunningTask) -> AsyncIterator[None]:
    """Works on what it says, and on what it is given, for ever."""

    async def report() -> AsyncIterator[ExecutorReport]:
        yield ExecutorReport(executor_id="executor-1_boot", slots=8, running=running)
        await asyncio.Event().wait()

    call = scheduler.Synchronize(report())
    try:
        yield
    finally:
        call.cancel()


async def test_after_a_restart_what_is_at_work_counts_at_once(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler, busy_executor(scheduler):
        await limits.Set(limit(3))
        await scheduler.Start(StartRun(run_id="r", workflow=wide(9)))
        before = await world.until("r", lambda state: len(state.open) == 3)
    running = [RunningTask(run_id="r", task_id=task_id, generation=1) for task_id in before.open]
    async with world.scheduler(), client(world) as scheduler, busy_executor(scheduler, *running):
        await scheduler.Start(StartRun(run_id="other", workflow=chain(1)))
        await world.until("other", lambda state: len(state.open) == 1)
        assert set((await world.state("r")).open) == set(before.open)


async def test_limits_survive_a_restart(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler:
        await limits.Set(limit(0))
        await limits.Set(SetAdmissionLimit(dimension=TENANT, name="*", tasks_max=5))
        await scheduler.Start(StartRun(run_id="kept", workflow=wide(3)))
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler, world.executor():
        await scheduler.Start(StartRun(run_id="other", workflow=chain(3)))
        await world.until("other", run_state.is_over)
        assert not (await world.state("kept")).tasks
        assert list((await limits.List(ListAdmissionLimits())).limits) == [
            AdmissionLimit(dimension=TENANT, name="*", tasks_max=5),
            AdmissionLimit(dimension=WORKFLOW, name="wide", tasks_max=0),
        ]


async def test_a_bad_limit_is_refused(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world):
        with pytest.raises(InvalidCommand) as refusal:
            await limits.Set(SetAdmissionLimit(name="", tasks_max=-2))
    assert set(refusal.value.violations) == {"dimension", "name", "tasks_max"}


async def test_it_is_said_what_tasks_wait_for(world: World) -> None:
    async with world.scheduler(), limits_of(world) as limits, client(world) as scheduler:
        await limits.Set(limit(0))
        await scheduler.Start(StartRun(run_id="kept", workflow=wide(3)))
        await scheduler.Start(StartRun(run_id="other", workflow=chain(2)))
        kept = await scheduler.Explain(ExplainWaiting(run_id="kept"))
        assert {task.why for task in kept.tasks} == {"workflow=wide: 0 of 0 at work"}
        assert [task.task_id for task in kept.tasks] == ["n0-1", "n1-1", "n2-1"]
        assert kept.revision and not kept.is_cut
        other = await scheduler.Explain(ExplainWaiting(run_id="other"))
        assert [task.reason for task in other.tasks] == [
            WaitingReason.WAITING_REASON_NO_EXECUTOR,
            WaitingReason.WAITING_REASON_DEPENDENCIES,
        ]
        both = await scheduler.Explain(ExplainWaiting(tasks_max=2))
        assert [task.run_id for task in both.tasks] == ["kept", "kept"] and both.is_cut
        assert len((await scheduler.Explain(ExplainWaiting())).tasks) == 4


async def test_of_a_run_it_is_said_what_its_child_runs_wait_for(world: World) -> None:
    asks = Workflow(name="asks", nodes=[Node(node_id="ok", gate=GateNode(question="Go on?"))])
    for name in ("inner", "outer"):
        asks = Workflow(name=name, nodes=[Node(node_id=name, workflow=WorkflowNode(workflow=asks))])
    async with world.scheduler(), client(world) as scheduler:
        await scheduler.Start(StartRun(run_id="top", workflow=asks))
        inner = (await world.until("top", lambda run: bool(run.child_runs))).child_runs["outer-1"]
        lowest = (await world.until(inner, lambda run: bool(run.child_runs))).child_runs["inner-1"]
        await world.until(lowest, lambda run: bool(run.gates))
        found = {task.run_id: task.why for task in (await scheduler.Explain(ExplainWaiting(run_id="top"))).tasks}
        assert found == {
            "top": f"the child run {inner}",
            inner: f"the child run {lowest}",
            lowest: "gate ok-1-1: Go on?",
        }
        assert len((await scheduler.Explain(ExplainWaiting())).tasks) == 3


async def test_an_explanation_of_nothing_is_refused(world: World) -> None:
    async with world.scheduler(), client(world) as scheduler:
        with pytest.raises(NotFound):
            await scheduler.Explain(ExplainWaiting(run_id="nobody"))
        with pytest.raises(InvalidCommand):
            await scheduler.Explain(ExplainWaiting(tasks_max=1_001))
        assert not (await scheduler.Explain(ExplainWaiting())).tasks
