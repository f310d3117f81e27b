"""Which tasks the expressions of a workflow may name: those of its own nodes that edges lead from to where they are
worked out, however far, ways back included. Whether one of them has run by then is for the expression to ask. Which
fields they have is in crewlog.domain.workflow.fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.expressions import Expression, compile_expression
from crewlog.domain.workflow.fields import Known
from crewlog.domain.workflow.graph import Graph
from crewlog.domain.workflow.graph_order import Earlier
from crewlog.domain.workflow.templates import Template
from crewlog.v1.run_pb2 import Node, Workflow

Found = Iterator[tuple[str, str]]
Needs = TypeVar("Needs", Expression, Template)


@dataclass(frozen=True, slots=True)
class Certain:
    """What of a workflow is as somebody has meant it: the ids of all `nodes`, their `kinds`, all `edges` between them.
    Where something is not, because it was refused before, nothing is said that follows from it."""

    nodes: bool = True
    kinds: bool = True
    edges: bool = True


CERTAIN = Certain()


@dataclass(frozen=True, slots=True)
class _Use:
    """A field that is worked out at this node. `sees_itself`: a visit of the node has ended by then, whatever the graph
    says."""

    where: str
    node_id: str
    needs: Expression | Template
    sees_itself: bool
    is_condition: bool = False
    is_list: bool = False

    @property
    def tasks(self) -> frozenset[str]:
        return self.needs.tasks


def violations(workflow: Workflow, certain: Certain = CERTAIN) -> Found:
    """What cannot be read as an expression is passed over, and so are edges from nowhere."""
    known = {node.node_id: node for node in workflow.nodes}
    uses = [use for use in _uses(workflow) if use.node_id in known]
    for use in uses:
        for name in sorted(use.tasks - known.keys()) if certain.nodes else ():
            yield use.where, f"names the task of {name[:80]!r}, which is no node"
        if certain.kinds:
            yield from _wrong_fields(use, known)
    if certain.edges and any(use.tasks for use in uses):
        yield from _too_early(uses, Earlier.of(Graph.of(workflow)), known.keys())


def _wrong_fields(use: _Use, nodes: Mapping[str, Node]) -> Found:
    known = Known(nodes, nodes[use.node_id])
    yield from ((use.where, why) for why in known.unknown(use.needs.paths))
    yield from ((use.where, why) for why in known.no_text(use.needs.calls))
    if isinstance(use.needs, Expression):
        why = known.no_condition(use.needs) if use.is_condition else known.no_list(use.needs) if use.is_list else ""
        yield from [(use.where, why)] if why else []


def _too_early(uses: Iterable[_Use], earlier: Earlier, known: Set[str]) -> Found:
    for use in uses:
        for name in sorted(use.tasks & known):
            is_itself = name == use.node_id
            if not ((is_itself and use.sees_itself) or earlier.may_precede(name, use.node_id)):
                is_later = earlier.may_precede(use.node_id, name)
                yield use.where, f"names the task of {name!r}, {_way_out(use.node_id, is_itself, is_later)}"


def _way_out(node_id: str, is_itself: bool, is_later: bool) -> str:
    if is_itself:
        return "which is this one, and it comes only once: lead back to it with an edge, or leave the name out"
    if is_later:
        return f"which comes only after {node_id!r}: lead back from there with an edge, or leave the name out"
    return f"from which no edges lead to {node_id!r}: put it into the `depends_on` of that, or leave the name out"


def _uses(workflow: Workflow) -> Iterator[_Use]:
    for number, node in enumerate(workflow.nodes):
        retries = node.retry.attempts_max > 1
        for where, needs in _needs(f"nodes[{number}]", node):
            yield _Use(where, node.node_id, needs, retries, is_list=where.endswith(".map.over"))
    for number, edge in enumerate(workflow.edges):
        where = f"edges[{number}].when"
        for _, condition in _read(compile_expression, [(where, edge.when)] if edge.when else []):
            yield _Use(where, getattr(edge, "from"), condition, sees_itself=True, is_condition=True)


def _needs(where: str, node: Node) -> Iterator[tuple[str, Expression | Template]]:
    yield from _read(Template.of, ((field, text) for field, text in _texts(where, node) if "{{" in text))
    yield from _read(compile_expression, _expressions(where, node))


def _read(read: Callable[[str], Needs], texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Needs]]:
    """Those that can be read."""
    for field, text in texts:
        with suppress(InvalidCommand):
            yield field, read(text)


def _texts(where: str, node: Node) -> Iterator[tuple[str, str]]:
    yield f"{where}.agent.prompt", node.agent.prompt
    yield f"{where}.gate.question", node.gate.question
    yield f"{where}.gate.text", node.gate.text
    yield f"{where}.workflow.input", node.workflow.input
    for number, argument in enumerate(node.command.argv):
        yield f"{where}.command.argv[{number}]", argument
    if node.HasField("map"):
        yield from _texts(f"{where}.map.body", node.map.body)


def _expressions(where: str, node: Node) -> Iterator[tuple[str, str]]:
    if getattr(node.files, "from"):
        yield f"{where}.files.from", getattr(node.files, "from")
    if node.map.over:
        yield f"{where}.map.over", node.map.over
    if node.HasField("map"):
        yield from _expressions(f"{where}.map.body", node.map.body)
