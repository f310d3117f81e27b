"""What a valid workflow is, as a table of everything that is refused, and what a graph answers, for random graphs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import nodes as workflow_nodes
from crewlog.domain.workflow import references as workflow_references
from crewlog.domain.workflow import roles
from crewlog.domain.workflow import validation as rules
from crewlog.domain.workflow.graph import Graph
from crewlog.domain.workflow.graph_order import Earlier, in_order
from crewlog.domain.workflow.validation import validate
from crewlog.v1.node_pb2 import Edge, GateNode, Join, JoinMode, Outcome
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, BackEdge, Node, NoopNode, Planning, Role, Workflow
from hypothesis import given
from hypothesis import strategies as st

Edges = Sequence[tuple[int, int]]
# Far more than it takes, and far less than anything that is not linear would.
SECONDS_MAX = 5.0


def noop(node_id: str, *depends_on: str, steps: int = 0) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, noop=NoopNode(steps=steps))


def agent(prompt: str = "", **role: object) -> Node:
    fields: dict[str, object] = {"name": "writer", "prompt": "write it", "tools": ["read"], **role}
    return Node(node_id="a", agent=AgentNode(role=Role(**fields), prompt=prompt))  # type: ignore[arg-type]


BLANK = Node(node_id="a", agent=AgentNode(role=Role(name="writer", prompt=" \n")))


ROLE = Role(name="writer", prompt="write it")
SILENCE = "nodes[0].agent.role.limits.silence_seconds_max"


def labelled(*labels: str) -> Node:
    return Node(node_id="a", noop=NoopNode(), executor_labels=labels)


def edge(source: str, to: str, phrase: str = "again", visits_max: int = 2) -> BackEdge:
    values = {"from": source, "to": to, "output_contains": phrase, "visits_max": visits_max}
    return BackEdge(**values)  # type: ignore[arg-type]


def back(source: str, to: str) -> Edge:
    return Edge(to=to, visits_max=2, **{"from": source})  # type: ignore[arg-type]


def asking(node_id: str, before: str, *names: str) -> Node:
    question = " ".join(f"{{{{ tasks.{name}.output }}}}" for name in names)
    return Node(node_id=node_id, depends_on=[before], gate=GateNode(question=question))


def plan(*nodes: Node, back: Sequence[BackEdge] = (), name: str = "plan") -> Workflow:
    return Workflow(name=name, nodes=nodes, back_edges=back)


def chain(length: int, *back: BackEdge) -> Workflow:
    return plan(noop("n0"), *(noop(f"n{i}", f"n{i - 1}") for i in range(1, length)), back=back)


def violations(workflow: Workflow) -> dict[str, str]:
    try:
        validate(workflow)
    except InvalidCommand as refusal:
        return refusal.violations
    return {}


@pytest.mark.parametrize(
    "workflow",
    [
        plan(noop("a")),
        plan(agent()),
        plan(agent(prompt="x" * roles.PROMPT_BYTES_MAX, tools=[])),
        plan(noop("a"), noop("b", "a"), noop("c", "a"), noop("d", "b", "c")),
        plan(noop("d", "a"), noop("a")),
        plan(noop("a", steps=workflow_nodes.STEPS_MAX)),
        plan(labelled(*"abcdefgh")),
        plan(agent(limits=AgentLimits(model_call_seconds_max=86_400, duration_seconds_max=10**6), network=True)),
        chain(3, edge("n2", "n0")),
        chain(3, edge("n2", "n2", visits_max=1), edge("n1", "n0", visits_max=rules.VISITS_MAX)),
        chain(rules.NODES_MAX),
    ],
    ids=[
        "one",
        "agent",
        "long prompt",
        "diamond",
        "any order",
        "steps",
        "labels",
        "limits",
        "back",
        "back to itself",
        "largest",
    ],
)
def test_what_is_valid(workflow: Workflow) -> None:
    assert violations(workflow) == {}


@pytest.mark.parametrize(
    ("workflow", "field", "why"),
    [
        (plan(noop("a"), name=""), "name", "is missing"),
        (plan(noop("a"), name="a.*"), "name", "has to be 1 to 48"),
        (plan(), "nodes", "1 to 2000"),
        (chain(rules.NODES_MAX + 1), "nodes", "there are 2001"),
        (plan(Node(noop=NoopNode())), "nodes[0].node_id", "is missing"),
        (plan(noop("a.b")), "nodes[0].node_id", "a-z, 0-9"),
        (plan(noop("x" * 10_000)), "nodes[0].node_id", "1 to 32"),
        (plan(noop("a"), noop("a")), "nodes[1].node_id", "taken"),
        (plan(noop("a", "b")), "nodes[0].depends_on", "'b', which is no node"),
        (plan(noop("a"), noop("b", "a", "a")), "nodes[1].depends_on", "twice"),
        (plan(Node(node_id="a")), "nodes[0]", "agent, noop, command"),
        (plan(noop("a", steps=-1)), "nodes[0].noop.steps", "0 to 10000"),
        (plan(noop("a", steps=workflow_nodes.STEPS_MAX + 1)), "nodes[0].noop.steps", "0 to 10000"),
        (plan(agent(name="")), "nodes[0].agent.role.name", "is missing"),
        (plan(agent(name="My Role")), "nodes[0].agent.role.name", "a-z, 0-9"),
        (plan(BLANK), "nodes[0].agent.role.prompt", "is missing"),
        (plan(agent(prompt="ä" * 40_000)), "nodes[0].agent.prompt", "longer than 65536 bytes"),
        (plan(agent(tools=["read", "curl"])), "nodes[0].agent.role.tools", "'curl'; there are ask, bash"),
        (plan(agent(tools=["read", "read"])), "nodes[0].agent.role.tools", "twice"),
        (plan(agent(limits=AgentLimits(turns_max=-1))), "nodes[0].agent.role.limits.turns_max", "0 (the default)"),
        (plan(agent(limits=AgentLimits(tool_seconds_max=-1))), "nodes[0].agent.role.limits.tool_seconds_max", "0 (the"),
        (plan(agent(limits=AgentLimits(silence_seconds_max=86_401))), SILENCE, "at most 86400 (a day)"),
        (plan(agent(on_unknown=7)), "nodes[0].agent.role.on_unknown", "tell or ask"),
        (plan(labelled("GPU")), "nodes[0].executor_labels", "'GPU' has to be 1 to 32 of a-z"),
        (plan(labelled("")), "nodes[0].executor_labels", "is missing"),
        (plan(labelled("a", "a")), "nodes[0].executor_labels", "twice"),
        (plan(labelled(*"abcdefghi")), "nodes[0].executor_labels", "at most 8, and there are 9"),
        (plan(noop("a", "a")), "nodes", "in a circle: a"),
        (plan(noop("a"), noop("b", "d"), noop("c", "b"), noop("d", "c")), "nodes", "in a circle: b, c, d"),
        (chain(2, edge("n1", "x")), "back_edges[0].to", "'x', which is no node"),
        (chain(2, edge("x", "n1")), "back_edges[0].from", "'x', which is no node"),
        (chain(2, edge("n0", "n1")), "back_edges[0].to", "'n1' does not come before 'n0'"),
        (plan(noop("a"), noop("b"), back=[edge("a", "b")]), "back_edges[0].to", "does not come before"),
        (chain(2, edge("n1", "n0", phrase="")), "back_edges[0].output_contains", "needs a condition"),
        (chain(2, edge("n1", "n0", phrase="x" * 1_001)), "back_edges[0].output_contains", "longer than 1000"),
        (chain(2, edge("n1", "n0", visits_max=0)), "back_edges[0].visits_max", "1 to 20"),
        (chain(2, edge("n1", "n0", visits_max=21)), "back_edges[0].visits_max", "1 to 20"),
        (chain(2, *[edge("n1", "n0")] * 101), "back_edges", "there are 101"),
    ],
)
def test_what_is_refused(workflow: Workflow, field: str, why: str) -> None:
    found = violations(workflow)
    assert set(found) == {field}
    assert why in found[field]


def ways_back(*others: Edge, of: Sequence[BackEdge] = ()) -> dict[str, str]:
    nodes = [noop("a"), noop("b", "a"), noop("c", "a"), noop("d", "b", "c")]
    return violations(Workflow(name="w", nodes=nodes, edges=[noted("d", "b"), *others], back_edges=of))


def noted(source: str, to: str, *on: Outcome.ValueType, when: str = "", priority: int = 0) -> Edge:
    values = {"from": source, "on": on, "when": when, "priority": priority}
    return Edge(to=to, visits_max=2, **values)  # type: ignore[arg-type]


def test_only_the_first_way_back_is_taken() -> None:
    assert list(ways_back(noted("d", "c"))) == ["edges[1].to"]
    assert list(ways_back(noted("d", "c", when="task.visit < 2"))) == ["edges[1].to"]
    assert list(ways_back(noted("d", "c", priority=1))) == ["edges[0].to"]
    assert list(ways_back(of=[edge("d", "c")])) == ["back_edges[0].to"]
    assert ways_back(noted("c", "a")) == {}
    assert ways_back(noted("d", "c", when="task.visit < 2", priority=1)) == {}


def test_after_a_failure_the_next_way_back_is_there_when_the_first_is_used_up() -> None:
    failed = Outcome.OUTCOME_FAILED
    assert ways_back(noted("d", "b", failed), noted("d", "c", failed)) == {}


def test_a_quorum_is_not_of_more_than_come_unless_a_planner_grows_them() -> None:
    join = Join(mode=JoinMode.JOIN_MODE_QUORUM, count=3)
    last = Node(node_id="c", depends_on=["a", "b"], noop=NoopNode(), join=join)
    assert list(violations(plan(noop("a"), noop("b"), last))) == ["nodes[2].join.count"]
    planner = Node(node_id="a", agent=AgentNode(role=ROLE, planning=Planning(roles=[ROLE], nodes_max=3)))
    assert violations(plan(planner, noop("b"), last)) == {}


def test_every_field_that_is_wrong_is_named() -> None:
    found = violations(plan(noop("A"), noop("b", "x"), Node(node_id="c"), name="?"))
    assert set(found) == {"name", "nodes[0].node_id", "nodes[1].depends_on", "nodes[2]"}


def test_the_message_names_the_workflow_and_the_first_field() -> None:
    with pytest.raises(InvalidCommand, match=r"workflow 'plan' is not valid: nodes\[0\].node_id 'A' has to be"):
        validate(plan(noop("A")))


def test_a_role_is_checked_alone() -> None:
    roles.validate(agent().agent.role)
    with pytest.raises(InvalidCommand) as refused:
        roles.validate(Role(name="w", prompt="p", tools=["rm"]))
    assert set(refused.value.violations) == {"tools"}


def test_the_largest_plans_are_checked_in_linear_time() -> None:
    """A chain where every node may go back to the start, and one where all depend on many."""
    width = rules.DEPENDENCIES_MAX // rules.NODES_MAX - 1
    dense = [noop(f"n{i}", *(f"n{j}" for j in range(max(0, i - width), i))) for i in range(rules.NODES_MAX)]
    last = rules.NODES_MAX - 1
    began = time.process_time()
    validate(plan(*dense, back=[edge(f"n{last - i}", "n0") for i in range(rules.BACK_EDGES_MAX)]))
    assert time.process_time() - began < SECONDS_MAX


def test_the_tasks_that_the_largest_plan_names_are_looked_up_in_time() -> None:
    """Each names all that it can, and any may go back to the start, or only to the one before it."""
    last = rules.NODES_MAX - 1
    asks = [noop("n0"), *(asking(f"n{i}", f"n{i - 1}", f"n{last}", "n0") for i in range(1, last)), noop(f"n{last}")]
    asks[last].depends_on.append(f"n{last - 1}")
    edges = [back(f"n{i}", to) for i in range(1, last + 1) for to in ("n0", f"n{i - 1}")]
    began = time.process_time()
    assert dict(workflow_references.violations(Workflow(name="w", nodes=asks, edges=edges))) == {}
    assert time.process_time() - began < SECONDS_MAX


def test_ways_back_are_few_however_they_are_written() -> None:
    workflow = chain(2)
    workflow.edges.extend([back("n1", "n0")] * 101)
    assert violations(workflow) == {"edges": "have more than 100 that lead back (those with `visits_max`)"}


def test_more_dependencies_than_can_be_checked_are_refused() -> None:
    names = [f"n{i}" for i in range(1_000)]
    wide = plan(*(noop(name) for name in names), *(noop(f"m{i}", *names) for i in range(21)))
    assert "20000 dependencies" in violations(wide)["nodes"]


def test_a_graph_answers_in_the_order_of_the_plan() -> None:
    graph = Graph.of(plan(noop("d", "b", "c"), noop("a"), noop("b", "a"), noop("c", "a"), noop("z")))
    assert list(graph.nodes) == ["d", "a", "b", "c", "z"]
    assert graph.roots == ("a", "z")
    assert graph.dependents("a") == ("b", "c")
    assert graph.descendants("a") == {"b", "c", "d"}
    assert graph.descendants("d") == frozenset()


def _edges(nodes: int) -> st.SearchStrategy[Edges]:
    one = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1))
    return st.lists(one, max_size=2 * nodes, unique=True)


def _graph(nodes: int, edges: Edges) -> Workflow:
    """Each edge (a, b): b depends on a."""
    return plan(*(noop(f"n{i}", *(f"n{a}" for a, b in edges if b == i)) for i in range(nodes)))


def _reached(start: int, edges: Edges) -> set[int]:
    """By the slow and simple rule: what can be reached in any number of edges."""
    found: set[int] = set()
    while more := {b for a, b in edges if a in found | {start}} - found:
        found |= more
    return found


graphs = st.integers(1, 8).flatmap(lambda nodes: st.tuples(st.just(nodes), _edges(nodes)))


@given(graphs)
def test_a_plan_is_refused_exactly_when_a_node_depends_on_itself(graph: tuple[int, Edges]) -> None:
    nodes, edges = graph
    is_circular = any(node in _reached(node, edges) for node in range(nodes))
    assert ("nodes" in violations(_graph(nodes, edges))) == is_circular


@given(graphs, st.integers(0, 7), st.integers(0, 7))
def test_a_way_back_leads_to_the_node_or_to_what_comes_before_it(
    graph: tuple[int, Edges], source: int, to: int
) -> None:
    nodes, edges = graph
    forward = [(a, b) for a, b in edges if a < b]
    workflow = _graph(nodes, forward)
    source, to = source % nodes, to % nodes
    workflow.back_edges.append(edge(f"n{source}", f"n{to}"))
    assert (violations(workflow) == {}) == (source == to or source in _reached(to, forward))


@given(graphs)
def test_descendants_are_what_can_be_reached(graph: tuple[int, Edges]) -> None:
    nodes, edges = graph
    forward = [(a, b) for a, b in edges if a < b]
    built = Graph.of(_graph(nodes, forward))
    for node in range(nodes):
        assert built.descendants(f"n{node}") == {f"n{other}" for other in _reached(node, forward)}


@given(graphs)
def test_in_order_everything_stands_behind_what_comes_before_it(graph: tuple[int, Edges]) -> None:
    nodes, edges = graph
    ordered = in_order(Graph.of(_graph(nodes, edges)))
    circular = {node for node in range(nodes) if node in _reached(node, edges)}
    behind = circular.union(*(_reached(node, edges) for node in circular))
    assert sorted(ordered) == sorted(f"n{node}" for node in set(range(nodes)) - behind)
    assert all(ordered.index(f"n{a}") < ordered.index(f"n{b}") for a, b in edges if f"n{b}" in ordered)


@given(graphs)
def test_what_may_precede_is_what_leads_there_over_any_ways(graph: tuple[int, Edges]) -> None:
    nodes, edges = graph
    forward = [(a, b) for a, b in edges if a < b]
    ways_back = [(a, b) for a, b in edges if a == b or (a > b and a in _reached(b, forward))]
    workflow = _graph(nodes, forward)
    workflow.edges.extend(back(f"n{a}", f"n{b}") for a, b in ways_back)
    earlier = Earlier.of(Graph.of(workflow))
    found = {(a, b) for a in range(nodes) for b in range(nodes) if earlier.may_precede(f"n{a}", f"n{b}")}
    assert found == {(a, b) for a in range(nodes) for b in _reached(a, [*forward, *ways_back])}
