"""Money on the command line: amounts are read exactly or refused, and tables show what is there."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest
from crewlog.cli import budgeting, costing, gates, money
from crewlog.cli.costing import Wanted
from crewlog.domain.amounts import AMOUNT_MAX
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_pb2 import Amounts, BudgetView, Limit, Period, Usage
from crewlog.v1.budget_service_pb2 import CostRow, CostTable
from crewlog.v1.run_pb2 import GateKind, GateStatus, GateView
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, AMOUNT_MAX))
def test_every_amount_is_read_as_it_is_written(micros: int) -> None:
    assert money.usd_micros(f"{Decimal(micros) / 1_000_000:.6f}") == micros


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nan", "is no number"),
        ("inf", "is no number"),
        ("-5", "is negative"),
        ("0.0000001", "finer than a micro-dollar"),
        ("$5", "has a \\$"),
        ("5 EUR", "another currency"),
        ("€5", "another currency"),
        ("5 USD", "names its currency"),
        ("1000000001", "too large"),
        ("9" * 5_000, "too large"),
        ("", "is empty"),
        ("1e3", "is no number"),
        ("1_000", "is no number"),
        ("１", "is no number"),
        ("5,50", "is no number"),
    ],
)
def test_what_is_no_amount_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidCommand, match=why) as caught:
        money.usd_micros(text, "--limit")
    assert caught.value.what_to_do and "--limit" in caught.value.message and len(caught.value.message) < 200


def test_decimals_that_are_zero_change_nothing() -> None:
    assert money.usd_micros("1.50000000") == 1_500_000


def test_a_change_needs_something() -> None:
    with pytest.raises(InvalidCommand, match="is empty"):
        money.amounts("")
    with pytest.raises(InvalidCommand, match="is empty"):
        money.amounts("0")
    assert money.amounts("", calls=3) == Amounts(model_calls=3)


def test_only_a_raise_has_an_amount() -> None:
    gate = GateView(kind=GateKind.GATE_KIND_BUDGET, choices=["raise", "stop"])

    def by(choice: str, amount: str) -> Amounts:
        given = money.amounts(amount) if amount else Amounts()
        return gates.to_command(gates.Answered("r", "a-1-1", choice, given), gate).by

    assert by("raise", "1.5") == Amounts(usd_micros=1_500_000)
    assert by("stop", "") == Amounts()
    with pytest.raises(InvalidCommand, match="goes only with"):
        by("stop", "1")
    with pytest.raises(InvalidCommand):
        by("raise", "")


@pytest.mark.parametrize(
    ("part", "whole", "shown"), [(0, 5, ""), (5, 0, ""), (5, 5, "████"), (1, 8, "▌"), (1, 10**9, "▏"), (9, 5, "████")]
)
def test_a_bar_shows_what_is_there_at_all(part: int, whole: int, shown: str) -> None:
    assert costing.bar(part, whole, 4) == shown


def _table() -> CostTable:
    rows = [
        CostRow(keys=["a"], usd_micros=1, model_calls=1),
        CostRow(
            keys=["b"],
            usd_micros=3,
            lost_usd_micros=2,
            saved_usd_micros=7,
            usage=Usage(input_tokens=4, output_tokens=5, cache_read_tokens=6, cache_write_tokens=8),
            model_calls=2,
        ),
    ]
    return CostTable(rows=rows, total=CostRow(usd_micros=4, lost_usd_micros=2, saved_usd_micros=7, model_calls=3))


def test_the_largest_amount_stands_first_and_the_sum_last() -> None:
    lines = costing.in_words(_table(), ["run"])
    assert [line.split()[0] for line in lines] == ["RUN", "b", "a", "total"]
    assert "$0.000003" in lines[1] and "█" in lines[1] and "█" not in lines[3]


def test_days_stay_in_their_order() -> None:
    assert [line.split()[0] for line in costing.in_words(_table(), ["day"])] == ["DAY", "a", "b", "total"]


def test_nothing_was_spent() -> None:
    assert len(costing.in_words(CostTable(), ["run", "role"])) == 2


def test_csv_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    costing.write_csv(_table(), ["run"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["run"] for row in rows] == ["a", "b"]
    assert sum(int(row["usd_micros"]) for row in rows) == 4


def test_what_is_worth_to_be_said_about_a_sum() -> None:
    assert costing.summary(_table()) == "$0.000002 of it for lost calls, $0.000007 saved by the cache"
    assert costing.summary(CostTable()) == ""


def test_days_are_those_of_the_zone_and_the_last_one_belongs_to_it() -> None:
    query = costing.to_query(Wanted(since="2026-03-29", until="2026-03-29", zone="Europe/Berlin"))
    assert query.to_unix_micros - query.from_unix_micros == 23 * 3_600 * 1_000_000


@pytest.mark.parametrize(
    "wanted",
    [Wanted(zone="Europe/Nowhere"), Wanted(zone="../x"), Wanted(since="31.3.2026"), Wanted(until="2026-02-30")],
)
def test_dates_and_zones_that_are_none(wanted: Wanted) -> None:
    with pytest.raises(InvalidCommand):
        costing.to_query(wanted)


def test_budgets_are_a_tree_whatever_order_they_come_in() -> None:
    views = [
        BudgetView(budget_id="named_team", parent_id="project_slug", limit=Limit(model_calls=4)),
        BudgetView(budget_id="project_slug", limit=Limit(usd_micros=20_000_000), waiting_run_ids=["r-2", "r-1"]),
        BudgetView(
            budget_id="tenant",
            limit=Limit(usd_micros=100_000_000),
            spent=Amounts(usd_micros=50_000_000),
            allotted=Amounts(usd_micros=30_000_000),
            period=Period.PERIOD_MONTH,
            time_zone="Europe/Berlin",
        ),
        BudgetView(budget_id="named_lost", parent_id="named_gone", limit=Limit(model_calls=1)),
    ]
    lines = budgeting.tree(views)
    shown = [line[:24].rstrip() for line in lines[1:]]
    assert [text.split()[0] for text in shown] == ["tenant", "project_slug", "named_team", "named_lost"]
    assert [len(text) - len(text.lstrip()) for text in shown] == [0, 2, 4, 0]
    assert "80 %" in lines[1] and "month (Europe/Berlin)" in lines[1] and lines[2].endswith("r-2, r-1")


def test_other_ways_to_write_an_id() -> None:
    assert budgeting.budget_id("run:fix-1") == "run_fix-1"
    assert budgeting.budget_id("named_team") == "named_team"


def test_a_gate_says_what_is_wanted() -> None:
    gate = GateView(
        run_id="r",
        gate_id="a-1-1",
        kind=GateKind.GATE_KIND_BUDGET,
        status=GateStatus.GATE_STATUS_OPEN,
        question="more\x1b[2J?",
        wanted=Amounts(usd_micros=1_500_000, model_calls=1),
    )
    [_, line] = gates.in_words([gate])
    assert "$1.50, 1 model call" in line and "open" in line and "\x1b" not in line
