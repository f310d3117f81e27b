"""Workflows that nobody would write: every kind of node and edge, put together at random, and all of them valid."""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.node_pb2 import (
    CommandNode,
    Edge,
    Files,
    GateNode,
    GateNodeKind,
    Join,
    JoinMode,
    JoinNode,
    Outcome,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import AgentNode, BackEdge, MapNode, Node, NoopNode, Planning, Role, Workflow, WorkflowNode
from hypothesis import strategies as st

NODES_MAX = 8
WORKER, SCOUT = Role(name="worker", prompt="work"), Role(name="scout", prompt="look")
SIGNAL = "go"
AGAIN = "once more"
"""Stands in the output of a task that is to be done again."""
SCHEMA = '{"type": "object"}'
INNER = Workflow(name="inner", nodes=[Node(node_id="only", noop=NoopNode())])
OUTCOMES = [
    Outcome.OUTCOME_SUCCEEDED,
    Outcome.OUTCOME_FAILED,
    Outcome.OUTCOME_TIMED_OUT,
    Outcome.OUTCOME_CANCELLED,
    Outcome.OUTCOME_CONFLICTED,
]


def _agents() -> st.SearchStrategy[Node]:
    plain = st.builds(Node, agent=st.sampled_from([AgentNode(role=WORKER), AgentNode(role=SCOUT)]))
    typed = st.just(Node(agent=AgentNode(role=WORKER, output_schema=SCHEMA)))
    parents = st.just(Node(agent=AgentNode(role=WORKER, children=[SCOUT, WORKER], children_max=3)))
    planners = st.just(Node(agent=AgentNode(role=WORKER, planning=Planning(roles=[WORKER, SCOUT], nodes_max=4))))
    return st.one_of(plain, typed, parents, planners)


def _commands() -> st.SearchStrategy[Node]:
    argv = st.sampled_from([["make", "test"], ["echo", "{{ run.id }}"]])
    return st.builds(lambda words: Node(command=CommandNode(argv=words)), argv)


def _gates() -> st.SearchStrategy[Node]:
    return st.builds(
        lambda kind, seconds, answer: Node(
            gate=GateNode(
                kind=kind,
                question="well?",
                choices=["left", "right"] if kind == GateNodeKind.GATE_NODE_KIND_CHOOSE else [],
                expires_seconds=seconds,
                default_answer=_default(kind) if answer else "",
            )
        ),
        st.sampled_from([kind for kind in GateNodeKind.values() if kind]),
        st.sampled_from([0, 30]),
        st.booleans(),
    )


def _default(kind: GateNodeKind.ValueType) -> str:
    match kind:
        case GateNodeKind.GATE_NODE_KIND_APPROVE:
            return "reject"
        case GateNodeKind.GATE_NODE_KIND_CHOOSE:
            return "left"
        case _:
            return "any"


def _waits() -> st.SearchStrategy[Node]:
    return st.builds(
        lambda seconds, signal: Node(wait=WaitNode(seconds=seconds if seconds or signal else 5, signal=signal)),
        st.sampled_from([0, 5, 60]),
        st.sampled_from(["", SIGNAL, "other"]),
    )


def _maps(before: Sequence[str]) -> st.SearchStrategy[Node]:
    lists = ["[1, 2, 3]", "[]", *(f'tasks["{node_id}"].result.items' for node_id in before)]
    bodies = st.one_of(
        st.just(Node(noop=NoopNode())),
        st.just(Node(agent=AgentNode(role=WORKER, prompt="{{ index }}"))),
        st.just(Node(command=CommandNode(argv=["test", "{{ item }}"]))),
        st.just(Node(workflow=WorkflowNode(workflow=INNER))),
    )
    return st.builds(
        lambda body, policy, over, times, at_once, failures: Node(
            map=MapNode(
                body=_with(body, retry=policy),
                over="" if times else over,
                times=times,
                at_once_max=at_once,
                failures_max=failures,
            )
        ),
        bodies,
        _policies(),
        st.sampled_from(lists),
        st.sampled_from([0, 1, 5]),
        st.integers(0, 3),
        st.integers(0, 2),
    )


def _with(node: Node, **fields: object) -> Node:
    other = Node(**fields)  # type: ignore[arg-type]
    other.MergeFrom(node)
    return other


def _policies() -> st.SearchStrategy[RetryPolicy | None]:
    policy = st.builds(
        RetryPolicy,
        attempts_max=st.integers(2, 3),
        back_off_seconds=st.sampled_from([0, 10]),
        reasons=st.sampled_from([[], ["broken"]]),
    )
    return st.one_of(st.none(), st.none(), policy)


def _joins() -> st.SearchStrategy[Join | None]:
    modes = st.sampled_from([mode for mode in JoinMode.values() if mode])
    counted = st.builds(Join, mode=modes, count=st.integers(1, 3), keep_rest=st.booleans())
    return st.one_of(st.none(), counted)


def _kinds(before: Sequence[str]) -> st.SearchStrategy[Node]:
    return st.one_of(
        _agents(),
        st.just(Node(noop=NoopNode(steps=1))),
        _commands(),
        _gates(),
        _waits(),
        st.just(Node(join_files=JoinNode())),
        _maps(before),
        st.just(Node(workflow=WorkflowNode(workflow=INNER))),
    )


@st.composite
def _nodes(draw: st.DrawFn) -> list[Node]:
    nodes: list[Node] = []
    earlier: dict[str, set[str]] = {}
    for number in range(draw(st.integers(1, NODES_MAX))):
        depends_on = draw(st.lists(st.sampled_from([*earlier]), max_size=3, unique=True)) if earlier else []
        before = set(depends_on).union(*(earlier[each] for each in depends_on))
        earlier[f"n{number}"] = before
        node = _with(
            draw(_kinds(sorted(before))),
            node_id=f"n{number}",
            depends_on=depends_on,
            join=draw(_joins()),
            timeout_seconds=draw(st.sampled_from([0, 0, 0, 45])),
            retry=draw(_policies()),
            continue_on_failure=draw(st.sampled_from([False, False, True])),
            exclusive=draw(st.sampled_from([False, False, True])),
            files=draw(st.sampled_from([None, None, Files(none=True), Files(with_conflicts=True)])),
            budget=draw(st.sampled_from([None, Limit(usd_micros=400)])),
        )
        if node.agent.HasField("planning"):
            node.exclusive = False
        nodes.append(node)
    return nodes


@st.composite
def _edge(draw: st.DrawFn, count: int, *, is_back: bool) -> Edge:
    first, second = sorted(draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=not is_back)))
    source, target = (second, first) if is_back else (first, second)
    conditions = ["", "true", "false", 'task.outcome == "succeeded"', "task.result.is_good", "task.visit < 2"]
    return Edge(
        to=f"n{target}",
        on=draw(st.lists(st.sampled_from(OUTCOMES), max_size=3, unique=True)),
        when=draw(st.sampled_from([*conditions, f'tasks["n{source}"].output == "fine"'])),
        output_contains=draw(st.sampled_from(["", "", "", AGAIN])),
        priority=draw(st.integers(-1, 1)),
        visits_max=draw(st.integers(1, 3)) if is_back else 0,
        **{"from": f"n{source}"},
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Most are valid."""
    nodes = draw(_nodes())
    count = len(nodes)
    edges = draw(st.lists(_edge(count, is_back=False), max_size=5)) if count > 1 else []
    edges += draw(st.lists(_edge(count, is_back=True), max_size=2))
    back = [BackEdge(to="n0", output_contains=AGAIN, visits_max=2, **{"from": f"n{count - 1}"})]
    return Workflow(
        name="made-up",
        nodes=nodes,
        edges=edges,
        back_edges=back if draw(st.booleans()) else [],
        visits_max=draw(st.sampled_from([0, 30])),
    )


@st.composite
def loops(draw: st.DrawFn) -> Workflow:
    """The last node sends the work back, or may, while those beside it are at work, wait, or ask."""
    beside = [
        _with(draw(_busy()), node_id=f"n{number}", depends_on=["n0"], retry=draw(_policies()))
        for number in range(1, draw(st.integers(2, 4)))
    ]
    ids = [node.node_id for node in beside]
    before = draw(st.sampled_from([["n0"], ["n0"], ["n0", ids[0]]]))
    join = Join(mode=JoinMode.JOIN_MODE_ANY, keep_rest=True) if len(before) > 1 else None
    last = Node(node_id="last", depends_on=before, join=join, agent=AgentNode(role=WORKER))
    back = Edge(
        to=draw(st.sampled_from(before)),
        on=[Outcome.OUTCOME_SUCCEEDED, Outcome.OUTCOME_FAILED],
        when=draw(st.sampled_from(["", "task.visit < 3", "task.visit < 2"])),
        visits_max=draw(st.integers(2, 4)),
    )
    ahead = Edge(to=ids[0], when=draw(st.sampled_from(["true", "task.visit < 2"])))
    for edge, source in ((back, "last"), (ahead, "n0")):
        setattr(edge, "from", source)
    end = Node(node_id="end", depends_on=["last", *ids], noop=NoopNode())
    root = Node(node_id="n0", continue_on_failure=True, agent=AgentNode(role=WORKER))
    edges = [back, *draw(st.sampled_from([[], [ahead]]))]
    return Workflow(name="made-up", nodes=[root, *beside, last, end], edges=edges)


def _busy() -> st.SearchStrategy[Node]:
    agents = st.builds(lambda: Node(agent=AgentNode(role=WORKER)))
    items = [Node(agent=AgentNode(role=WORKER)), Node(workflow=WorkflowNode(workflow=INNER))]
    maps = st.builds(
        lambda body, times, policy: Node(map=MapNode(body=_with(body, retry=policy), times=times, failures_max=times)),
        st.sampled_from(items),
        st.integers(1, 3),
        _policies(),
    )
    return st.one_of(
        _agents(), agents, maps, maps, _gates(), _waits(), st.just(Node(workflow=WorkflowNode(workflow=INNER)))
    )
