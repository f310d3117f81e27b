"""The money of child runs, with a real scheduler on a log in memory: it comes from the parent while there is some."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.errors import WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Run
from crewlog.eventlog.memory import MemoryLog
from crewlog.runtime.channel import dial
from crewlog.v1.agent_pb2 import ParkAgent
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted, RaiseBudget
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub, GateServiceStub
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import (
    AgentNode,
    AnswerGate,
    GrowAllotment,
    MapNode,
    Node,
    ParkCause,
    Role,
    RunStatus,
    StartRun,
    Workflow,
    WorkflowNode,
)
from crewlog.v1.scheduler_pb2 import RequestAllotment

from tests.service.test_recovery import append, ended
from tests.service.test_scheduling import World, client, silent_executor, world

__all__ = ["world"]

ASK = OnExhausted.ON_EXHAUSTED_ASK
LEAF = Workflow(name="leaf", nodes=[Node(node_id="n0", agent=AgentNode(role=Role(name="w", prompt="work")))])


def within(inner: Workflow) -> Workflow:
    return Workflow(name=f"over-{inner.name}", nodes=[Node(node_id="sub", workflow=WorkflowNode(workflow=inner))])


def parts(count: int) -> Workflow:
    body = Node(workflow=WorkflowNode(workflow=LEAF))
    other = Node(node_id="other", agent=LEAF.nodes[0].agent)
    return Workflow(name="parts", nodes=[Node(node_id="m", map=MapNode(body=body, times=count)), other])


@asynccontextmanager
async def platform(world: World) -> AsyncIterator[Any]:
    """A scheduler, and an executor that takes everything."""
    async with world.scheduler(), client(world) as scheduler, silent_executor(scheduler, "executor-1_x"):
        yield scheduler


async def working(world: World, run_id: str) -> Run:
    return await world.until(run_id, lambda state: "n0-1" in state.open)


async def child_of(world: World, run_id: str, task_id: str) -> str:
    state = await world.until(run_id, lambda state: task_id in state.child_runs)
    return state.child_runs[task_id]


def more(run_id: str, usd: int, generation: int = 1) -> RequestAllotment:
    wanted = Amounts(usd_micros=usd)
    return RequestAllotment(run_id=run_id, task_id="n0-1", generation=generation, wanted=wanted)


async def wrong(log: MemoryLog) -> list[str]:
    """With the runs: the agents are played."""
    entries: list[Entry] = []
    async for batch in log.follow(0):
        entries += [Entry.FromString(stored.payload) for stored in batch]
        if batch[-1].revision == await log.head():
            break
    return [what for what in violations(entries) if what.startswith("run ")]


async def park(world: World, run_id: str, usd: int) -> None:
    agent_id = f"{run_id}_n0-1"
    budget_id, wanted = run_money.RUN_BUDGET_PREFIX + run_id, Amounts(usd_micros=usd)
    cause = ParkCause.PARK_CAUSE_BUDGET
    parked = ParkAgent(agent_id=agent_id, generation=1, cause=cause, budget_id=budget_id, wanted=wanted)
    await append(world.log, agent, agent_id, ended(agent_id)[0], parked)


async def test_what_others_gave_back_helps_the_child_run_that_needs_more(world: World) -> None:
    async with platform(world) as scheduler:
        await scheduler.Start(StartRun(run_id="p", workflow=parts(2), budget=Limit(usd_micros=300)))
        first, second = await child_of(world, "p", "m_0-1"), await child_of(world, "p", "m_1-1")
        assert [(await working(world, id)).limit.usd_micros for id in (first, second)] == [100, 100]
        refused = await scheduler.Grow(more(first, 50))
        assert refused.exhausted_budget_id == "run_p"
        await append(world.log, agent, "p_other-1", *ended("p_other-1"))
        await world.until("p", lambda state: state.allotted.usd_micros == 200)
        granted = await scheduler.Grow(more(first, 50))
        assert granted.allotment.usd_micros == 200
        assert (await scheduler.Grow(more(second, 1))).exhausted_budget_id == "run_p"
    state = await world.state("p")
    assert (state.allotted.usd_micros, state.tasks["m_0-1"].allotment.usd_micros) == (300, 200)
    assert (await world.state(first)).limit.usd_micros == 200
    assert await wrong(world.log) == []


async def test_whoever_leads_next_hands_on_what_the_parent_has_given(world: World) -> None:
    async with platform(world) as scheduler:
        await scheduler.Start(StartRun(run_id="p", workflow=within(LEAF), budget=Limit(usd_micros=100)))
        child = await child_of(world, "p", "sub-1")
        await working(world, child)
        await raised(world, 40)
    await append(world.log, run, "p", GrowAllotment(run_id="p", task_id="sub-1", number=1, by=Amounts(usd_micros=40)))
    assert (await world.state(child)).limit.usd_micros == 100
    async with world.scheduler():
        await world.until(child, lambda state: state.limit.usd_micros == 140)
    async with platform(world) as scheduler:
        state = await world.state(child)
    assert (state.limit.usd_micros, state.followed) == (140, 1)
    assert await wrong(world.log) == []


async def raised(world: World, usd: int, budget_id: str = "run_p") -> None:
    async with dial(world.scheduler_address, world.token) as channel:
        await BudgetServiceStub(channel).Raise(RaiseBudget(budget_id=budget_id, by=Amounts(usd_micros=usd)))


async def test_a_person_is_asked_by_the_run_at_the_top_and_the_answer_goes_down(world: World) -> None:
    start = StartRun(run_id="p", workflow=within(within(LEAF)), budget=Limit(usd_micros=100), on_exhausted=ASK)
    async with platform(world) as scheduler:
        await scheduler.Start(start)
        middle = await child_of(world, "p", "sub-1")
        leaf = await child_of(world, middle, "sub-1")
        await working(world, leaf)
        await park(world, leaf, 30)
        asked = await world.until("p", lambda state: bool(state.gates))
        assert [(id, gate.opened.task_id) for id, gate in asked.gates.items()] == [("sub-1-1", "sub-1")]
        await answer(world, "raise")
        state = await world.until(leaf, lambda state: state.limit.usd_micros == 140 and "n0-1" in state.open)
        assert state.tasks["n0-1"].generation == 2
        assert not (await world.state(middle)).gates and not state.gates
    assert [(await world.state(id)).limit.usd_micros for id in ("p", middle)] == [140, 140]
    assert await wrong(world.log) == []


async def answer(world: World, choice: str) -> None:
    async with dial(world.scheduler_address, world.token) as channel:
        by = Amounts(usd_micros=40) if choice == run_money.RAISE else None
        await GateServiceStub(channel).Answer(AnswerGate(run_id="p", gate_id="sub-1-1", choice=choice, by=by))


async def test_who_is_refused_goes_on_in_order_to_end(world: World) -> None:
    start = StartRun(run_id="p", workflow=within(LEAF), budget=Limit(usd_micros=100), on_exhausted=ASK)
    async with platform(world) as scheduler:
        await scheduler.Start(start)
        child = await child_of(world, "p", "sub-1")
        await working(world, child)
        await park(world, child, 30)
        await world.until("p", lambda state: bool(state.gates))
        await answer(world, run_money.STOP)
        state = await world.until(child, lambda state: state.tasks["n0-1"].has_to_stop and "n0-1" in state.open)
    assert state.status == RunStatus.RUN_STATUS_RUNNING
    assert await wrong(world.log) == []


async def test_the_budget_of_a_child_run_is_its_parents_to_change(world: World) -> None:
    async with platform(world) as scheduler:
        await scheduler.Start(StartRun(run_id="p", workflow=within(LEAF), budget=Limit(usd_micros=100)))
        child = await child_of(world, "p", "sub-1")
        await working(world, child)
        with pytest.raises(WrongState, match="is a part of that of run 'p'"):
            await raised(world, 10, f"run_{child}")
