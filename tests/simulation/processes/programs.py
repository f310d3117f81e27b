"""What people ask for: random workflows, and what they do to them while they run."""

from __future__ import annotations

from random import Random

from crewlog.v1.budget_pb2 import Limit, OnExhausted
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
from crewlog.v1.run_pb2 import (
    AgentLimits,
    AgentNode,
    BackEdge,
    MapNode,
    Node,
    NoopNode,
    OnUnknown,
    Planning,
    Role,
    StartRun,
    Workflow,
    WorkflowNode,
)

from tests.simulation.processes.effects import ASK, CLASSES
from tests.simulation.processes.git import BASE_COMMIT
from tests.simulation.processes.model import MODEL, SENT_BACK, SHARE_OUT

NODES_MAX = 5
AGENT_SHARE, COMMAND_SHARE, NOOP_SHARE = 0.4, 0.2, 0.05
SIGNAL = "go"
SCHEMA = '{"type": "object", "required": ["is_good"]}'
INNER = Workflow(name="inner", nodes=[Node(node_id="n0", noop=NoopNode(steps=2))])
CONDITIONS = ("", "true", "false", 'task.outcome == "succeeded"', "task.visit < 2")


def start_run(chance: Random, number: int, at_unix_micros: int) -> StartRun:
    budget, on_exhausted = _money(chance)
    return StartRun(
        run_id=f"r{number}",
        project_id="p",
        workflow=workflow(chance) if number else mishaps(chance),
        input=f"do job {number}",
        budget=budget,
        model=MODEL,
        base_commit=BASE_COMMIT,
        on_exhausted=on_exhausted,
        gate_seconds=chance.choice((0, 0, 40)),
        at_unix_micros=at_unix_micros,
    )


def workflow(chance: Random) -> Workflow:
    """A chain, a fan, or something in between; with conditions, and sometimes with a way back."""
    count = chance.randrange(1, NODES_MAX + 1)
    nodes = [_node(chance, number) for number in range(count)]
    if count > 2 and chance.random() < 0.3:
        nodes[-1] = Node(node_id=f"n{count - 1}", join_files=JoinNode())
    for number, node in enumerate(nodes):
        before = [f"n{other}" for other in range(number)]
        wanted = 3 if node.HasField("join_files") else chance.choice((0, 1, 1, 2))
        node.depends_on.extend(chance.sample(before, min(len(before), wanted)))
    ways = [way for node in nodes for way in _ways(chance, node)]
    edges = []
    agents = [number for number, node in enumerate(nodes) if node.HasField("agent")]
    if agents and chance.random() < 0.4:
        last = agents[-1]
        backs = [f"n{last}", *nodes[last].depends_on]
        edge = BackEdge(to=chance.choice(backs), output_contains=SENT_BACK, visits_max=chance.choice((2, 3)))
        setattr(edge, "from", f"n{last}")
        edges.append(edge)
    return Workflow(name="random", nodes=nodes, edges=ways, back_edges=edges)


def mishaps(chance: Random) -> Workflow:
    """What seldom happens by chance."""
    shapes = chance.sample((_turned_down, _failing_map, _cut_off, _shared_out, _put_together), 2)
    parts = [shape(f"n{number}") for number, shape in enumerate(shapes)]
    edges = [edge for _, edges in parts for edge in edges]
    return Workflow(name="mishaps", nodes=[node for nodes, _ in parts for node in nodes], edges=edges)


def _turned_down(name: str) -> tuple[list[Node], list[Edge]]:
    """Nobody minds."""
    asks = GateNode(kind=GateNodeKind.GATE_NODE_KIND_APPROVE, question="well?", default_answer="reject")
    gates = [Node(node_id=f"{name}-{number}", gate=asks, continue_on_failure=True) for number in range(2)]
    return [*gates, _noop(f"{name}-2", *(gate.node_id for gate in gates))], []


def _failing_map(name: str) -> tuple[list[Node], list[Edge]]:
    body = Node(command=CommandNode(argv=["make", "100", "100"]))
    fails = Node(node_id=f"{name}-0", map=MapNode(body=body, times=2))
    edge = Edge(to=f"{name}-1", on=[Outcome.OUTCOME_FAILED])
    setattr(edge, "from", fails.node_id)
    return [fails, _noop(f"{name}-1")], [edge]


def _cut_off(name: str) -> tuple[list[Node], list[Edge]]:
    """By whatever happens in so long a time."""
    commands = (CommandNode(argv=["make", "14000", "0"], network=network) for network in (True, False, False))
    return [
        Node(node_id=f"{name}-{number}", command=command, continue_on_failure=True)
        for number, command in enumerate(commands)
    ], []


def _shared_out(name: str) -> tuple[list[Node], list[Edge]]:
    role = Role(name="worker", prompt="You work.", limits=AgentLimits(output_tokens_max=2_000))
    return [Node(node_id=name, agent=AgentNode(role=role, prompt=SHARE_OUT, children=[role], children_max=2))], []


def _put_together(name: str) -> tuple[list[Node], list[Edge]]:
    commands = [Node(node_id=f"{name}-{number}", command=CommandNode(argv=["make", "300", "0"])) for number in range(2)]
    joined = Node(node_id=f"{name}-2", depends_on=[node.node_id for node in commands], join_files=JoinNode())
    return [*commands, joined], []


def _noop(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, noop=NoopNode())


def _ways(chance: Random, node: Node) -> list[Edge]:
    """What leads to the node in another way than by a success; and how many ways it waits for."""
    if len(node.depends_on) > 1:
        if chance.random() < 0.5:
            modes = (JoinMode.JOIN_MODE_ANY, JoinMode.JOIN_MODE_FIRST, JoinMode.JOIN_MODE_QUORUM)
            node.join.CopyFrom(Join(mode=chance.choice(modes), count=1, keep_rest=chance.random() < 0.5))
        if chance.random() < 0.5:
            node.files.CopyFrom(Files(with_conflicts=True))
    if not node.depends_on or chance.random() < 0.6:
        return []
    source = node.depends_on.pop()
    outcomes = (Outcome.OUTCOME_SUCCEEDED, Outcome.OUTCOME_FAILED, Outcome.OUTCOME_CONFLICTED)
    edge = Edge(to=node.node_id, on=outcomes, when=chance.choice(CONDITIONS))
    setattr(edge, "from", source)
    return [edge]


def _node(chance: Random, number: int) -> Node:
    node = _kind(chance)
    node.node_id = f"n{number}"
    node.continue_on_failure = chance.random() < 0.2
    if chance.random() < 0.3:
        node.retry.CopyFrom(RetryPolicy(attempts_max=2, back_off_seconds=chance.choice((0, 5))))
    if chance.random() < 0.1:
        node.timeout_seconds = 60
    return node


def _kind(chance: Random) -> Node:
    draw = chance.random()
    if draw < AGENT_SHARE:
        return _agent(chance)
    if draw < AGENT_SHARE + COMMAND_SHARE:
        return _command(chance)
    if draw < AGENT_SHARE + COMMAND_SHARE + NOOP_SHARE:
        return Node(noop=NoopNode(steps=chance.randrange(4)))
    return chance.choice((_gate, _wait, _map, _child_run, _join))(chance)


def _agent(chance: Random) -> Node:
    """One that just works, or owes a result, or plans, or gives work to others."""
    role, draw = _role(chance), chance.random()
    if draw < 0.15:
        return Node(agent=AgentNode(role=role, prompt="go on", output_schema=SCHEMA))
    if draw < 0.25:
        return Node(agent=AgentNode(role=role, prompt="plan it", planning=Planning(roles=[role])))
    if draw < 0.4:
        return Node(agent=AgentNode(role=role, prompt="go on", children=[role], children_max=2))
    return Node(agent=AgentNode(role=role, prompt="go on"))


def _command(chance: Random) -> Node:
    argv = ["make", str(chance.randrange(10, 15_000)), chance.choice(("0", "0", "50"))]
    return Node(command=CommandNode(argv=argv, network=chance.random() < 0.5))


def _gate(chance: Random) -> Node:
    kind = chance.choice((GateNodeKind.GATE_NODE_KIND_CHOOSE, GateNodeKind.GATE_NODE_KIND_APPROVE))
    is_choice = kind == GateNodeKind.GATE_NODE_KIND_CHOOSE
    return Node(
        gate=GateNode(
            kind=kind,
            question="which?",
            choices=["left", "right"] if is_choice else [],
            default_answer=chance.choice(("", "left" if is_choice else "approve")),
            expires_seconds=chance.choice((0, 4)),
        )
    )


def _wait(chance: Random) -> Node:
    seconds = chance.choice((2, 20))
    return Node(wait=WaitNode(seconds=seconds) if chance.random() < 0.5 else WaitNode(signal=SIGNAL))


def _map(chance: Random) -> Node:
    bodies = (_child_run(chance), Node(noop=NoopNode(steps=1)), _command(chance))
    body, times = chance.choice(bodies), chance.randrange(1, 5)
    return Node(map=MapNode(body=body, times=times, at_once_max=chance.choice((0, 1, 2)), failures_max=1))


def _child_run(chance: Random) -> Node:
    """One that needs money, also further down, or does not."""
    if chance.random() < 0.3:
        return Node(workflow=WorkflowNode(workflow=INNER))
    agents = [Node(node_id=f"a{number}", agent=AgentNode(role=_role(chance), prompt="go on")) for number in range(2)]
    inner = Workflow(name="paid", nodes=agents)
    if chance.random() < 0.4:
        inner = Workflow(name="outer", nodes=[agents[0], Node(node_id="w0", workflow=WorkflowNode(workflow=inner))])
    return Node(workflow=WorkflowNode(workflow=inner))


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
