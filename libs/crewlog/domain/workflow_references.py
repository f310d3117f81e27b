"""Which tasks the expressions of a workflow may name: those of its own nodes that edges lead from to where they are
worked out, however far, ways back included. Whether one of them has run by then is for the expression to ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crewlog.domain.expressions import compile_expression
from crewlog.domain.graph import Graph
from crewlog.domain.graph_order import Earlier
from crewlog.domain.templates import Template
from crewlog.v1.run_pb2 import Node, Workflow

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Use:
    """The tasks that a field names, which is worked out at this node. `sees_itself`: a visit of the node has ended by
    then, whatever the graph says."""

    where: str
    node_id: str
    tasks: frozenset[str]
    sees_itself: bool


def violations(workflow: Workflow) -> Found:
    """All else of the workflow has to be in order."""
    known = {node.node_id for node in workflow.nodes}
    uses = [use for use in _uses(workflow) if use.tasks]
    for use in uses:
        for name in sorted(use.tasks - known):
            yield use.where, f"names the task of {name[:80]!r}, which is no node"
    if uses:
        yield from _too_early(uses, Earlier.of(Graph.of(workflow)), known)


def _too_early(uses: Iterable[_Use], earlier: Earlier, known: set[str]) -> Found:
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
        for where, tasks in _named(f"nodes[{number}]", node):
            yield _Use(where, node.node_id, tasks, retries)
    for number, edge in enumerate(workflow.edges):
        if edge.when:
            tasks = compile_expression(edge.when).tasks
            yield _Use(f"edges[{number}].when", getattr(edge, "from"), tasks, sees_itself=True)


def _named(where: str, node: Node) -> Iterator[tuple[str, frozenset[str]]]:
    yield from ((field, Template.of(text).tasks) for field, text in _texts(where, node) if "{{" in text)
    yield from ((field, compile_expression(text).tasks) for field, text in _expressions(where, node))


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
