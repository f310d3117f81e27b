"""Which signals a run can do something with: those that a node of its workflow waits for, now or later.

Items of maps, planned nodes and the children of agents never wait: the workflow that the run keeps says all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.run.state import Run
from crewlog.domain.workflow.graph import map_of
from crewlog.v1.run_pb2 import Node

CHILD_RUNS_NAMED_MAX = 3


def check_awaited(run: Run, name: str) -> None:
    """Raises InvalidCommand, which names the signals that there are, or the child runs that wait for this one."""
    nodes = run.graph.nodes.values()
    awaited = _awaited(nodes)
    if name in awaited:
        return
    run_id = run.started.run_id
    why = f"no node of run {run_id!r} waits for it"
    what_to_do = f"it waits for {', '.join(sorted(awaited))}" if awaited else "its workflow waits for no signal"
    inner = [node for node in nodes if name in _awaited(_performed(node).workflow.workflow.nodes)]
    if inner:
        what_to_do = "; ".join(_told(run, node, name) for node in inner)
    raise InvalidCommand(f"signal {name!r}: {why}", what_to_do=what_to_do, violations={"name": why})


def _awaited(nodes: Iterable[Node]) -> set[str]:
    return {node.wait.signal for node in nodes if node.wait.signal}


def _performed(node: Node) -> Node:
    return node.map.body if node.HasField("map") else node


def _told(run: Run, node: Node, name: str) -> str:
    """The child run has a log of its own, and hears only what is sent to it."""
    commands = [f"`crewlog signal {child_run_id} {name}`" for child_run_id in _child_runs(run, node.node_id)]
    if not commands:
        return f"the child run of {node.node_id!r} waits for it, and has not begun: see `crewlog runs --children`"
    more = ", ..." if len(commands) > CHILD_RUNS_NAMED_MAX else ""
    return f"the child run of {node.node_id!r} waits for it: {', '.join(commands[:CHILD_RUNS_NAMED_MAX])}{more}"


def _child_runs(run: Run, node_id: str) -> Iterator[str]:
    for task_id, child_run_id in sorted(run.child_runs.items()):
        if node_id in (names.node_of(task_id), map_of(names.node_of(task_id))):
            yield child_run_id
