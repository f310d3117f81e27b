"""Commands about runs, their agents and their projects."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.options import Where, located

RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The id of the run.", show_default=False, autocompletion=completing.runs),
]
ProjectId = Annotated[
    str, typer.Option("--project", help="Only runs of this project.", autocompletion=completing.projects)
]


class Status(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OnExhausted(StrEnum):
    STOP = "stop"
    ASK = "ask"
    WAIT = "wait"


WorkflowOption = Annotated[
    str,
    typer.Option(
        "--workflow", "-w", help="The name of a workflow, or a YAML file.", autocompletion=completing.workflows
    ),
]
BaseOption = Annotated[str, typer.Option("--base", help="A branch, tag or commit to start from.", show_default="HEAD")]
OnExhaustedOption = Annotated[
    OnExhausted, typer.Option("--on-exhausted", help="When the money is gone: stop, ask a person, or wait for more.")
]
Charge = Annotated[
    list[str] | None,
    typer.Option(
        "--charge", help="A named budget, such as a team's. Can be repeated.", autocompletion=completing.charges
    ),
]


def register(app: typer.Typer) -> None:
    for command in (run, runs, show, agents, watch, diff, projects):
        app.command(rich_help_panel="Runs")(located(command))


def run(
    where: Where,
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="What to do; - reads it from standard input.", show_default=False)
    ],
    repo: Annotated[
        Path, typer.Option("--repo", help="A git repository. It gets one branch; nothing else changes.")
    ] = Path(),
    workflow: WorkflowOption = "agent",
    model: Annotated[str, typer.Option("--model", help="The model of every role that names none.")] = "",
    budget: Annotated[
        str, typer.Option("--budget", help="What it may cost at most, in dollars; 0 for no limit.")
    ] = "2",
    run_id: Annotated[str, typer.Option("--run-id", help="Your own id: the same id twice is the same run.")] = "",
    base: BaseOption = "",
    on_exhausted: OnExhaustedOption = OnExhausted.STOP,
    charge: Charge = None,
    max_calls: Annotated[int, typer.Option("--max-calls", min=0, help="Model calls; 0 for no limit.")] = 0,
    max_input_tokens: Annotated[int, typer.Option("--max-input-tokens", min=0, help="0 for no limit.")] = 0,
    max_output_tokens: Annotated[int, typer.Option("--max-output-tokens", min=0, help="0 for no limit.")] = 0,
    max_time: Annotated[
        str, typer.Option("--max-time", help="How long it may take, such as 90s, 30m or 2h.", show_default="30d")
    ] = "",
    max_waiting_time: Annotated[
        str, typer.Option("--max-waiting-time", help="How long a task may wait for an executor.", show_default="7d")
    ] = "",
    priority: Annotated[
        str, typer.Option("--priority", help="Who goes first where runs wait: batch, normal, interactive, -10 to 10.")
    ] = "normal",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it, and do not follow it.")] = False,
) -> None:
    """Has a crew do a task on a repository, and brings the result back as a branch."""
    from crewlog.cli import starting

    limits = starting.Limits(budget, max_input_tokens, max_output_tokens, max_calls)
    spending = starting.Spending(limits, on_exhausted.value, charge or ())
    times = starting.Times(max_time, max_waiting_time)
    request = starting.Request(task, repo, workflow, model, spending, run_id, base, times, priority)
    where.ask(lambda gateway: starting.run(gateway, request, detach=detach, output=where.output))


def runs(
    where: Where,
    status: Annotated[list[Status] | None, typer.Option("--status", help="Only these. Can be repeated.")] = None,
    project: ProjectId = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    children: Annotated[bool, typer.Option("--children", help="Also runs that are tasks of other runs.")] = False,
    why_waiting: Annotated[bool, typer.Option("--why-waiting", help="What tasks wait for, instead.")] = False,
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="With --children or --why-waiting: those of this run.",
            show_default=False,
            autocompletion=completing.runs,
        ),
    ] = "",
) -> None:
    """Lists runs, newest first."""
    from crewlog.cli import listing, waiting

    if why_waiting:
        where.ask(lambda gateway: waiting.write_why(gateway, where.output, run_id))
    if run_id and not children:
        raise typer.BadParameter("a run is named with --children or --why-waiting; `crewlog show` shows one")
    listed = listing.Listed([each.value for each in status or []], project, limit, children, run_id)
    where.ask(lambda gateway: listing.runs(gateway, where.output, listed))


def show(
    where: Where,
    run_id: RunId,
    items: Annotated[bool, typer.Option("--items", help="Each item of a map on a line of its own.")] = False,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="Only this task, such as test-1, with all of its output.", autocompletion=completing.tasks
        ),
    ] = None,
) -> None:
    """Shows a run with its tasks."""
    from crewlog.cli import controlling, listing

    if task_id := controlling.named(task):
        where.ask(lambda gateway: listing.show_task(gateway, where.output, run_id, task_id))
    where.ask(lambda gateway: listing.show(gateway, where.output, run_id, with_items=items))


def agents(where: Where, run_id: RunId) -> None:
    """Shows the agents of a run."""
    from crewlog.cli import listing

    where.ask(lambda gateway: listing.agents(gateway, where.output, run_id))


def watch(where: Where, run_id: RunId) -> None:
    """Follows a run until it is over, or until it is paused because something has to be mended."""
    from crewlog.cli import watching

    where.ask(lambda gateway: watching.watch(gateway, run_id, where.output))


def diff(
    where: Where,
    run_id: RunId,
    stat: Annotated[bool, typer.Option("--stat", help="Only how much changed.")] = False,
) -> None:
    """Prints what a run has changed, as a unified diff."""
    from crewlog.cli import files

    where.ask(lambda gateway: files.write_diff(gateway, where.output, run_id, stat=stat))


def projects(where: Where) -> None:
    """Lists the registered repositories."""
    from crewlog.cli import listing

    where.ask(lambda gateway: listing.projects(gateway, where.output))
