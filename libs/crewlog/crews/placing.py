"""What the rules of the domain refuse, said with the field of the file and its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from crewlog.crews.filling import Source
from crewlog.crews.findings import Mark, way_out
from crewlog.v1.workflow_file_pb2 import WorkflowFile

_RENAMED = (
    (".map.body", ""),
    (".node_id", ".id"),
    (".executor_labels", ".runs_on"),
    (".agent.planning", ".plans"),
    (".agent", ""),
    (".command.report_path", ".command.report"),
    (".gate.expires_seconds", ".gate.expires"),
    (".gate.default_answer", ".gate.default"),
    (".wait.seconds", ".wait.time"),
    (".workflow.workflow", ".workflow"),
    (".timeout_seconds", ".timeout"),
    (".back_off_seconds_max", ".back_off_max"),
    (".back_off_seconds", ".back_off"),
    (".continue_on_failure", ".on_failure"),
    (".exclusive", ".branch"),
    (".usd_micros", ".usd"),
    (".join_files", ".join"),
)
_OF_ROLES = re.compile(r"(\.role|\.children\[\d+\]|\.roles\[\d+\])\..*")
_LISTED = re.compile(r"(nodes\[\d+\]\.(?:command|plans))(\.argv|\.roles)(\[\d+\].*|)")
_NAMED = re.compile(r"'([^']*)', which is no (node|task)")
_CIRCLE = re.compile(r"in a circle: ([a-z0-9-]+)")


def refuse_all(violations: Mapping[str, str], file: WorkflowFile, source: Source) -> None:
    """Adds every violation to what is refused in the source."""
    node_ids = [node.id for node in file.nodes]
    for field, why in violations.items():
        path = _own(field, source) or _as_written(in_file(field), source)
        source.refuse(path, _with_way_out(why, node_ids), _mark(path, why, node_ids, source))


def _as_written(path: str, source: Source) -> str:
    """Where a list stands for the mapping that it would be in, its items are those of the mapping."""
    found = _LISTED.fullmatch(path)
    return found[1] + found[3] if found and not source.has(found[1] + found[2]) else path


def _own(field: str, source: Source) -> str:
    """The field of the node itself, where it stands there instead of in its role."""
    node, _, rest = field.partition(".agent.role.")
    path = f"{node.replace('.map.body', '')}.{rest.partition('[')[0]}"
    return path if rest and source.has(path) else ""


def in_file(field: str) -> str:
    """The path in the file of a field of a Workflow."""
    for name, written in _RENAMED:
        field = re.sub(re.escape(name) + r"(?![a-z_])", written, field)
    return _OF_ROLES.sub(r"\1", field)


def _with_way_out(why: str, node_ids: Iterable[str]) -> str:
    named = _NAMED.search(why)
    return f"{why}; {way_out(named[1], node_ids)}" if named else why


def _mark(path: str, why: str, node_ids: list[str], source: Source) -> Mark | None:
    """The item of a list that is named, or the node that a circle goes through."""
    circle = _CIRCLE.search(why)
    if circle and circle[1] in node_ids:
        return source.mark(f"nodes[{node_ids.index(circle[1])}].depends_on")
    named = re.search(r"'([^']*)'", why)
    for number in range(256 if named else 0):
        where = f"{path}[{number}]"
        if not source.has(where):
            break
        if named and source.text(where) == named[1]:
            return source.mark(where)
    return source.mark(path)
