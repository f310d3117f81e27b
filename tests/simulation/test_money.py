"""Money under crashes, lost answers, duplicates and reorderings: no limit is passed, and no bill differs from ours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest
from crewlog.domain.amounts import Amounts
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.errors import WrongState
from crewlog.v1.budget_pb2 import Period

from tests.simulation import race
from tests.simulation.books import count, mistakes
from tests.simulation.faults import MANY_FAULTS, NO_FAULTS, CarelessLog, Faults, FaultyLog, ForgetfulLog
from tests.simulation.lives import simulate
from tests.simulation.world import Plan, World

SeedsOf = Callable[[int], range]
ONLY_ONE_SEED = "SEED" in os.environ
PATHS = (
    "claimed",
    "not funded",
    "grown",
    "growth refused",
    "parked",
    "woken",
    "stopped",
    "ended without money",
    "lapsed",
    "killed",
    "zombie",
    "stray refused",
    "conflict",
    "append in doubt",
    "AgentTakenOver",
    "AllotmentShrunk",
    "BudgetLimitLowered",
    "BudgetLimitRaised",
    "BudgetWarned",
    "BudgetOverdrawn",
    "EffectPutInDoubt",
    "GateAnswered",
    "GateExpired",
    "ReservationExceeded",
    "RunLimitLowered",
    "RunSucceeded",
    "TaskUnparked",
)


async def _world(seed: int, plan: Plan, faults: Faults, make_log: type[FaultyLog] = FaultyLog) -> World:
    world = World(seed, plan, faults, make_log)
    await simulate(world)
    count(world)
    return world


async def test_money_is_right_whatever_happens(seeds: SeedsOf) -> None:
    paths: Counter[str] = Counter()
    for seed in seeds(100):
        world = await _world(seed, Plan(), MANY_FAULTS)
        assert mistakes(world) == [], f"SEED={seed}"
        paths.update(world.paths)
    missed = [path for path in PATHS if not paths[path]]
    assert ONLY_ONE_SEED or len(seeds(100)) < 100 or not missed, f"never happened: {missed}"


async def test_without_executors_that_live_on_every_sum_agrees(seeds: SeedsOf) -> None:
    faults = Faults(lost_appends=0.02, lost_answers=0.02, false_conflicts=0.02, deaths=0.004)
    for seed in seeds(50):
        assert mistakes(await _world(seed, Plan(), faults)) == [], f"SEED={seed}"


async def test_days_begin_while_agents_work(seeds: SeedsOf) -> None:
    begun = 0
    for seed in seeds(30):
        world = await _world(seed, Plan(period=Period.PERIOD_DAY), MANY_FAULTS)
        assert mistakes(world) == [], f"SEED={seed}"
        begun += world.paths["BudgetPeriodBegun"]
    assert begun


async def test_without_faults_nothing_is_lost(seeds: SeedsOf) -> None:
    for seed in seeds(20):
        world = await _world(seed, Plan(), NO_FAULTS)
        assert mistakes(world) == [], f"SEED={seed}"
        assert world.paths["EffectPutInDoubt"] == world.paths["TaskClaimLapsed"] == 0


@pytest.mark.slow
async def test_a_thousand_agents_under_one_budget() -> None:
    plenty = Amounts(usd_micros=300_000_000)
    plan = Plan(runs=20, tasks=50, calls=2, tenant=plenty, project=plenty, named=plenty, run=Amounts(20_000_000))
    world = await _world(1, plan, Faults(lost_answers=0.001, deaths=0.0002))
    assert mistakes(world) == []
    assert world.paths["AgentStarted"] > 950


async def test_fifty_calls_and_room_for_three(seeds: SeedsOf) -> None:
    total: Counter[str] = Counter()
    for seed in seeds(1_000):
        world = await race.race(seed)
        assert mistakes_of(world) == [], f"SEED={seed}"
        assert len(world.provider.ledger) <= race.ROOM
        total.update(world.paths)
    assert total["called"] >= race.ROOM * len(seeds(1_000)) * 0.8
    assert total["refused"]


async def test_a_log_that_takes_every_entry_is_found_out() -> None:
    """The negative control: the same race, with a log that does not look at the version."""
    found = [await _mistakes_with_a_careless_log(seed) for seed in range(20)]
    red = [mistakes for mistakes in found if any("above the limit" in m or "is damaged" in m for m in mistakes)]
    assert len(red) > 10


async def test_a_log_that_loses_reservations_is_found_out() -> None:
    found = [mistakes_of(await race.race(seed, ForgetfulLog)) for seed in range(20)]
    assert all(any("no such reservation" in mistake for mistake in mistakes) for mistakes in found)


async def test_a_seed_repeats_its_run() -> None:
    first, second = await _world(7, Plan(), MANY_FAULTS), await _world(7, Plan(), MANY_FAULTS)
    assert first.paths == second.paths
    assert [stored.aggregate for stored in first.log.stored] == [stored.aggregate for stored in second.log.stored]


async def _mistakes_with_a_careless_log(seed: int) -> list[str]:
    try:
        return mistakes_of(await race.race(seed, CarelessLog))
    except WrongState as damage:
        return [str(damage)]


def mistakes_of(world: World) -> list[str]:
    """What a race can do wrong: it has no runs."""
    return [*violations(world.log.entries()), *world.provider.unpaid]
