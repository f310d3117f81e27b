"""Fifty processes want a call each from a budget that has room for three."""

from __future__ import annotations

import asyncio
from random import Random

from crewlog.domain import budget as budget_rules
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import BudgetExceeded, Contention, Refused, Unavailable
from crewlog.v1.agent_pb2 import EffectKey, FinishModelCall, HostAgent, StartModelCall
from crewlog.v1.budget_pb2 import Limit, Reservation, SetBudget, SettleAllotment, TakeAllotment

from tests.simulation.faults import Faults, FaultyLog
from tests.simulation.world import Plan, World

CONTENDERS, ROOM, COST = 50, 3, 100
FAULTS = Faults(lost_appends=0.01, lost_answers=0.01, false_conflicts=0.01)


async def race(seed: int, make_log: type[FaultyLog] = FaultyLog, faults: Faults = FAULTS) -> World:
    world = World(seed, Plan(), faults, make_log)
    limit = Limit(usd_micros=COST * ROOM)
    set_budget = SetBudget(budget_id="tenant", limit=limit)
    await world.tell(world.owner(budget_rules), budget_rules, "tenant", set_budget)
    order = list(range(CONTENDERS))
    Random(seed).shuffle(order)
    await asyncio.gather(*(_contend(world, f"r_t{number}-1") for number in order))
    return world


async def _contend(world: World, agent_id: str) -> None:
    try:
        await _take(world, agent_id)
    except BudgetExceeded:
        world.paths["refused"] += 1
    except (Contention, Unavailable):
        world.paths["gave up"] += 1
    else:
        await _call(world, agent_id)


async def _take(world: World, agent_id: str) -> None:
    take = TakeAllotment(
        budget_id="tenant", allotment_id=agent_id, number=1, amounts=Amounts(usd_micros=COST).message()
    )
    await world.owner(budget_rules).handle("tenant", take, world.meta())


async def _call(world: World, agent_id: str) -> None:
    world.paths["called"] += 1
    agents = world.owner(agent_rules)
    key, reservation = EffectKey(turn=1, index=-1, attempt=1), Reservation(usd_micros=COST)
    host = HostAgent(agent_id=agent_id, generation=1, allotment=Limit(usd_micros=COST))
    await world.tell(agents, agent_rules, agent_id, host, 1)
    start = StartModelCall(agent_id=agent_id, generation=1, key=key, reservation=reservation)
    try:
        await world.tell(agents, agent_rules, agent_id, start, 1)
    except Refused:
        world.paths["not reserved"] += 1
        return
    outcome = await world.provider.call(agent_id, key, reservation)
    finish = FinishModelCall(agent_id=agent_id, generation=1, key=key, answer=outcome.answer, failure=outcome.failure)
    state = (await world.tell(agents, agent_rules, agent_id, finish, 1)).state
    settle = SettleAllotment(
        budget_id="tenant", allotment_id=agent_id, spent=Amounts(COST).at_most(state.spent).message()
    )
    world.paths["settled for less"] += state.spent.usd_micros < COST
    if state.spent.usd_micros >= COST:
        await world.tell(world.owner(budget_rules), budget_rules, "tenant", settle)
