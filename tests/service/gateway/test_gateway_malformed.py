"""Workflows that are no workflows, as messages: refused with the field that is wrong, and nothing is appended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand, Refused
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.node_pb2 import (
    CommandNode,
    Edge,
    Files,
    GateNode,
    Join,
    JoinMode,
    JoinNode,
    Outcome,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import (
    AgentNode,
    BackEdge,
    MapNode,
    Node,
    NoopNode,
    Planning,
    Role,
    Workflow,
    WorkflowNode,
)

SECONDS_MAX = 1.0
ROLE = Role(name="r", version="1", prompt="p")
TWO = (Node(node_id="a", noop=NoopNode()), Node(node_id="b", noop=NoopNode(), depends_on=["a"]))
LATER = (Node(node_id="a", agent=AgentNode(role=ROLE, prompt="{{ tasks.b.output }}")), TWO[1])


def _one(**fields: Any) -> Workflow:
    return Workflow(name="w", version="1", nodes=[Node(**{"node_id": "a", **fields})])


def _agent(**fields: Any) -> Workflow:
    return _one(agent=AgentNode(**{"role": ROLE, **fields}))


def _edge(**fields: Any) -> Workflow:
    return Workflow(name="w", version="1", nodes=TWO, edges=[Edge(**{"from": "a", "to": "b", **fields})])


def _files() -> Files:
    files = Files(none=True)
    setattr(files, "from", "'a'")
    return files


def _back() -> BackEdge:
    back = BackEdge(to="a")
    setattr(back, "from", "b")
    return back


def _circle(nodes: int) -> Workflow:
    named = [Node(node_id=f"n{n}", noop=NoopNode(), depends_on=[f"n{(n + 1) % nodes}"]) for n in range(nodes)]
    return Workflow(name="w", version="1", nodes=named)


def _deep(levels: int) -> Workflow:
    workflow = _one(noop=NoopNode())
    for _ in range(levels):
        workflow = _one(workflow=WorkflowNode(workflow=workflow))
    return workflow


DEEPEST = "nodes[0].workflow.workflow.nodes[0].workflow.workflow.nodes[0].workflow"
CASES: dict[str, tuple[Callable[[], Workflow], str]] = {
    "nothing": (Workflow, "name"),
    "no node": (lambda: Workflow(name="w", version="1"), "nodes"),
    "a name of many": (lambda: Workflow(name="a/../b", version="1", nodes=TWO), "name"),
    "no kind": (_one, "nodes[0]"),
    "an id of what is derived": (lambda: _one(node_id="a_1", noop=NoopNode()), "nodes[0].node_id"),
    "an id with NUL": (lambda: _one(node_id="a\0", noop=NoopNode()), "nodes[0].node_id"),
    "an id twice": (lambda: Workflow(name="w", nodes=[TWO[0], TWO[0]]), "nodes[1].node_id"),
    "a dangling dependency": (lambda: _one(noop=NoopNode(), depends_on=["x"]), "nodes[0].depends_on"),
    "a node after itself": (lambda: _one(noop=NoopNode(), depends_on=["a"]), "nodes"),
    "a circle of 2,000": (lambda: _circle(2_000), "nodes"),
    "too many nodes": (lambda: Workflow(name="w", nodes=[TWO[0]] * 2_001), "nodes"),
    "steps below nothing": (lambda: _one(noop=NoopNode(steps=-1)), "nodes[0].noop.steps"),
    "time below nothing": (lambda: _one(noop=NoopNode(), timeout_seconds=-1), "nodes[0].timeout_seconds"),
    "attempts below nothing": (
        lambda: _one(noop=NoopNode(), retry=RetryPolicy(attempts_max=-1)),
        "nodes[0].retry.attempts_max",
    ),
    "money below nothing": (lambda: _one(noop=NoopNode(), budget=Limit(usd_micros=-1)), "nodes[0].budget.usd_micros"),
    "a join of no kind": (lambda: _one(join_files=JoinNode(), join=Join(mode=99)), "nodes[0].join"),  # type: ignore[arg-type]
    "a first of none": (lambda: _one(noop=NoopNode(), join=Join(mode=JoinMode.JOIN_MODE_FIRST)), "nodes[0].join.count"),
    "files from both": (lambda: _one(noop=NoopNode(), files=_files()), "nodes[0].files"),
    "an agent of nobody": (lambda: _agent(role=Role()), "nodes[0].agent.role.name"),
    "a template that is none": (lambda: _agent(prompt="{{ run. }}"), "nodes[0].agent.prompt"),
    "a template of an unknown task": (lambda: _agent(prompt="{{ tasks.x.output }}"), "nodes[0].agent.prompt"),
    "a template of a later task": (lambda: Workflow(name="w", nodes=LATER), "nodes[0].agent.prompt"),
    "a condition on a later task": (lambda: _edge(when="tasks.b.visit > 1"), "edges[0].when"),
    "a template of a later task in it": (
        lambda: _one(workflow=WorkflowNode(workflow=Workflow(name="w", nodes=LATER))),
        "nodes[0].workflow.workflow.nodes[0].agent.prompt",
    ),
    "a schema that is none": (lambda: _agent(output_schema="{"), "nodes[0].agent.output_schema"),
    "a schema of a thing": (lambda: _agent(output_schema='{"type": "thing"}'), "nodes[0].agent.output_schema"),
    "a planner of nobody": (lambda: _agent(planning=Planning()), "nodes[0].agent.planning.roles"),
    "children without end": (lambda: _agent(children_max=10_000), "nodes[0].agent.children_max"),
    "a command of nothing": (lambda: _one(command=CommandNode()), "nodes[0].command.argv"),
    "a command with NUL": (lambda: _one(command=CommandNode(argv=["a", "\0"])), "nodes[0].command.argv[1]"),
    "a report elsewhere": (
        lambda: _one(command=CommandNode(argv=["a"], report_path="/x")),
        "nodes[0].command.report_path",
    ),
    "a gate of no question": (lambda: _one(gate=GateNode()), "nodes[0].gate.question"),
    "a wait for nothing": (lambda: _one(wait=WaitNode()), "nodes[0].wait"),
    "a wait for ages": (lambda: _one(wait=WaitNode(seconds=2**31 - 1)), "nodes[0].wait.seconds"),
    "a map of nothing": (lambda: _one(map=MapNode(times=2)), "nodes[0].map.body"),
    "a map of maps": (lambda: _one(map=MapNode(times=2, body=_one(map=MapNode()).nodes[0])), "nodes[0].map.body"),
    "a map of a million": (lambda: _one(map=MapNode(times=10**6, body=Node(noop=NoopNode()))), "nodes[0].map.times"),
    "no workflow in it": (lambda: _one(workflow=WorkflowNode()), "nodes[0].workflow.workflow"),
    "workflows too deep": (lambda: _deep(5), DEEPEST),
    "workflows much too deep": (
        lambda: _deep(15),
        "nodes[0].workflow.workflow.nodes[0].workflow.workflow.nodes[0].workflow",
    ),
    "an edge to nowhere": (lambda: _edge(to="x"), "edges[0].to"),
    "an edge on nothing known": (lambda: _edge(on=[77]), "edges[0].on"),
    "an edge on the same twice": (lambda: _edge(on=[Outcome.OUTCOME_FAILED] * 2), "edges[0].on"),
    "no expression": (lambda: _edge(when="task."), "edges[0].when"),
    "a huge expression": (lambda: _edge(when="(" * 60_000), "edges[0].when"),
    "a way back that leads on": (lambda: _edge(visits_max=2), "edges[0].to"),
    "a way back for ever": (lambda: _edge(visits_max=2**31 - 1), "edges[0].visits_max"),
    "a way back of no phrase": (
        lambda: Workflow(name="w", nodes=TWO, back_edges=[_back()]),
        "back_edges[0].output_contains",
    ),
    "visits without end": (lambda: Workflow(name="w", nodes=TWO, visits_max=2**31 - 1), "visits_max"),
}


async def test_malformed_workflows_are_refused_and_nothing_is_appended(world: Any) -> None:
    project_id = await world.register()
    before = await world.log.head()
    found = {name: await _wrong(world, project_id, *case) for name, case in CASES.items()}
    assert {name: why for name, why in found.items() if why} == {}
    assert not world.scheduler.started
    assert await world.log.head() == before


async def _wrong(world: Any, project_id: str, made: Callable[[], Workflow], field: str) -> str:
    """What is wrong with how it was refused; empty where nothing is."""
    workflow, began = made(), time.process_time()
    try:
        await world.start_run("run-1", project_id, workflow=workflow)
    except InvalidCommand as refusal:
        seconds = time.process_time() - began
        is_named = any(each.startswith(field) for each in refusal.violations)
        return "" if is_named and seconds < SECONDS_MAX else f"{seconds:.1f} s: {refusal.violations}"
    return "it was accepted"


async def test_a_workflow_that_is_too_large_is_refused_and_nothing_is_appended(world: Any) -> None:
    project_id = await world.register()
    before = await world.log.head()
    workflow = _agent(prompt="x" * 2 * 1024 * 1024)
    with pytest.raises(Refused):
        await world.start_run("run-1", project_id, workflow=workflow)
    assert not world.scheduler.started
    assert await world.log.head() == before
