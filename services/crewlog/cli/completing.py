"""What the shell completes: names that the platform knows, asked for at every tab.

It offers nothing, and says nothing, where the platform is not there or takes too long. What is offered goes through the
shell, which reads it as a program does: only names of plain characters, and of descriptions only what is plain in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

Offers = list[tuple[str, str]]
"""Values, each with a description."""
DESCRIPTION_CHARACTERS_MAX = 60
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]*")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 .,_/?+-]+")


def runs(context: typer.Context, incomplete: str) -> Offers:
    """The most recent first, with status and workflow."""
    from crewlog.cli import offering

    return offered(offering.runs(_typed(context)), incomplete)


def tasks(context: typer.Context, incomplete: str) -> Offers:
    """Of the run that is named."""
    from crewlog.cli import offering

    return offered(offering.tasks(_typed(context)), incomplete)


def gates(context: typer.Context, incomplete: str) -> Offers:
    """That are open, of the run that is named."""
    from crewlog.cli import offering

    return offered(offering.gates(_typed(context)), incomplete)


def answers(context: typer.Context, incomplete: str) -> Offers:
    """The choices of the gate that is named."""
    from crewlog.cli import offering

    return offered(offering.answers(_typed(context)), incomplete)


def signals(context: typer.Context, incomplete: str) -> Offers:
    """That tasks of the run wait for."""
    from crewlog.cli import offering

    return offered(offering.signals(_typed(context)), incomplete)


def projects(context: typer.Context, incomplete: str) -> Offers:
    from crewlog.cli import offering

    return offered(offering.projects(_typed(context)), incomplete)


def budgets(context: typer.Context, incomplete: str) -> Offers:
    """That are set, above the runs."""
    from crewlog.cli import offering

    return offered(offering.budgets(_typed(context)), incomplete)


def budgets_of_runs(context: typer.Context, incomplete: str) -> Offers:
    """Also those of the runs themselves."""
    from crewlog.cli import offering

    found = offering.runs(_typed(context)) if "run_".startswith(incomplete[:4]) else []
    return offered([*offering.budgets(_typed(context)), *((f"run_{run}", about) for run, about in found)], incomplete)


def charges(context: typer.Context, incomplete: str) -> Offers:
    """Named budgets, without what says that they are."""
    from crewlog.cli import offering

    named = ((name, about) for name, about in offering.budgets(_typed(context)) if name.startswith("named_"))
    return offered(((name.removeprefix("named_"), about) for name, about in named), incomplete)


def limit_names(context: typer.Context, incomplete: str) -> Offers:
    """That have a limit in the dimension that is named."""
    from crewlog.cli import offering

    return offered(offering.limit_names(_typed(context)), incomplete)


def workflows(context: typer.Context, incomplete: str) -> Offers:
    """By their names; a path is completed by the shell itself, as nothing is offered for it."""
    from crewlog.cli import crew_files
    from crewlog.crews.loader import found_workflows

    found = found_workflows(crew_files.directories(Path(context.params.get("repo") or ".")))
    return offered(((each.name, crew_files.origin(each)) for each in found), incomplete)


def _typed(context: typer.Context) -> dict[str, Any]:
    """What stands before, by name. Where an option has no value yet, the parser has not come to the arguments."""
    first = next(iter(context.args), "")
    return {**context.params, "run_id": context.params.get("run_id") or first}


def offered(found: Iterable[tuple[str, str]], incomplete: str) -> Offers:
    """Of what was found that which begins so, and is harmless to a shell."""
    return list(_plain(found, incomplete))


def _plain(found: Iterable[tuple[str, str]], incomplete: str) -> Iterator[tuple[str, str]]:
    for value, about in found:
        if value.startswith(incomplete) and _PLAIN.fullmatch(value):
            yield value, " ".join(_NOT_PLAIN.sub(" ", about).split())[:DESCRIPTION_CHARACTERS_MAX]
