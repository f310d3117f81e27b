"""Views of runs: what stands in them in which order, in every process."""

from __future__ import annotations

from crewlog.domain import run
from crewlog.domain.decider import fold
from crewlog.domain.run_view import view
from crewlog.v1.run_pb2 import (
    AgentNode,
    GateOpened,
    Node,
    Role,
    RunStarted,
    TaskClaimed,
    Workflow,
)
from google.protobuf.message import Message

GATES = 12
AT_ONCE = ("north", "south", "west", "east", "above", "below")


def started() -> RunStarted:
    nodes = [Node(node_id=name, agent=AgentNode(role=Role(name=name, prompt="do it"))) for name in AT_ONCE]
    return RunStarted(run_id="r", project_id="p", workflow=Workflow(name="w", nodes=nodes), at_unix_micros=1)


def claim(node_id: str) -> TaskClaimed:
    task_id = f"{node_id}-1"
    return TaskClaimed(task_id=task_id, node_id=node_id, visit=1, executor_id="e", generation=1, at_unix_micros=2)


def test_gates_stand_in_the_order_in_which_they_were_opened() -> None:
    opened = [GateOpened(gate_id=f"north-1-{number}", at_unix_micros=10 + number) for number in range(GATES)]
    events: list[Message] = [started(), claim("north"), *opened]
    assert [gate.gate_id for gate in view(fold(run, events)).gates] == [gate.gate_id for gate in opened]


def test_tasks_that_were_claimed_at_once_have_an_order() -> None:
    events: list[Message] = [started(), *(claim(name) for name in AT_ONCE)]
    assert [task.node_id for task in view(fold(run, events)).tasks] == sorted(AT_ONCE)
