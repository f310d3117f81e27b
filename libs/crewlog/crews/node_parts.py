"""Parts of nodes and edges of a file, as those of a workflow."""

from __future__ import annotations

from collections.abc import Callable

from crewlog.crews.versions import with_version
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.node_pb2 import (
    CommandNode,
    Edge,
    Files,
    GateNode,
    GateNodeKind,
    Join,
    JoinNode,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import BackEdge, MapNode, Node, NoopNode, Role
from crewlog.v1.workflow_file_pb2 import (
    BackEdgeFile,
    BudgetFile,
    EdgeFile,
    FilesFile,
    GateFile,
    JoinFile,
    MapFile,
    NodeFile,
    RetryFile,
)

BACK_EDGE_VISITS = 2


def adapted(role: Role, file: NodeFile) -> Role:
    """The role as this node wants it: it is pinned with the node, and is another version."""
    wanted = Role(model=file.model, cheaper_model=file.cheaper_model)
    for limit, value in file.limits.ListFields():
        setattr(wanted.limits, limit.name, value)
    if not wanted.ByteSize() and not file.tools:
        return role
    made = Role()
    made.CopyFrom(role)
    made.MergeFrom(wanted)
    made.tools[:] = file.tools or role.tools
    return with_version(made)


def command(node: Node, file: NodeFile) -> None:
    node.command.CopyFrom(
        CommandNode(
            argv=file.command.argv,
            report_path=file.command.report,
            network=file.command.network,
            ok_exit_codes=file.command.ok_exit_codes,
        )
    )


def gate(node: Node, file: NodeFile) -> None:
    node.gate.CopyFrom(
        GateNode(
            kind=_gate_kind(file.gate),
            question=file.gate.question,
            choices=file.gate.choices,
            text=file.gate.text,
            expires_seconds=file.gate.expires,
            default_answer=file.gate.default,
        )
    )


def _gate_kind(gate: GateFile) -> GateNodeKind.ValueType:
    if gate.kind:
        return gate.kind
    if gate.choices:
        return GateNodeKind.GATE_NODE_KIND_CHOOSE
    return GateNodeKind.GATE_NODE_KIND_EDIT if gate.text else GateNodeKind.GATE_NODE_KIND_APPROVE


def wait(node: Node, file: NodeFile) -> None:
    node.wait.CopyFrom(WaitNode(seconds=file.wait.time, signal=file.wait.signal))


def noop(node: Node, file: NodeFile) -> None:
    node.noop.CopyFrom(NoopNode(steps=file.noop.steps))


def join_files(node: Node, _: NodeFile) -> None:
    node.join_files.CopyFrom(JoinNode())


SIMPLE: dict[str, Callable[[Node, NodeFile], None]] = {
    "command": command,
    "gate": gate,
    "wait": wait,
    "noop": noop,
    "join": join_files,
}
"""Kinds that name nothing outside their file."""


def fan(file: MapFile, body: Node) -> MapNode:
    return MapNode(
        body=body, over=file.over, times=file.times, at_once_max=file.at_once_max, failures_max=file.failures_max
    )


def join(file: JoinFile) -> Join:
    return Join(mode=file.mode, count=file.count, keep_rest=file.keep_rest)


def retry(file: RetryFile) -> RetryPolicy:
    return RetryPolicy(
        attempts_max=file.attempts_max,
        back_off_seconds=file.back_off,
        back_off_seconds_max=file.back_off_max,
        reasons=file.reasons,
    )


def files(file: FilesFile) -> Files:
    made = Files(none=file.none, with_conflicts=file.with_conflicts)
    setattr(made, "from", getattr(file, "from"))
    return made


def budget(file: BudgetFile) -> Limit:
    return Limit(
        usd_micros=file.usd,
        input_tokens=file.input_tokens,
        output_tokens=file.output_tokens,
        model_calls=file.model_calls,
    )


def edge(file: EdgeFile) -> Edge:
    made = Edge(
        to=file.to,
        on=file.on,
        when=file.when,
        output_contains=file.output_contains,
        priority=file.priority,
        visits_max=file.visits_max,
    )
    setattr(made, "from", getattr(file, "from"))
    return made


def back_edge(file: BackEdgeFile) -> BackEdge:
    visits_max = file.visits_max if file.HasField("visits_max") else BACK_EDGE_VISITS
    made = BackEdge(to=file.to, output_contains=file.output_contains, visits_max=visits_max)
    setattr(made, "from", getattr(file, "from"))
    return made
