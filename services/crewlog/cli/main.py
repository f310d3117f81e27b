"""The `crewlog` command: reads the arguments, runs one command, says what went wrong, and ends with an exit status.

Commands import what they need when they run: `crewlog --help` needs neither gRPC nor the model's client.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from typing import NoReturn

import typer
from crewlog.cli import config
from crewlog.cli.commands import control, log, money, platform, runs, waiting, workflows
from crewlog.cli.exits import ExitCode, Failed, code_of, lines_of
from crewlog.domain.errors import Refused, UnknownEvent
from typer.models import CommandInfo, TyperInfo

app = typer.Typer(
    name="crewlog",
    help="Runs crews of coding agents on git repositories and writes every step to one event log.",
    epilog="Begin with `crewlog demo`, or with `crewlog up` and then `crewlog run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (platform, runs, workflows, control, waiting, money, log):
    module.register(app)


def main() -> NoReturn:
    """The entry point."""
    before = config.completed_words()
    if before is not None:
        sys.modules["rich"] = None  # type: ignore[assignment]  # loads in twice the time of all the rest, to strip markup
    try:
        narrowed(sys.argv if before is None else before)()
    except Refused as refusal:
        _end("\n".join(lines_of(refusal)), code_of(refusal))
    except Failed as failure:
        _end(f"crewlog: {failure}", failure.code)
    except (OSError, UnknownEvent) as error:
        _end(f"crewlog: {error}", ExitCode.FAILED)
    except KeyboardInterrupt:
        _end("", ExitCode.INTERRUPTED)
    sys.exit(ExitCode.OK)


def narrowed(words: Sequence[str]) -> typer.Typer:
    """Only the command that is named, where it is one: to build all of them takes longer than most of them take."""
    commands = [each for each in app.registered_commands if _is_named(each, words[1:2])]
    groups = [each for each in app.registered_groups if _is_named(each, words[1:2])]
    if not commands and not groups:
        return app
    few = copy(app)
    few.registered_commands = [*commands, app.registered_commands[0]]  # with one alone, its name would be no word
    few.registered_groups = groups
    return few


def _is_named(info: CommandInfo | TyperInfo, words: Sequence[str]) -> bool:
    return (info.name or getattr(info.callback, "__name__", "")) in words


def _end(text: str, code: ExitCode) -> NoReturn:
    if text:
        sys.stderr.write(text + "\n")
    sys.exit(code)
