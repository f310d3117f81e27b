"""Commands about the platform itself."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from crewlog.cli import config
from crewlog.cli.options import DataDir, Output, OutputOption, Where, located

Script = Annotated[
    Path | None,
    typer.Option("--scripted-model", exists=True, dir_okay=False, help="Play this script instead of asking a model."),
]


class Confinement(StrEnum):
    """How commands of agents are confined."""

    AUTO = "auto"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    NONE = "none"


Sandbox = Annotated[
    Confinement, typer.Option("--sandbox", envvar="CREWLOG_SANDBOX", help="How commands of agents are confined.")
]
Model = Annotated[str, typer.Option("--model", help="The model of runs and roles that name none.")]
Prices = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        envvar="CREWLOG_PRICES",
        exists=True,
        dir_okay=False,
        help="A price file; it wins over the list prices.",
    ),
]
Slots = Annotated[
    int, typer.Option("--slots", min=0, envvar="CREWLOG_EXECUTOR_SLOTS", help="Tasks at once; 0 for the default.")
]
Executors = Annotated[int, typer.Option("--executors", min=1, max=64, help="Processes that host agents.")]
Schedulers = Annotated[
    int, typer.Option("--schedulers", min=1, max=8, help="Schedulers: one leads, the others stand by for it.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--executor-labels", help="Labels (`gpu,big`) of the first executor; again for the second."),
]


class Home(StrEnum):
    """Where agents live."""

    NONE = "none"
    PROCESS = "process"


Isolation = Annotated[
    Home,
    typer.Option(
        "--isolation", envvar="CREWLOG_EXECUTOR_ISOLATION", help="All agents in the executor, or each in its process."
    ),
]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Platform")(up)
    app.command(rich_help_panel="Platform")(down)
    app.command(rich_help_panel="Platform")(located(doctor))
    app.command(rich_help_panel="Platform")(demo)
    app.command(rich_help_panel="Platform")(version)


def up(
    data_dir: DataDir = None,
    sandbox: Sandbox = Confinement.AUTO,
    model: Model = "",
    scripted_model: Script = None,
    slots: Slots = 0,
    prices: Prices = None,
    executors: Executors = 1,
    schedulers: Schedulers = 1,
    executor_labels: Labels = None,
    isolation: Isolation = Home.NONE,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything answers.")] = False,
) -> None:
    """Starts the platform and keeps it running: the log, git, scheduler, executor and gateway, on loopback."""
    from crewlog.cli import running

    settings = running.Settings(
        _directory(data_dir),
        sandbox,
        model,
        scripted_model,
        slots,
        prices,
        executors,
        schedulers,
        tuple(executor_labels or ()),
        isolation,
    )
    raise typer.Exit(running.up_detached(settings) if detach else running.up(settings))


def down(data_dir: DataDir = None) -> None:
    """Stops the platform that runs on a data directory."""
    from crewlog.cli import running

    raise typer.Exit(running.down(_directory(data_dir)))


def doctor(where: Where) -> None:
    """Says what this host can do, and whether everything that is needed is there."""
    from crewlog.cli import doctor as examination

    raise typer.Exit(examination.examine(where))


def demo(
    sandbox: Sandbox = Confinement.AUTO,
    model: Model = "",
    prices: Prices = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="A new data directory for the demo.")] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the project, to look closer.")] = True,
) -> None:
    """Has a crew repair a small project, from start to end, and verifies the history."""
    from crewlog.cli import demo as show

    raise typer.Exit(show.run(keep=keep, sandbox_level=sandbox, model=model, prices=prices, data_dir=data_dir))


def version(output: OutputOption = Output.TABLE) -> None:
    """Says which release this is."""
    from crewlog.cli import about

    about.write_version(output)


def _directory(data_dir: Path | None) -> Path:
    return (data_dir or config.data_dir()).expanduser().absolute()
