"""Budgets, gates and costs through the gateway: what is refused at the edge, what is forwarded, what is summed."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound
from crewlog.gateway import pages
from crewlog.gateway.money_queries import GateFilter
from crewlog.v1.budget_pb2 import (
    Amounts,
    Limit,
    LowerBudget,
    OnExhausted,
    Period,
    RaiseBudget,
    SetBudget,
)
from crewlog.v1.budget_service_pb2 import GetBudget, ListBudgets, ListGates, QueryCost
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.node_pb2 import GateNode
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    ClaimTask,
    EndTask,
    GateStatus,
    GetRun,
    Node,
    Parent,
    ParkTask,
    StartRun,
    Workflow,
)

from tests.service.gateway.acting import DAY, NOON, Spending, answer, failure, plan, start

LIMIT = Limit(usd_micros=5_000_000)


async def spend(world: Any, run_id: str = "run-1") -> tuple[Spending, int]:
    """Every way in which a call can end."""
    run = await Spending(world, run_id, await world.register()).begin()
    cached = {"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 1_000}
    await run.act("a", start(1), answer(1, 405, **cached))
    await run.act("a", start(2), failure(2, charged=True), start(2, 2), answer(2, 7, 2, at=NOON + DAY))
    await run.act("b", start(1), failure(1, charged=False), start(1, 2, model="n", credential="other"))
    await run.act("b", run.host("b", 2))
    await run.act("b", *(_at_generation(2, each) for each in (start(1, 3), answer(1, 2_500, 3), start(2))))
    await run.end("a")
    return run, await run.end("b")


def _at_generation(generation: int, command: Any) -> Any:
    command.generation = generation
    return command


async def test_the_sum_is_what_the_run_has_spent_to_the_micro_dollar(world: Any) -> None:
    run, revision = await spend(world)
    table = await world.cost_service.Query(QueryCost(by=["task"], run_id="run-1", at_least_revision=revision))
    assert [(row.keys[0], row.usd_micros, row.lost_usd_micros) for row in table.rows] == [
        ("a-1", 405 + 1_000 + 7, 1_000),
        ("b-1", 1_000 + 2_500 + 1_000, 2_000),
    ]
    assert table.total.usd_micros == await run.spent(revision) == 405 + 1_000 + 7 + 1_000 + 2_500 + 1_000
    assert (table.total.lost_usd_micros, table.total.saved_usd_micros) == (3_000, 2_700)
    assert (table.total.usage.cache_read_tokens, table.total.model_calls) == (1_000, 6)
    assert table.revision >= revision


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (["run", "role"], [["run-1", "a-role"], ["run-1", "b-role"]]),
        (["model", "credential"], [["m", "main"], ["n", "other"]]),
        (["day"], [["2024-10-04"], ["2024-10-05"]]),
        (["role", "day"], [["a-role", "2024-10-04"], ["a-role", "2024-10-05"], ["b-role", "2024-10-04"]]),
    ],
)
async def test_rows_are_by_what_is_asked_for_and_have_the_same_sum(
    world: Any, by: list[str], keys: list[list[str]]
) -> None:
    _, revision = await spend(world)
    table = await world.cost_service.Query(QueryCost(by=by, at_least_revision=revision))
    found = [list(row.keys) for row in table.rows]
    assert [row for row in found if row in keys] == keys == sorted(keys)
    assert sum(row.usd_micros for row in table.rows) == table.total.usd_micros


async def test_costs_of_a_project_are_those_of_its_runs(world: Any) -> None:
    run, revision = await spend(world)
    other = await Spending(world, "run-2", await world.register("/repos/other")).begin()
    revision = await other.act("a", start(1), answer(1, 11))
    table = await world.cost_service.Query(QueryCost(by=["project"], at_least_revision=revision))
    assert {row.keys[0]: row.usd_micros for row in table.rows} == {run.project_id: 5_912, other.project_id: 11}
    table = await world.cost_service.Query(QueryCost(by=["run"], project_id=other.project_id))
    assert [(list(row.keys), row.usd_micros) for row in table.rows] == [(["run-2"], 11)]


async def test_days_are_those_of_the_zone(world: Any) -> None:
    run = await Spending(world, "run-1", await world.register()).begin()
    midnight = 20_000 * DAY
    revision = await run.act("a", start(1), answer(1, 3, at=midnight - 1), start(2), answer(2, 4, at=midnight))
    for zone, days in (("UTC", 2), ("Asia/Tokyo", 1), ("Asia/Kathmandu", 1)):
        query = QueryCost(by=["day"], time_zone=zone, at_least_revision=revision)
        assert len((await world.cost_service.Query(query)).rows) == days
    query = QueryCost(from_unix_micros=midnight, to_unix_micros=midnight + 1)
    assert (await world.cost_service.Query(query)).total.usd_micros == 4


async def test_a_task_that_ends_without_its_agent_has_its_open_call_counted_once(world: Any) -> None:
    run = await Spending(world, "run-1", await world.register()).begin()
    await run.act("a", start(1), answer(1, 5), start(2))
    await world.run_command(CancelRun(run_id="run-1"))
    state, _ = await world.agents.state("run-1_a-1")
    so_far = agent.result_so_far(state, NOON)
    revision = await world.run_command(EndTask(run_id="run-1", task_id="a-1", cancelled=so_far))
    query = QueryCost(run_id="run-1", at_least_revision=revision)
    assert (await world.cost_service.Query(query)).total.usd_micros == await run.spent(revision) == 1_005
    revision = await run.act("a", run.host("a", 2))
    query.at_least_revision = revision
    assert (await world.cost_service.Query(query)).total.usd_micros == 1_005


async def test_costs_and_gates_are_the_same_after_everything_was_read_anew(world: Any) -> None:
    _, revision = await spend(world)
    query = QueryCost(by=["run", "task", "role", "model", "credential", "day"], at_least_revision=revision)
    before = await world.cost_service.Query(query)
    await world.restart()
    assert await world.cost_service.Query(query) == before
    await world.stop_gateway()
    with sqlite3.connect(world.projection_file) as connection:
        connection.execute("update meta set value = '0' where key = 'rules'")
        connection.execute("update cost set usd = 1")
    connection.close()
    await world.start_gateway()
    assert await world.cost_service.Query(query) == before


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (QueryCost(by=["colour"]), "by"),
        (QueryCost(by=["run", "run"]), "by"),
        (QueryCost(time_zone="Europe/Nowhere"), "time_zone"),
        (QueryCost(time_zone="../../etc/passwd"), "time_zone"),
        (QueryCost(run_id="a.b"), "run_id"),
        (QueryCost(project_id="A"), "project_id"),
        (QueryCost(from_unix_micros=-1), "from_unix_micros"),
        (QueryCost(from_unix_micros=5, to_unix_micros=4), "to_unix_micros"),
    ],
)
async def test_a_bad_question_about_costs_is_refused_by_field(world: Any, query: QueryCost, field: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        await world.cost_service.Query(query)
    assert field in caught.value.violations


BAD_SETS: list[tuple[dict[str, Any], str]] = [
    ({"budget_id": ""}, "budget_id"),
    ({"budget_id": "team"}, "budget_id"),
    ({"budget_id": "named_A"}, "budget_id"),
    ({"budget_id": "named_" + "x" * 33}, "budget_id"),
    ({"budget_id": "run_r-1"}, "budget_id"),
    ({"parent_id": "run_r-1"}, "parent_id"),
    ({"parent_id": "named_gone"}, "parent_id"),
    ({"parent_id": "named_team"}, "parent_id"),
    ({"budget_id": "tenant", "parent_id": "named_team"}, "parent_id"),
    ({"limit": Limit()}, "limit"),
    ({"limit": Limit(usd_micros=-1)}, "limit.usd_micros"),
    ({"limit": Limit(model_calls=10**15 + 1)}, "limit.model_calls"),
    ({"period": 9}, "period"),
    ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ({"warn_percents": [0]}, "warn_percents"),
    ({"warn_percents": [101]}, "warn_percents"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_SETS)
async def test_a_bad_budget_is_refused_by_field_and_appends_nothing(
    world: Any, changes: dict[str, Any], field: str
) -> None:
    fields: dict[str, Any] = {"budget_id": "named_team", "limit": LIMIT} | changes
    with pytest.raises(InvalidCommand) as caught:
        await world.budget_service.Set(SetBudget(**fields))
    assert field in caught.value.violations
    assert await world.log.head() == 0


async def test_a_budget_is_set_changed_and_read(world: Any) -> None:
    project_id = await world.register()
    first = SetBudget(budget_id="tenant", limit=LIMIT, period=Period.PERIOD_MONTH, time_zone="Europe/Berlin")
    await world.budget_service.Set(first)
    await world.budget_service.Set(SetBudget(budget_id=f"project_{project_id}", limit=LIMIT))
    by = Amounts(usd_micros=2)
    for _ in range(2):
        await world.budget_service.Raise(RaiseBudget(budget_id="tenant", by=by, request_id="once"))
    await world.budget_service.Lower(LowerBudget(budget_id="tenant", by=Amounts(usd_micros=1), request_id="low"))
    view = await world.budget_service.Get(GetBudget(budget_id="tenant"))
    assert (view.limit.usd_micros, view.time_zone) == (5_000_001, "Europe/Berlin")
    assert len((await world.budget_service.List(ListBudgets())).budgets) == 2
    entries = [m.entry async for m in world.event_service.Watch(WatchEvents(until_now=True, kinds=["budget"]))]
    assert len(entries) == 4
    with pytest.raises(NotFound):
        await world.budget_service.Get(GetBudget(budget_id="named_none"))
    with pytest.raises(NotFound):
        await world.budget_service.Set(SetBudget(budget_id="project_none", limit=LIMIT))


async def test_who_names_a_run_and_not_its_budget_is_told_how_it_is_called(world: Any) -> None:
    with pytest.raises(InvalidCommand, match="`run_ID`"):
        await world.budget_service.Get(GetBudget(budget_id="demo"))


@pytest.mark.parametrize(
    ("by", "field"),
    [
        (Amounts(), "by"),
        (Amounts(usd_micros=-1), "by.usd_micros"),
        (Amounts(usd_micros=10**16), "by.usd_micros"),
        (Amounts(usd_micros=10**15), "by.usd_micros"),
        (Amounts(model_calls=1), "by.model_calls"),
    ],
)
async def test_a_bad_raise_is_refused_by_field(world: Any, by: Amounts, field: str) -> None:
    await world.budget_service.Set(SetBudget(budget_id="tenant", limit=LIMIT))
    head = await world.log.head()
    with pytest.raises(InvalidCommand) as caught:
        await world.budget_service.Raise(RaiseBudget(budget_id="tenant", by=by))
    assert field in caught.value.violations and await world.log.head() == head


async def test_parents_never_make_a_circle(world: Any) -> None:
    await world.budget_service.Set(SetBudget(budget_id="named_a", limit=LIMIT))
    await world.budget_service.Set(SetBudget(budget_id="named_b", parent_id="named_a", limit=LIMIT))
    with pytest.raises(InvalidCommand, match="circle"):
        await world.budget_service.Set(SetBudget(budget_id="named_a", parent_id="named_b", limit=LIMIT))


async def test_a_run_is_charged_to_named_budgets_and_those_above_them(world: Any) -> None:
    project_id = await world.register()
    with pytest.raises(InvalidCommand) as caught:
        await world.start_run("run-1", project_id, budgets=["team"])
    assert "budgets" in caught.value.violations and not world.scheduler.started
    await world.budget_service.Set(SetBudget(budget_id="named_dept", limit=LIMIT))
    await world.budget_service.Set(SetBudget(budget_id="named_team", parent_id="named_dept", limit=LIMIT))
    revision = await world.start_run("run-1", project_id, budgets=["team"])
    assert await world.start_run("run-1", project_id, budgets=["team"]) == revision
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    assert view.budget_ids == ["tenant", f"project_{project_id}", "named_dept", "named_team"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"budgets": ["A"]}, "budgets"),
        ({"budgets": ["a", "a"]}, "budgets"),
        ({"on_exhausted": 9}, "on_exhausted"),
        ({"gate_seconds": -1}, "gate_seconds"),
        ({"gate_seconds": 10**9}, "gate_seconds"),
        ({"budget": Limit(output_tokens=-1)}, "budget.output_tokens"),
    ],
)
async def test_a_start_with_bad_money_is_refused_by_field(world: Any, changes: dict[str, Any], field: str) -> None:
    project_id = await world.register()
    with pytest.raises(InvalidCommand) as caught:
        await world.start_run("run-1", project_id, **changes)
    assert field in caught.value.violations and not world.scheduler.started


async def _asking(world: Any, run_id: str, project_id: str) -> str:
    """A run whose only task asks for more money; the id of the gate."""
    ask = {"on_exhausted": OnExhausted.ON_EXHAUSTED_ASK, "budget": LIMIT}
    await world.start_run(run_id, project_id, workflow=plan("a"), **ask)
    await world.run_command(ClaimTask(run_id=run_id, task_id="a-1", executor_id="e-1", at_unix_micros=1))
    parked = ParkTask(run_id=run_id, task_id="a-1", budget_id=f"run_{run_id}", wanted=Amounts(usd_micros=9))
    parked.at_unix_micros = NOON
    revision = await world.run_command(parked)
    found = await world.gate_service.List(ListGates(run_id=run_id, at_least_revision=revision))
    (gate,) = found.gates
    return str(gate.gate_id)


async def test_gates_are_listed_answered_once_and_gone(world: Any) -> None:
    project_id = await world.register()
    gates = [await _asking(world, run_id, project_id) for run_id in ("run-1", "run-2")]
    assert [
        gate.run_id
        for gate in (await world.gate_service.List(ListGates(at_least_revision=await world.log.head()))).gates
    ] == ["run-1", "run-2"]
    by = Amounts(usd_micros=1_500_000)
    answered = AnswerGate(run_id="run-1", gate_id=gates[0], choice="raise", by=by, answered_by="root", at_unix_micros=1)
    revision = (await world.gate_service.Answer(answered)).revision
    assert world.gates.answers[0].answered_by == "local" and not world.gates.answers[0].at_unix_micros
    assert (await world.gate_service.Answer(answered)).revision == revision
    with pytest.raises(Conflict):
        await world.gate_service.Answer(AnswerGate(run_id="run-1", gate_id=gates[0], choice="stop"))
    still = await world.gate_service.List(ListGates(at_least_revision=revision))
    assert [gate.run_id for gate in still.gates] == ["run-2"]
    every = await world.gate_service.List(
        ListGates(run_id="run-1", with_closed=True, at_least_revision=await world.log.head())
    )
    assert [(gate.status, gate.answered_by) for gate in every.gates] == [(GateStatus.GATE_STATUS_ANSWERED, "local")]
    assert every.gates == (await world.run_service.Get(GetRun(run_id="run-1"))).gates


async def test_gates_of_child_runs_are_listed_with_those_of_their_parents(world: Any) -> None:
    ask = Workflow(name="ask", nodes=[Node(node_id="ok", gate=GateNode(question="Go on?"))])
    for run_id, above in (("top", ""), ("child", "top"), ("grandchild", "child"), ("other", "")):
        parent = Parent(run_id=above, task_id="c-1", root_run_id="top", depth=1) if above else None
        command = StartRun(run_id=run_id, workflow=ask, parent=parent, base_commit="b" * 40, at_unix_micros=NOON)
        revision = await world.run_command(command)

    async def listed(run_id: str) -> list[str]:
        found = await world.gate_service.List(ListGates(run_id=run_id, at_least_revision=revision))
        return sorted(gate.run_id for gate in found.gates)

    assert await listed("top") == ["child", "grandchild", "top"]
    assert await listed("grandchild") == ["grandchild"]
    assert await listed("gone") == []


async def test_gates_are_listed_page_by_page(world: Any) -> None:
    asked = [Node(node_id=f"ok{number}", gate=GateNode(question="Go on?")) for number in range(5)]
    for run_id in ("run-1", "run-2"):
        command = StartRun(run_id=run_id, workflow=Workflow(name="ask", nodes=asked), at_unix_micros=NOON)
        revision = await world.run_command(command)
    wanted, listed = ListGates(page_size=4, at_least_revision=revision), list[list[str]]()
    while wanted.page_token or not listed:
        page = await world.gate_service.List(wanted)
        listed.append([f"{gate.run_id} {gate.task_id}" for gate in page.gates])
        wanted.page_token = page.next_page_token
    assert [len(page) for page in listed] == [4, 4, 2]
    assert list(itertools.chain(*listed)) == [
        f"{run_id} ok{number}-1" for run_id in ("run-1", "run-2") for number in range(5)
    ]


async def test_a_page_of_gates_begins_where_a_token_says(world: Any) -> None:
    names_no_gate = pages.token("nonsense", "gates", GateFilter())
    names_other = pages.token("1 run-1 ok-1", "gates", GateFilter("run-1"))
    too_late = pages.token(f"{2**63} run-1 ok-1", "gates", GateFilter())
    no_text = pages.token("1 \ud800 ok-1", "gates", GateFilter())
    for token in (names_no_gate, names_other, too_late, no_text, "nonsense"):
        with pytest.raises(InvalidCommand) as caught:
            await world.gate_service.List(ListGates(page_token=token))
        assert "page_token" in caught.value.violations


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"choice": ""}, "choice"),
        ({"choice": "maybe", "by": Amounts()}, "choice"),
        ({"gate_id": "a.b"}, "gate_id"),
        ({"choice": "stop", "by": Amounts(usd_micros=1)}, "by"),
        ({"by": Amounts(usd_micros=-1)}, "by.usd_micros"),
        ({"by": Amounts()}, "by"),
        ({"choice": "", "text": "   ", "by": Amounts()}, "text"),
        ({"choice": "", "text": "a" * 65_537, "by": Amounts()}, "text"),
    ],
)
async def test_a_bad_answer_is_refused_by_field(world: Any, changes: dict[str, Any], field: str) -> None:
    gate_id = await _asking(world, "run-1", await world.register())
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "gate_id": gate_id,
        "choice": "raise",
        "by": Amounts(usd_micros=1),
    } | changes
    with pytest.raises(InvalidCommand) as caught:
        await world.gate_service.Answer(AnswerGate(**fields))
    assert field in caught.value.violations
