"""Reads roles and workflows. Whatever is wrong in a file is said with its name and the field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from crewlog.crews.strict_yaml import Fields, invalid, parse, read_text
from crewlog.domain import roles
from crewlog.domain import workflow as rules
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, BackEdge, Node, NoopNode, OnUnknown, Role, Workflow

BUILT_IN = Path(__file__).parent
VERSION_CHARACTERS = 12

M = TypeVar("M", Role, Workflow)

_ON_UNKNOWN = {
    "": OnUnknown.ON_UNKNOWN_UNSPECIFIED,
    "tell": OnUnknown.ON_UNKNOWN_TELL,
    "ask": OnUnknown.ON_UNKNOWN_ASK,
}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)


def load_workflow(name_or_path: str, directories: Sequence[Path] = ()) -> Workflow:
    """A workflow by its name, or from a file when a path to a .yaml file is given; with its roles in full.

    Raises NotFound that lists what there is, or InvalidCommand that names the file and the field.
    """
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else _find("workflow", name_or_path, "workflows", ".yaml", directories)
    if not path.is_file():
        raise NotFound(f"there is no workflow file {name_or_path!r}", what_to_do="check the path")
    workflow = _workflow(path, directories)
    with _named(path):
        rules.validate(workflow)
    return _with_version(workflow)


def load_role(name: str, directories: Sequence[Path] = ()) -> Role:
    """A role by its name. Raises as `load_workflow` does."""
    path = _find("role", name, "roles", ".md", directories)
    parts = _FRONT_MATTER.fullmatch(read_text(path))
    if parts is None:
        raise invalid(str(path), "file", "has to begin with a block of fields between two lines of '---'")
    fields = Fields(str(path), "", parse(parts[1] or "{}", str(path)))
    role = Role(
        name=name,
        prompt=parts[2].strip(),
        model=fields.text("model", ""),
        cheaper_model=fields.text("cheaper_model", ""),
        tools=fields.texts("tools"),
        limits=_limits(fields),
        network=fields.yes_or_no("network"),
        on_unknown=_ON_UNKNOWN[fields.one_of("on_unknown", _ON_UNKNOWN, "")],
    )
    fields.done()
    with _named(path):
        roles.validate(role)
    return _with_version(role)


def available_workflows(directories: Sequence[Path] = ()) -> list[str]:
    """The names that `load_workflow` knows."""
    return _names("workflows", ".yaml", directories)


def _workflow(path: Path, directories: Sequence[Path]) -> Workflow:
    where = str(path)
    fields = Fields(where, "", parse(read_text(path), where))
    workflow = Workflow(name=fields.text("name", path.stem))
    for number, item in enumerate(fields.items("nodes")):
        workflow.nodes.append(_node(Fields(where, f"nodes[{number}]", item), where, number, directories))
    for number, item in enumerate(fields.items("back_edges")):
        workflow.back_edges.append(_back_edge(Fields(where, f"back_edges[{number}]", item)))
    fields.done()
    return workflow


def _node(fields: Fields, where: str, number: int, directories: Sequence[Path]) -> Node:
    node = Node(
        node_id=fields.text("id"), depends_on=fields.texts("depends_on"), executor_labels=fields.texts("runs_on")
    )
    if fields.has("role") == fields.has("noop"):
        raise invalid(where, f"nodes[{number}]", "has to have either a role or noop")
    if fields.has("role"):
        role = _role(where, f"nodes[{number}].role", fields.text("role"), directories)
        node.agent.CopyFrom(AgentNode(role=role, prompt=fields.text("prompt", "")))
    else:
        noop = fields.mapping("noop")
        node.noop.CopyFrom(NoopNode(steps=noop.number("steps", 0)))
        noop.done()
    fields.done()
    return node


def _role(where: str, field: str, name: str, directories: Sequence[Path]) -> Role:
    try:
        return load_role(name, directories)
    except NotFound as refusal:
        raise invalid(where, field, f"names {name[:80]!r}, which is no role: {refusal.what_to_do}") from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the rules refuse is said with the file that it stands in."""
    try:
        yield
    except InvalidCommand as refusal:
        violations = {_as_in_files(field): why for field, why in refusal.violations.items()}
        message = f"{path}: {_as_in_files(refusal.message)}"
        raise InvalidCommand(message, what_to_do=refusal.what_to_do, violations=violations) from None


def _as_in_files(field: str) -> str:
    return field.replace("executor_labels", "runs_on").replace("limits.", "")


def _back_edge(fields: Fields) -> BackEdge:
    values: dict[str, Any] = {
        "from": fields.text("from"),
        "to": fields.text("to"),
        "output_contains": fields.text("output_contains"),
        "visits_max": fields.number("visits_max", 2),
    }
    fields.done()
    return BackEdge(**values)


def _limits(fields: Fields) -> AgentLimits:
    return AgentLimits(
        turns_max=fields.number("turns_max", 0),
        duration_seconds_max=fields.number("duration_seconds_max", 0),
        tokens_max=fields.number("tokens_max", 0),
        output_tokens_max=fields.number("output_tokens_max", 0),
        model_call_seconds_max=fields.number("model_call_seconds_max", 0),
        first_byte_seconds_max=fields.number("first_byte_seconds_max", 0),
        silence_seconds_max=fields.number("silence_seconds_max", 0),
        tool_seconds_max=fields.number("tool_seconds_max", 0),
    )


def _find(kind: str, name: str, folder: str, suffix: str, directories: Sequence[Path]) -> Path:
    """A name is a name: neither it nor a link leads out of the directories, which may be a repository's."""
    if _NAME.fullmatch(name):
        for directory in (*directories, BUILT_IN):
            path = directory / folder / (name + suffix)
            if path.is_file() and path.resolve().is_relative_to(directory.resolve()):
                return path
    known = ", ".join(_names(folder, suffix, directories))
    raise NotFound(f"there is no {kind} {name[:80]!r}", what_to_do=f"use one of: {known}")


def _names(folder: str, suffix: str, directories: Sequence[Path]) -> list[str]:
    paths = (path for directory in (*directories, BUILT_IN) for path in (directory / folder).glob(f"*{suffix}"))
    return sorted({path.stem for path in paths if _NAME.fullmatch(path.stem)})


def _with_version(message: M) -> M:
    digest = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
    message.version = digest[:VERSION_CHARACTERS]
    return message
