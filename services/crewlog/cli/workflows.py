"""`crewlog workflow`: checks, lists, shows and draws workflows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crewlog.cli import crew_files, wording
from crewlog.cli.exits import ExitCode, lines_of
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line, write_message, write_table
from crewlog.crews import drawing, drawing_mermaid, drawing_svg
from crewlog.crews.findings import InvalidFile
from crewlog.crews.loader import BUILT_IN, Found, found_workflows
from crewlog.domain.errors import Refused
from crewlog.v1.run_pb2 import Workflow

DESCRIPTION_CHARACTERS_MAX = 60
COLUMNS_MIN = 40
SCHEMA = BUILT_IN / "workflow.schema.json"


def validate(files: Sequence[str], repository: Path, output: Output) -> ExitCode:
    """Whether all of them are valid."""
    rows = [_checked(file, repository) for file in files]
    if output is Output.TABLE:
        for row in rows:
            _tell(row)
    else:
        _write_rows(rows, output)
    return ExitCode.OK if all(row["is_valid"] for row in rows) else ExitCode.USAGE


def _checked(file: str, repository: Path) -> dict[str, Any]:
    try:
        workflow = crew_files.load(file, repository)
    except Refused as refusal:
        findings = [_finding(each) for each in refusal.findings] if isinstance(refusal, InvalidFile) else []
        return {"file": file, "is_valid": False, "message": "\n".join(lines_of(refusal)), "findings": findings}
    return {
        "file": file,
        "is_valid": True,
        "name": workflow.name,
        "version": workflow.version,
        "nodes": len(workflow.nodes),
    }


def _finding(finding: Any) -> dict[str, Any]:
    given = asdict(finding)
    mark = given.pop("mark") or {"line": 0, "column": 0}
    return {"file": given["file"], **mark, "field": given["field"], "why": given["why"]}


def _tell(row: dict[str, Any]) -> None:
    if row["is_valid"]:
        write_line(f"{row['file']}: valid: {row['name']} {row['version']}, {wording.counted(row['nodes'], 'node')}")
    else:
        say(row["message"].removeprefix("crewlog: "))


def write_list(repository: Path, output: Output) -> None:
    rows = [_row(found, repository) for found in found_workflows(crew_files.directories(repository))]
    if output is not Output.TABLE:
        _write_rows(rows, output)
        return
    headings = ("name", "from", ">nodes", "version", "description")
    write_table(headings, [[_cell(row[heading.lstrip(">")]) for heading in headings] for row in rows])
    for row in rows:
        if "why" in row:
            write_line(f"\n{wording.plain(row['why'])}")


def _cell(value: object) -> str:
    return wording.one_line(str(value), DESCRIPTION_CHARACTERS_MAX)


def _row(found: Found, repository: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": found.name, "from": crew_files.origin(found), "path": str(found.path)}
    try:
        workflow = crew_files.load(found.name, repository)
    except Refused as refusal:
        why = "\n".join(lines_of(refusal)).removeprefix("crewlog: ")
        return {**row, "nodes": "", "version": "", "description": "not valid: see below", "why": why}
    return {**row, "nodes": len(workflow.nodes), "version": workflow.version, "description": workflow.description}


def show(name: str, repository: Path, output: Output) -> None:
    workflow = crew_files.load(name, repository)
    if output is not Output.TABLE:
        write_message(workflow, output, with_defaults=False)
        return
    write_line(f"{workflow.name}  {workflow.version}")
    if workflow.description:
        write_line(wording.plain(workflow.description.strip()))
    write_line("")
    write_table(("node", "is", "does", "after", "conditions"), drawing.rows(workflow))


def draw(name: str, repository: Path, format_name: str, output_file: Path | None) -> None:
    workflow = crew_files.load(name, repository)
    _write(_drawn(workflow, format_name), output_file)


def _drawn(workflow: Workflow, format_name: str) -> str:
    if format_name == "mermaid":
        return drawing_mermaid.mermaid(workflow)
    if format_name == "svg":
        return drawing_svg.svg(workflow)
    return drawing.terminal(workflow, max(COLUMNS_MIN, shutil.get_terminal_size((100, 24)).columns))


def write_schema(output_file: Path | None) -> None:
    _write(SCHEMA.read_text(), output_file)


def _write(text: str, output_file: Path | None) -> None:
    if output_file is None:
        write_line(text.rstrip("\n"))
        return
    output_file.write_text(text.rstrip("\n") + "\n")
    say(f"{output_file} is written")


def _write_rows(rows: Sequence[dict[str, Any]], output: Output) -> None:
    if output is Output.JSONL:
        for row in rows:
            write_line(json.dumps(row, ensure_ascii=False))
    else:
        write_line(json.dumps(rows, indent=2, ensure_ascii=False))
