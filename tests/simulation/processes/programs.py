"""What people ask for: random workflows, and what they do to them while they run."""

from __future__ import annotations

from random import Random

from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, BackEdge, Node, NoopNode, OnUnknown, Role, StartRun, Workflow

from tests.simulation.processes.effects import ASK, CLASSES
from tests.simulation.processes.git import BASE_COMMIT
from tests.simulation.processes.model import MODEL, SENT_BACK

NODES_MAX = 5
AGENT_SHARE = 0.7


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
    if chance.random() < AGENT_SHARE:
        return Node(node_id=f"n{number}", agent=AgentNode(role=_role(chance), prompt="go on"))
    return Node(node_id=f"n{number}", noop=NoopNode(steps=chance.randrange(4)))


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
