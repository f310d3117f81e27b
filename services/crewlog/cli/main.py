"""The `crewlog` command: reads the arguments, runs one command, says what went wrong, and ends with an exit status.

Commands import what they need when they run: `crewlog --help` needs neither gRPC nor the model's client.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from crewlog.cli.commands import control, log, money, platform, runs, waiting, workflows
from crewlog.cli.exits import ExitCode, Failed, code_of, lines_of
from crewlog.domain.errors import Refused, UnknownEvent

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
    try:
        app()
    except Refused as refusal:
        _end("\n".join(lines_of(refusal)), code_of(refusal))
    except Failed as failure:
        _end(f"crewlog: {failure}", failure.code)
    except (OSError, UnknownEvent) as error:
        _end(f"crewlog: {error}", ExitCode.FAILED)
    except KeyboardInterrupt:
        _end("", ExitCode.INTERRUPTED)
    sys.exit(ExitCode.OK)


def _end(text: str, code: ExitCode) -> NoReturn:
    if text:
        sys.stderr.write(text + "\n")
    sys.exit(code)
