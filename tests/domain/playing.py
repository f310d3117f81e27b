"""A run, and somebody who does what it asks for: a driver for tables of its rules."""

from __future__ import annotations

import json
from typing import Any

from crewlog.domain.decider import fold
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import (
    Edge,
    Outcome,
)
from crewlog.v1.run_pb2 import (
    AgentNode,
    CheckDeadlines,
    ClaimTask,
    EndTask,
    FinishRun,
    Node,
    NoopNode,
    Role,
    RunStatus,
    StartRun,
    TaskFailure,
    TaskResult,
    TaskStatus,
    Workflow,
)
from google.protobuf.message import Message

BASE = "0" * 40
SECOND = 1_000_000
SUCCEEDED, FAILED = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED


def node(node_id: str, *depends_on: str, **fields: Any) -> Node:
    kinds = {"noop", "agent", "command", "gate", "wait", "join_files", "map", "workflow"}
    if not kinds & fields.keys():
        fields["noop"] = NoopNode()
    return Node(node_id=node_id, depends_on=depends_on, **fields)


def agent(**fields: Any) -> AgentNode:
    return AgentNode(role=Role(name="worker", prompt="work"), **fields)


def edge(source: str, target: str, *on: str, **fields: Any) -> Edge:
    outcomes = [Outcome.Value(f"OUTCOME_{name.upper()}") for name in on]
    return Edge(**{"from": source, "to": target, "on": outcomes, **fields})


def workflow(*nodes: Node, edges: tuple[Edge, ...] = (), **fields: Any) -> Workflow:
    return Workflow(name="w", nodes=nodes, edges=edges, **fields)


class Play:
    """A run, and somebody who does what it asks for."""

    def __init__(self, *nodes: Node, edges: tuple[Edge, ...] = (), visits_max: int = 0, **start: Any) -> None:
        self.now = 1_000 * SECOND
        self.run = run.INITIAL
        self.events: list[Message] = []
        flow = workflow(*nodes, edges=edges, visits_max=visits_max)
        self.do(StartRun(run_id="r", workflow=flow, input="do it", base_commit=BASE, **start))

    def do(self, command: Any) -> list[Message]:
        command.at_unix_micros = self.now
        command.run_id = "r"
        events = run.decide(self.run, command)
        self.run = fold(run, events, self.run)
        self.events += events
        return events

    def claim(self, *task_ids: str) -> None:
        for task_id in task_ids:
            self.do(ClaimTask(task_id=task_id, executor_id="e"))

    def end(
        self, task_id: str, output: str = "", value: Any = None, *, commit: str = "", fail: str = ""
    ) -> list[Message]:
        """Claims the task where nobody has, and ends it."""
        task = self.run.tasks.get(task_id)
        if task is None or task.status == TaskStatus.TASK_STATUS_READY:
            self.claim(task_id)
        structured = "" if value is None else json.dumps(value)
        result = TaskResult(output=Body(inline=output.encode()), structured_json=structured, commit=commit)
        if fail:
            return self.do(EndTask(task_id=task_id, failed=TaskFailure(failure=Failure(reason=fail), result=result)))
        return self.do(EndTask(task_id=task_id, succeeded=result))

    def wait(self, seconds: float) -> list[Message]:
        self.now += int(seconds * SECOND)
        return self.do(CheckDeadlines())

    def status(self, task_id: str) -> str:
        return TaskStatus.Name(self.run.tasks[task_id].status).removeprefix("TASK_STATUS_").lower()

    @property
    def ready(self) -> tuple[str, ...]:
        return run_state.claimable(self.run)

    def finish(self) -> str:
        assert run_state.is_finishing(self.run)
        self.do(FinishRun())
        return RunStatus.Name(self.run.status).removeprefix("RUN_STATUS_").lower()


def kinds(events: list[Message]) -> list[type[Message]]:
    return [type(event) for event in events]


def of(events: list[Message], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]
