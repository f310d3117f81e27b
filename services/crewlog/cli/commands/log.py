"""Commands that read the log."""

from __future__ import annotations

from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.commands.runs import RunId
from crewlog.cli.options import Where, located


def register(app: typer.Typer) -> None:
    for command in (events, replay, trace):
        app.command(rich_help_panel="The log")(located(command))


def events(
    where: Where,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    run: Annotated[str, typer.Option("--run", help="Only entries of this run.", autocompletion=completing.runs)] = "",
    project: Annotated[
        str, typer.Option("--project", help="Only entries of this project.", autocompletion=completing.projects)
    ] = "",
    kind: Annotated[list[str] | None, typer.Option("--kind", help="run, agent, ... Can be repeated.")] = None,
    type: Annotated[list[str] | None, typer.Option("--type", help="task_succeeded, ... Can be repeated.")] = None,
    from_revision: Annotated[int, typer.Option("--from", min=0, help="Only entries after this revision.")] = 0,
) -> None:
    """Writes the entries of the log, in order and without gaps."""
    from crewlog.cli import entries

    wanted = entries.Wanted(follow, run, project, kind or [], type or [], from_revision)
    where.ask(lambda gateway: entries.write(gateway, wanted, where.output))


def replay(
    where: Where,
    run_id: RunId,
    at: Annotated[int | None, typer.Option("--at", min=1, help="Show the state at this revision.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the whole history. Performs nothing.")] = False,
    files: Annotated[bool, typer.Option("--files", help="List the files at the revision.")] = False,
    file: Annotated[str, typer.Option("--file", help="Print this file as it was at the revision.")] = "",
    details: Annotated[bool, typer.Option("--details", help="Tell intents and bookkeeping, too.")] = False,
) -> None:
    """Tells what happened in a run, step by step, from the log alone."""
    from crewlog.cli import replaying

    wanted = replaying.Wanted(run_id, at, verify=verify, files=files, file=file, details=details)
    where.ask(lambda gateway: replaying.replay(gateway, wanted, where.output))


def trace(where: Where, run_id: RunId) -> None:
    """Draws the trace of a run, with durations from the log."""
    from crewlog.cli import tracing

    where.ask(lambda gateway: tracing.write_trace(gateway, where.output, run_id))
