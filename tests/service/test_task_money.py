"""How a task that is worked on gets more money: what it may cost at most, and as much as there is."""

from __future__ import annotations

from crewlog.domain.run import money as run_money
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted
from crewlog.v1.run_pb2 import AgentNode, Node, Role, StartRun, Workflow
from crewlog.v1.scheduler_pb2 import GrantedAllotment, RequestAllotment

from tests.service.test_child_money import platform, working
from tests.service.test_scheduling import World, world

__all__ = ["world"]

WORKER = AgentNode(role=Role(name="w", prompt="work"))


def start(*caps: int) -> StartRun:
    """A worker for each cap, where 0 is none; the run has 1,000."""
    nodes = [
        Node(node_id=f"n{number}", agent=WORKER, budget=Limit(usd_micros=cap) if cap else None)
        for number, cap in enumerate(caps)
    ]
    ask, workflow = OnExhausted.ON_EXHAUSTED_ASK, Workflow(name="w", nodes=nodes)
    return StartRun(run_id="r", workflow=workflow, budget=Limit(usd_micros=1_000), model="m", on_exhausted=ask)


def more(usd: int, at_least: int = 0) -> RequestAllotment:
    wanted, least = Amounts(usd_micros=usd), Amounts(usd_micros=at_least)
    return RequestAllotment(run_id="r", task_id="n0-1", generation=1, wanted=wanted, wanted_at_least=least)


async def asked(world: World, run: StartRun, request: RequestAllotment) -> GrantedAllotment:
    async with platform(world) as scheduler:
        await scheduler.Start(run)
        await working(world, "r")
        granted: GrantedAllotment = await scheduler.Grow(request)
        return granted


async def test_a_task_gets_no_more_than_its_node_may_cost(world: World) -> None:
    granted = await asked(world, start(100), more(1))
    assert granted.exhausted_budget_id == run_money.node_budget("n0")
    assert granted.on_exhausted == OnExhausted.ON_EXHAUSTED_STOP, "nobody can give it more: it would wait for ever"
    assert (await world.state("r")).allotted.usd_micros == 100


async def test_what_is_of_use_is_given_where_there_is_not_all_that_is_wanted(world: World) -> None:
    granted = await asked(world, start(0, 100), more(700, at_least=400))
    assert granted.allotment.usd_micros == 500 + 400
    assert (await world.state("r")).allotted.usd_micros == 1_000


async def test_less_than_is_of_use_is_not_given(world: World) -> None:
    granted = await asked(world, start(0, 100), more(700, at_least=401))
    assert granted.exhausted_budget_id == "run_r"
    assert (await world.state("r")).allotted.usd_micros == 600
