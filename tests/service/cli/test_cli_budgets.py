"""A budget has one name, in what is printed as in what is typed."""

from __future__ import annotations

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.v1.budget_pb2 import Amounts, BudgetView, LowerBudget, RaiseBudget
from crewlog.v1.budget_service_pb2 import GetBudget
from crewlog.v1.run_pb2 import RunView

from tests.service.cli.remembering import Crewlog, Remembering


@pytest.mark.parametrize("name", ["run_demo", "run:demo"])
@pytest.mark.parametrize("verb", ["raise", "lower"])
async def test_the_budget_of_a_run_has_one_name(
    crewlog: Crewlog, remembering: Remembering, verb: str, name: str
) -> None:
    done = await crewlog("budget", verb, name, "1.50")
    assert done.returncode == ExitCode.OK, done.stderr
    [asked] = remembering.asked
    assert isinstance(asked, RaiseBudget | LowerBudget)
    assert (asked.budget_id, asked.by) == ("run_demo", Amounts(usd_micros=1_500_000))
    assert "budget run_demo " in done.stderr


@pytest.mark.parametrize("printed", ["tenant", "project_demo-1", "named_team", "run_demo"])
async def test_what_is_printed_can_be_typed(crewlog: Crewlog, remembering: Remembering, printed: str) -> None:
    remembering.view = RunView(run_id="demo", budget_ids=[printed])
    remembering.budgets = [BudgetView(budget_id=printed)]
    assert f"charged   {printed}\n" in (await crewlog("show", "demo")).stdout
    assert printed in (await crewlog("budget", "list")).stdout
    assert f"budget    {printed}\n" in (await crewlog("budget", "show", printed)).stdout
    assert remembering.asked == [GetBudget(budget_id=printed)]


async def test_help_names_budgets_as_they_are_printed(crewlog: Crewlog) -> None:
    for verb in ("raise", "lower", "show"):
        assert "run_ID" in (await crewlog("budget", verb, "--help")).stdout
    assert "run_ID" not in (await crewlog("budget", "set", "--help")).stdout
