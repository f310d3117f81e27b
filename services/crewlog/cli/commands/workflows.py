"""Commands about workflows: what a run can do, before one is started. They need no platform."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from crewlog.cli import completing
from crewlog.cli.options import Output, OutputOption

Named = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The name of a workflow, or a YAML file.",
        show_default=False,
        autocompletion=completing.workflows,
    ),
]
Repo = Annotated[Path, typer.Option("--repo", help="The git repository whose workflows and roles count.")]
OutputFile = Annotated[Path | None, typer.Option("--output-file", help="Write it there.", dir_okay=False)]


class Format(StrEnum):
    TERMINAL = "terminal"
    MERMAID = "mermaid"
    SVG = "svg"


def register(app: typer.Typer) -> None:
    workflow = typer.Typer(no_args_is_help=True, help="Checks, lists and draws workflows.")
    for command, name in (
        (validate, "validate"),
        (list_, "list"),
        (show, "show"),
        (graph, "graph"),
        (schema, "schema"),
    ):
        workflow.command(name)(command)
    app.add_typer(workflow, name="workflow", rich_help_panel="Runs")


def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="YAML files, or names.", show_default=False, autocompletion=completing.workflows
        ),
    ],
    repo: Repo = Path(),
    output: OutputOption = Output.TABLE,
) -> None:
    """Says what is wrong in workflow files, with line and column."""
    from crewlog.cli import workflows

    raise typer.Exit(workflows.validate(files, repo, output))


def list_(repo: Repo = Path(), output: OutputOption = Output.TABLE) -> None:
    """Lists the workflows of the project, of the user, and the built-in ones."""
    from crewlog.cli import workflows

    workflows.write_list(repo, output)


def show(name: Named, repo: Repo = Path(), output: OutputOption = Output.TABLE) -> None:
    """Shows a workflow with its nodes; as JSON, in full, as a run pins it."""
    from crewlog.cli import workflows

    workflows.show(name, repo, output)


def graph(
    name: Named,
    repo: Repo = Path(),
    format: Annotated[Format, typer.Option("--format", "-f", help="How it is drawn.")] = Format.TERMINAL,
    output_file: OutputFile = None,
) -> None:
    """Draws a workflow."""
    from crewlog.cli import workflows

    workflows.draw(name, repo, format.value, output_file)


def schema(output_file: OutputFile = None) -> None:
    """Prints the JSON Schema of workflow files, for editors."""
    from crewlog.cli import workflows

    workflows.write_schema(output_file)
