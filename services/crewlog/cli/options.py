"""Options that many commands share. Imports nothing that takes time: `crewlog --help` reads this file."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from crewlog.cli import config, durations

if TYPE_CHECKING:
    from crewlog.cli.gateway import Gateway


class Output(StrEnum):
    """Data goes to standard output in this form; everything else goes to standard error."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def _timeout(text: str | float) -> float:
    try:
        return durations.any_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The data directory.", envvar="CREWLOG_DATA_DIR", show_default="~/.local/share/crewlog"
    ),
]
Address = Annotated[
    str, typer.Option("--address", help="host:port of a gateway, instead of the one of the data directory.")
]
Token = Annotated[str, typer.Option("--token", help="The client token. Better in CREWLOG_TOKEN: others see arguments.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        parser=_timeout,
        metavar="duration",
        show_default="0",
        help="How long the whole command may take, such as 40s or 5m; 0 for no end.",
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How data is written.")]


@dataclass(frozen=True, slots=True)
class Where:
    """Which platform is meant, and how the answer is written. Empty strings: what the data directory says."""

    data_dir: Path
    address: str = ""
    token: str = ""
    timeout_seconds: float = 0.0
    output: Output = Output.TABLE

    def ask(self, question: Callable[[Gateway], Awaitable[int | None]]) -> None:
        """Runs `question` with a connection to the gateway; what it returns is the exit status of the command."""
        import asyncio

        from crewlog.cli import gateway

        status = asyncio.run(gateway.ask(self, question))
        raise typer.Exit(status or 0)


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which platform is meant; it gets them as its first argument, `where`.
    A command may have an `output` of its own."""
    own = _own_parameters(command)
    has_output = any(parameter.name == "output" for parameter in own)

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        where = Where(
            data_dir=(given.pop("data_dir") or config.data_dir()).expanduser().absolute(),
            address=given.pop("address") or config.address(),
            token=given.pop("token") or config.token(),
            timeout_seconds=given.pop("timeout"),
            output=Output.TABLE if has_output else given.pop("output"),
        )
        command(where, **given)

    parameters = own + [each for each in _SHARED if not (has_output and each.name == "output")]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _own_parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own
    ]


def _shared(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED = [
    _shared("data_dir", DataDir, None),
    _shared("address", Address, ""),
    _shared("token", Token, ""),
    _shared("timeout", Timeout, 0.0),
    _shared("output", OutputOption, Output.TABLE),
]
