"""Money on a real platform: budgets above runs, gates that ask for more, limits that move, and every micro-dollar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.verifying import verify
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.errors import Conflict, InvalidCommand
from crewlog.models.prices import DEFAULT_MODEL, cost, price_of
from crewlog.scheduler.app import RECONCILE_SECONDS
from crewlog.v1.budget_pb2 import Amounts, Limit, LowerBudget, OnExhausted, Period, RaiseBudget, SetBudget, Usage
from crewlog.v1.budget_service_pb2 import GetBudget, ListGates, QueryCost
from crewlog.v1.entry_pb2 import Entry, Event
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.run_pb2 import AnswerGate, GetRun, RunStatus, RunView

from tests.e2e.held import held_script, start_held
from tests.e2e.world import World, platform_on

ASK = OnExhausted.ON_EXHAUSTED_ASK
WAIT = OnExhausted.ON_EXHAUSTED_WAIT
POOR = Limit(usd_micros=45_000)
WAIT_SECONDS = 3 * RECONCILE_SECONDS


async def entries(world: World) -> AsyncIterator[Entry]:
    async for message in world.gateway.events.Watch(WatchEvents(until_now=True)):
        if message.HasField("entry"):
            yield message.entry.entry


async def check(world: World, *run_ids: str, killed: bool = False) -> None:
    """Nothing was ever added above a limit, and what the runs say is what the log and the model server say."""
    history = [entry async for entry in entries(world)]
    assert not list(violations(history))
    answers = [event.model_call_succeeded.answer for event in events(history) if event.HasField("model_call_succeeded")]
    if not killed:
        assert sum(answer.cost_usd_micros for answer in answers) == bill(world)
    for run_id in run_ids:
        await verify(world.gateway, run_id)
        run = await world.gateway.runs.Get(GetRun(run_id=run_id))
        costs = await world.gateway.costs.Query(QueryCost(run_id=run_id, by=["task"], at_least_revision=run.revision))
        assert costs.total.usd_micros == run.spent_usd_micros == sum(row.usd_micros for row in costs.rows)


def events(history: list[Entry]) -> Iterator[Event]:
    return (event for entry in history for decision in entry.decisions for event in decision.events)


def bill(world: World) -> int:
    """What the model server would have charged, by its own ledger and the price list."""
    price = price_of(DEFAULT_MODEL)
    return sum(cost(price, usage_of(line["usage"])) for line in world.ledger())


def usage_of(reported: Any) -> Usage:
    return Usage(
        input_tokens=reported["input_tokens"],
        output_tokens=reported["output_tokens"],
        cache_read_tokens=reported["cache_read_input_tokens"],
        cache_write_tokens=reported["cache_creation_input_tokens"],
    )


async def settled(world: World, budget_id: str) -> Amounts:
    """What was spent of a budget, once nothing is allotted of it any more."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            view = await world.gateway.budgets.Get(GetBudget(budget_id=budget_id))
            if not view.open_allotments:
                return view.spent
            await asyncio.sleep(0.05)


async def open_gate(world: World, run_id: str) -> str:
    entries = await world.watch(run_id, lambda name: name == "gate_opened")
    gates = await world.gateway.gates.List(ListGates(run_id=run_id, at_least_revision=entries[-1].revision))
    return gates.gates[-1].gate_id


async def answer(world: World, run_id: str, gate_id: str, choice: str, usd_micros: int = 0) -> None:
    by = Amounts(usd_micros=usd_micros)
    await world.gateway.gates.Answer(AnswerGate(run_id=run_id, gate_id=gate_id, choice=choice, by=by))


async def test_a_gate_asks_for_more_and_the_agent_goes_on_where_it_was(world: World) -> None:
    await world.start("ask", budget=POOR, on_exhausted=ASK)
    gate_id = await open_gate(world, "ask")
    parked = await world.gateway.runs.Get(GetRun(run_id="ask"))
    assert not [task for task in parked.tasks if task.executor_id and not task.ended_at_unix_micros]
    await answer(world, "ask", gate_id, "raise", 1_000_000)
    run = await world.finished("ask")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    history = [entry async for entry in entries(world)]
    assert len(world.ledger()) == sum(event.HasField("model_call_succeeded") for event in events(history))
    await answer(world, "ask", gate_id, "raise", 1_000_000)
    with pytest.raises(Conflict):
        await answer(world, "ask", gate_id, "stop")
    await check(world, "ask")


async def test_a_gate_that_is_answered_with_stop_ends_the_run_with_what_is_done(world: World) -> None:
    await world.start("stop", budget=POOR, on_exhausted=ASK)
    await answer(world, "stop", await open_gate(world, "stop"), "stop")
    run = await world.finished("stop")
    assert (run.status, run.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "budget_exhausted")
    await check(world, "stop")


async def test_a_gate_expires_as_declared_over_a_restart_of_the_scheduler(world: World) -> None:
    await world.start("late", budget=POOR, on_exhausted=ASK, gate_seconds=3)
    await world.watch("late", lambda name: name == "gate_opened")
    world.kill("scheduler")
    run = await world.finished("late")
    assert (run.status, run.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "budget_exhausted")
    await check(world, "late")


async def test_raising_the_limit_of_a_run_lets_it_go_on(world: World) -> None:
    await world.start("wait", budget=POOR, on_exhausted=WAIT)
    await world.watch("wait", lambda name: name == "task_parked")
    raised = RaiseBudget(budget_id="run_wait", by=Amounts(usd_micros=1_000_000), request_id="once")
    await asyncio.gather(world.gateway.budgets.Raise(raised), world.gateway.budgets.Raise(raised))
    run = await world.finished("wait")
    assert (run.status, run.budget.usd_micros) == (RunStatus.RUN_STATUS_SUCCEEDED, 1_045_000)
    await check(world, "wait")


async def test_lowering_a_limit_below_what_is_spent_stops_further_calls(tmp_path: Path, repository: Path) -> None:
    async with platform_on(tmp_path, repository, held_script(tmp_path)) as world:
        await start_held(world, "low", budget=Limit(usd_micros=2_000_000))
        await world.watch("low", lambda name: name == "tool_call_succeeded")
        await world.gateway.budgets.Lower(LowerBudget(budget_id="run_low", by=Amounts(usd_micros=1_999_999)))
        run = await world.finished("low")
        assert (run.status, run.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "budget_exhausted")
        assert run.spent_usd_micros < 1_000_000
        await check(world, "low")


async def test_runs_share_what_the_tenant_and_a_team_have(world: World) -> None:
    await world.gateway.budgets.Set(
        SetBudget(budget_id="tenant", limit=Limit(usd_micros=5_000_000), period=Period.PERIOD_DAY)
    )
    await world.gateway.budgets.Set(
        SetBudget(budget_id="named_team", limit=Limit(usd_micros=600_000, model_calls=1_000))
    )
    for run_id in ("one", "two"):
        await world.start(run_id, budgets=["team"], budget=Limit(usd_micros=2_000_000))
    runs: list[RunView] = [await world.finished(run_id) for run_id in ("one", "two")]
    assert {run.status for run in runs} == {RunStatus.RUN_STATUS_SUCCEEDED}
    spent = sum(run.spent_usd_micros for run in runs)
    assert (await settled(world, "tenant")).usd_micros == spent
    assert (await settled(world, "named_team")).usd_micros == spent
    await check(world, "one", "two")


async def test_a_team_without_money_stops_its_runs_and_only_those(world: World) -> None:
    await world.gateway.budgets.Set(SetBudget(budget_id="named_poor", limit=Limit(usd_micros=30_000)))
    await world.start("poor", budgets=["poor"])
    await world.start("free")
    assert (await world.finished("poor")).failure.reason == "budget_exhausted"
    assert (await world.finished("free")).status == RunStatus.RUN_STATUS_SUCCEEDED
    assert (await settled(world, "named_poor")).usd_micros <= 30_000
    await check(world, "poor", "free")


async def test_raising_a_teams_budget_lets_what_waits_go_on(world: World) -> None:
    await world.gateway.budgets.Set(SetBudget(budget_id="named_team", limit=Limit(usd_micros=30_000)))
    await world.start("wait", budgets=["team"], on_exhausted=WAIT)
    await world.watch("wait", lambda name: name == "task_parked")
    await world.gateway.budgets.Raise(
        RaiseBudget(budget_id="named_team", by=Amounts(usd_micros=1_000_000), request_id="x")
    )
    assert (await world.finished("wait")).status == RunStatus.RUN_STATUS_SUCCEEDED
    await check(world, "wait")


async def test_what_a_kill_leaves_allotted_is_closed(world: World) -> None:
    await world.gateway.budgets.Set(SetBudget(budget_id="tenant", limit=Limit(usd_micros=5_000_000)))
    await world.start("kill")
    await world.watch("kill", lambda name: name == "tool_call_succeeded")
    world.kill("scheduler", "executor")
    run = await world.finished("kill")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert (await settled(world, "tenant")).usd_micros == run.spent_usd_micros
    await check(world, "kill", killed=True)


async def test_a_limit_on_model_calls_is_kept(world: World) -> None:
    await world.start("calls", budget=Limit(model_calls=5))
    run = await world.finished("calls")
    assert (run.status, run.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "budget_exhausted")
    assert len(world.ledger()) == 5
    await check(world, "calls")


@pytest.mark.parametrize(
    "command",
    [
        SetBudget(budget_id="tenant", limit=Limit(usd_micros=-1)),
        SetBudget(budget_id="tenant", limit=Limit()),
        SetBudget(budget_id="tenant", limit=Limit(usd_micros=10**16)),
        SetBudget(budget_id="tenant", limit=Limit(usd_micros=1), period=Period.PERIOD_DAY, time_zone="Mars/Base"),
        SetBudget(budget_id="no such > id", limit=Limit(usd_micros=1)),
        SetBudget(budget_id="tenant", limit=Limit(usd_micros=1), warn_percents=[101]),
    ],
)
async def test_bad_budgets_are_refused_and_nothing_is_written(world: World, command: SetBudget) -> None:
    with pytest.raises(InvalidCommand):
        await world.gateway.budgets.Set(command)
    assert not [entry async for entry in entries(world) if entry.aggregate.kind == "budget"]
