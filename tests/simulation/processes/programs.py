"""What people ask for: random workflows, and what they do to them while they run."""

from __future__ import annotations

from random import Random

from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.node_pb2 import GateNode, GateNodeKind, JoinNode, RetryPolicy, WaitNode
from crewlog.v1.run_pb2 import (
    AgentLimits,
    AgentNode,
    BackEdge,
    MapNode,
    Node,
    NoopNode,
    OnUnknown,
    Role,
    StartRun,
    Workflow,
    WorkflowNode,
)

from tests.simulation.processes.effects import ASK, CLASSES
from tests.simulation.processes.git import BASE_COMMIT
from tests.simulation.processes.model import MODEL, SENT_BACK

NODES_MAX = 5
AGENT_SHARE, NOOP_SHARE = 0.5, 0.2
SIGNAL = "go"
INNER = Workflow(name="inner", nodes=[Node(node_id="n0", noop=NoopNode(steps=2))])


def start_run(chance: Random, number: int, at_unix_micros: int) -> StartRun:
    budget, on_exhausted = _money(chance)
    return StartRun(
        run_id=f"r{number}",
        project_id="p",
        workflow=workflow(chance),
        input=f"do job {number}",
        budget=budget,
        model=MODEL,
        base_commit=BASE_COMMIT,
        on_exhausted=on_exhausted,
        gate_seconds=chance.choice((0, 0, 40)),
        at_unix_micros=at_unix_micros,
    )


def workflow(chance: Random) -> Workflow:
    """A chain, a fan, or something in between; sometimes with a way back."""
    count = chance.randrange(1, NODES_MAX + 1)
    nodes = [_node(chance, number) for number in range(count)]
    for number, node in enumerate(nodes):
        before = [f"n{other}" for other in range(number)]
        node.depends_on.extend(chance.sample(before, min(len(before), chance.choice((0, 1, 1, 2)))))
    edges = []
    agents = [number for number, node in enumerate(nodes) if node.HasField("agent")]
    if agents and chance.random() < 0.4:
        last = agents[-1]
        backs = [f"n{last}", *nodes[last].depends_on]
        edge = BackEdge(to=chance.choice(backs), output_contains=SENT_BACK, visits_max=chance.choice((2, 3)))
        setattr(edge, "from", f"n{last}")
        edges.append(edge)
    return Workflow(name="random", nodes=nodes, back_edges=edges)


def _node(chance: Random, number: int) -> Node:
    node = _kind(chance)
    node.node_id = f"n{number}"
    if chance.random() < 0.2:
        node.retry.CopyFrom(RetryPolicy(attempts_max=2, back_off_seconds=chance.choice((0, 5))))
    if chance.random() < 0.1:
        node.timeout_seconds = 60
    return node


def _kind(chance: Random) -> Node:
    draw = chance.random()
    if draw < AGENT_SHARE:
        return Node(agent=AgentNode(role=_role(chance), prompt="go on"))
    if draw < AGENT_SHARE + NOOP_SHARE:
        return Node(noop=NoopNode(steps=chance.randrange(4)))
    return chance.choice((_gate, _wait, _map, _child_run, _join))(chance)


def _gate(chance: Random) -> Node:
    choices = ["left", "right"]
    default = chance.choice(("", "left"))
    kind = GateNodeKind.GATE_NODE_KIND_CHOOSE
    return Node(gate=GateNode(kind=kind, question="which?", choices=choices, default_answer=default))


def _wait(chance: Random) -> Node:
    seconds = chance.choice((2, 20))
    return Node(wait=WaitNode(seconds=seconds) if chance.random() < 0.5 else WaitNode(signal=SIGNAL))


def _map(chance: Random) -> Node:
    body = Node(workflow=WorkflowNode(workflow=INNER)) if chance.random() < 0.3 else Node(noop=NoopNode(steps=1))
    return Node(map=MapNode(body=body, times=chance.randrange(1, 5), at_once_max=chance.choice((0, 1, 2))))


def _child_run(chance: Random) -> Node:
    return Node(workflow=WorkflowNode(workflow=INNER))


def _join(chance: Random) -> Node:
    return Node(join_files=JoinNode())


def _role(chance: Random) -> Role:
    return Role(
        name="worker",
        prompt="You work.",
        tools=[*CLASSES, ASK],
        limits=AgentLimits(output_tokens_max=2_000, tool_seconds_max=60),
        on_unknown=chance.choice((OnUnknown.ON_UNKNOWN_TELL, OnUnknown.ON_UNKNOWN_ASK, OnUnknown.ON_UNKNOWN_ASK)),
    )


def _money(chance: Random) -> tuple[Limit | None, OnExhausted.ValueType]:
    """Mostly enough; a call reserves about 15,000 millionths."""
    wishes = (OnExhausted.ON_EXHAUSTED_STOP, OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT)
    if chance.random() < 0.3:
        return None, wishes[0]
    return Limit(usd_micros=chance.choice((30_000, 60_000, 150_000, 5_000_000))), chance.choice(wishes)
