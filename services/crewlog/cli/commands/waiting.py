"""Commands about what waits: signals, and limits on tasks at once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.commands.runs import RunId
from crewlog.cli.options import Where, located

PANEL = "Control"


class Dimension(StrEnum):
    """What is limited."""

    TENANT = "tenant"
    PROJECT = "project"
    WORKFLOW = "workflow"
    ROLE = "role"
    MODEL = "model"
    POOL = "pool"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL)(located(signal))
    limiting = typer.Typer()
    limiting.callback(invoke_without_command=True)(located(limits))
    # A number below 0 is an amount, and no option.
    limiting.command("set", context_settings={"ignore_unknown_options": True})(located(set_limit))
    limiting.command("list")(located(list_limits))
    app.add_typer(limiting, name="limits", rich_help_panel=PANEL)


def signal(
    where: Where,
    run_id: RunId,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="What its workflow waits for.", show_default=False, autocompletion=completing.signals
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", help="JSON for whoever waits for it; - reads it from standard input.")
    ] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", help="Your own id: the same id twice is the same signal.")
    ] = "",
) -> None:
    """Tells a run that something has happened outside. It is kept until a node waits for it."""
    from crewlog.cli import waiting

    where.ask(lambda gateway: waiting.signal(gateway, where.output, run_id, name, data, request_id))


def limits(where: Where, context: typer.Context) -> None:
    """Lists the limits on tasks at once; `limits set` sets one."""
    if context.invoked_subcommand is None:
        list_limits(where)


def list_limits(where: Where) -> None:
    """Lists the limits, with how many tasks are at work under each."""
    from crewlog.cli import waiting

    where.ask(lambda gateway: waiting.limits(gateway, where.output))


def set_limit(
    where: Where,
    dimension: Annotated[Dimension, typer.Argument(help="What is limited.", show_default=False)],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Such as implementer; * for every one without its own.",
            show_default=False,
            autocompletion=completing.limit_names,
        ),
    ],
    tasks_max: Annotated[
        str, typer.Argument(metavar="N", help="How many at once; none or -1 removes the limit.", show_default=False)
    ],
) -> None:
    """Sets how many tasks may be worked on at once. What is at work stays."""
    from crewlog.cli import waiting

    where.ask(lambda gateway: waiting.set_limit(gateway, where.output, dimension.value, name, tasks_max))
