"""Commands that change the course of a run, and answers to its questions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.commands.money import Calls, Dollars, InputTokens, OutputTokens
from crewlog.cli.commands.runs import RunId
from crewlog.cli.options import Where, located

PANEL = "Control"
Reason = Annotated[str, typer.Option("--reason", help="Kept in the log.")]


class Mode(StrEnum):
    """When an agent reads a message."""

    STEER = "steer"
    QUEUE = "queue"
    INTERRUPT = "interrupt"


def register(app: typer.Typer) -> None:
    for command in (pause, resume, cancel, retry, send, recover):
        app.command(rich_help_panel=PANEL)(located(command))
    asking = typer.Typer()
    asking.callback(invoke_without_command=True)(located(gates))
    asking.command("answer")(located(answer))
    app.add_typer(asking, name="gates", rich_help_panel=PANEL)


def pause(where: Where, run_id: RunId, reason: Reason = "") -> None:
    """Lets every agent of a run stop at its next recorded step. Nothing is lost, and no executor is held."""
    from crewlog.cli import controlling

    where.ask(lambda gateway: controlling.pause(gateway, where.output, run_id, reason))


def resume(where: Where, run_id: RunId) -> None:
    """Lets a paused run go on, every agent from its last recorded step."""
    from crewlog.cli import controlling

    where.ask(lambda gateway: controlling.resume(gateway, where.output, run_id))


def cancel(
    where: Where,
    run_id: RunId,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="Only this task, with its visit, such as tester-2.", autocompletion=completing.tasks
        ),
    ] = None,
    grace: Annotated[
        str, typer.Option("--grace", help="How long what is under way may take to end by itself.", show_default="5s")
    ] = "",
    reason: Reason = "",
) -> None:
    """Stops a run, or one task of it. What is done until then is kept."""
    from crewlog.cli import controlling, durations

    stop = controlling.Stop(controlling.named(task), durations.seconds(grace, "--grace"), reason)
    where.ask(lambda gateway: controlling.cancel(gateway, where.output, run_id, stop))


def retry(
    where: Where,
    run_id: RunId,
    by: Annotated[str, typer.Option("--by", help="US dollars by which its budget is raised.", show_default="0")] = "",
    input_tokens: InputTokens = 0,
    output_tokens: OutputTokens = 0,
    calls: Calls = 0,
    request_id: Annotated[
        str, typer.Option("--request-id", help="Your own id: the same id twice is the same retry.")
    ] = "",
) -> None:
    """Takes up a run that has failed or was cancelled. What has succeeded is kept."""
    from crewlog.cli import controlling, money

    more = money.any_amounts(by, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    where.ask(lambda gateway: controlling.retry(gateway, where.output, run_id, more, request_id))


def send(
    where: Where,
    run_id: RunId,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to say; - reads it from standard input.", show_default=False)
    ],
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="steer: read before the next model call. queue: read when everything before it is done. "
            "interrupt: read at once, what is under way is cut off.",
        ),
    ] = Mode.STEER,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="To the agent of this task.",
            show_default="the only one at work",
            autocompletion=completing.tasks,
        ),
    ] = None,
    message_id: Annotated[
        str, typer.Option("--message-id", help="Your own id: the same id twice is the same message.")
    ] = "",
) -> None:
    """Says something to a running agent."""
    from crewlog.cli import controlling

    words = controlling.Words(text, mode.value, controlling.named(task), message_id)
    where.ask(lambda gateway: controlling.send(gateway, where.output, run_id, words))


def recover(
    where: Where,
    run_id: Annotated[
        str,
        typer.Argument(metavar="RUN", help="The id of the run.", show_default=False, autocompletion=completing.runs),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is reused, run again or unknown. Without RUN: of all runs.")
    ] = False,
) -> None:
    """Takes agents from an executor that lives and does not get on, and says what is reused, run again and unknown.

    An executor that is gone needs no such help: its agents are taken over by themselves.
    """
    from crewlog.cli import recovering

    where.ask(lambda gateway: recovering.recover(gateway, where.output, run_id, dry_run=dry_run))


def gates(
    where: Where,
    context: typer.Context,
    run: Annotated[
        str,
        typer.Option("--run", help="Only those of this run, and of its child runs.", autocompletion=completing.runs),
    ] = "",
    with_closed: Annotated[bool, typer.Option("--all", help="Also those that are answered or have expired.")] = False,
) -> None:
    """Lists the questions that wait for an answer."""
    from crewlog.cli import gates as asked

    if context.invoked_subcommand is None:
        where.ask(lambda gateway: asked.write_list(gateway, where.output, run_id=run, with_closed=with_closed))


def answer(
    where: Where,
    run_id: RunId,
    gate: Annotated[
        str,
        typer.Argument(metavar="GATE", help="The id of the gate.", show_default=False, autocompletion=completing.gates),
    ],
    said: Annotated[
        str,
        typer.Argument(
            metavar="ANSWER",
            help="One of its choices; a text where it has none, and - reads it from standard input. "
            "Without it, a text that is to be changed is opened in $EDITOR.",
            show_default=False,
            autocompletion=completing.answers,
        ),
    ] = "",
    dollars: Dollars = "",
    input_tokens: InputTokens = 0,
    output_tokens: OutputTokens = 0,
    calls: Calls = 0,
    text: Annotated[
        str | None, typer.Option("--text", help="The answer, where it begins with a dash.", show_default=False)
    ] = None,
) -> None:
    """Answers a question, once: `raise 1.50`, `stop`, `approve`, or in your own words."""
    from crewlog.cli import gates as asked
    from crewlog.cli import money

    by = money.any_amounts(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    where.ask(
        lambda gateway: asked.answer(
            gateway, where.output, asked.Answered(run_id, gate, said if text is None else text, by)
        )
    )
