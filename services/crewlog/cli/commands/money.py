"""Commands about money: what was spent, what may be, and who is asked for more."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.commands.runs import ProjectId
from crewlog.cli.options import Where, located

PANEL = "Money"
BudgetId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="tenant, project_ID, named_NAME, or run_ID.",
        show_default=False,
        autocompletion=completing.budgets_of_runs,
    ),
]
Dollars = Annotated[str, typer.Argument(metavar="DOLLARS", help="US dollars, such as 1.50.", show_default=False)]
InputTokens = Annotated[int, typer.Option("--input-tokens", min=0, help="Tokens that go in.", show_default=False)]
OutputTokens = Annotated[int, typer.Option("--output-tokens", min=0, help="Tokens that come out.", show_default=False)]
Calls = Annotated[int, typer.Option("--calls", min=0, help="Model calls.", show_default=False)]


StandingId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="tenant, project_ID or named_NAME.", show_default=False, autocompletion=completing.budgets
    ),
]


class By(StrEnum):
    PROJECT = "project"
    RUN = "run"
    TASK = "task"
    ROLE = "role"
    MODEL = "model"
    CREDENTIAL = "credential"
    DAY = "day"


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class CostOutput(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL)(located(cost))
    budget = typer.Typer(no_args_is_help=True, help="Limits what is spent, above the runs and in them.")
    for command, name in ((set_, "set"), (raise_, "raise"), (lower, "lower"), (list_, "list"), (show, "show")):
        budget.command(name)(located(command))
    app.add_typer(budget, name="budget", rich_help_panel=PANEL)


def cost(
    where: Where,
    by: Annotated[list[By] | None, typer.Option("--by", help="One row for each. Can be repeated.")] = None,
    run: Annotated[str, typer.Option("--run", help="Only this run.", autocompletion=completing.runs)] = "",
    project: ProjectId = "",
    since: Annotated[str, typer.Option("--since", help="From this day on, such as 2026-03-01.")] = "",
    until: Annotated[str, typer.Option("--until", help="Up to this day and with it.")] = "",
    zone: Annotated[str, typer.Option("--zone", help="Whose days, such as Europe/Berlin.", show_default="UTC")] = "",
    output: Annotated[CostOutput, typer.Option("--output", "-o", help="How data is written.")] = CostOutput.TABLE,
) -> None:
    """Says what was spent, to the micro-dollar."""
    from crewlog.cli import costing

    default = [By.TASK] if run else [By.RUN]
    wanted = costing.Wanted([each.value for each in by or default], run, project, since, until, zone)
    where.ask(lambda gateway: costing.write(gateway, wanted, output.value))


def set_(
    where: Where,
    budget: StandingId,
    limit: Annotated[str, typer.Option("--limit", help="US dollars.", show_default="no limit")] = "",
    input_tokens: InputTokens = 0,
    output_tokens: OutputTokens = 0,
    calls: Calls = 0,
    period: Annotated[Period | None, typer.Option("--period", help="What is spent counts anew each ...")] = None,
    zone: Annotated[str, typer.Option("--zone", help="Whose days, such as Europe/Berlin.", show_default="UTC")] = "",
    parent: Annotated[
        str,
        typer.Option("--parent", help="The budget above it.", show_default="tenant", autocompletion=completing.budgets),
    ] = "",
    warn: Annotated[list[int] | None, typer.Option("--warn", help="Percent. Can be repeated. [default: 80]")] = None,
) -> None:
    """Sets a budget, or changes everything of it but what was spent."""
    from crewlog.cli import budgeting, money

    amount = money.limit(limit, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls, name="--limit")
    settings = budgeting.Settings(budget, amount, period.value if period else "", zone, parent, warn or ())
    where.ask(lambda gateway: budgeting.set_budget(gateway, settings))


def raise_(
    where: Where,
    budget: BudgetId,
    dollars: Dollars = "",
    input_tokens: InputTokens = 0,
    output_tokens: OutputTokens = 0,
    calls: Calls = 0,
) -> None:
    """Raises a limit. What waits for it goes on."""
    from crewlog.cli import budgeting, money

    by = money.amounts(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    where.ask(lambda gateway: budgeting.raise_budget(gateway, budget, by))


def lower(
    where: Where,
    budget: BudgetId,
    dollars: Dollars = "",
    input_tokens: InputTokens = 0,
    output_tokens: OutputTokens = 0,
    calls: Calls = 0,
) -> None:
    """Lowers a limit. Below what is spent is allowed, and stops further calls."""
    from crewlog.cli import budgeting, money

    by = money.amounts(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    where.ask(lambda gateway: budgeting.lower_budget(gateway, budget, by))


def list_(where: Where) -> None:
    """Lists the budgets as a tree, with what is used of them and what waits."""
    from crewlog.cli import budgeting

    where.ask(lambda gateway: budgeting.write_list(gateway, where.output))


def show(where: Where, budget: BudgetId) -> None:
    """Shows a budget."""
    from crewlog.cli import budgeting

    where.ask(lambda gateway: budgeting.show(gateway, where.output, budget))
