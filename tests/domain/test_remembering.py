"""What is worked out of a workflow is worked out once, and stays what it was."""

from __future__ import annotations

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.graph import Graph
from crewlog.domain.workflow.remembering import WORKFLOW_BYTES_MAX, once_for_each
from crewlog.domain.workflow.validation import validate
from crewlog.v1.run_pb2 import Node, NoopNode, Workflow


def named(name: str) -> Workflow:
    return Workflow(name=name, nodes=[Node(node_id="a", noop=NoopNode())])


def test_the_same_workflow_is_worked_out_once_and_another_one_anew() -> None:
    seen = list[str]()

    @once_for_each
    def work(workflow: Workflow) -> str:
        seen.append(workflow.name)
        return workflow.name.upper()

    assert [work(named(name)) for name in ("one", "one", "two", "one")] == ["ONE", "ONE", "TWO", "ONE"]
    assert seen == ["one", "two"]


def test_one_that_is_large_is_not_kept() -> None:
    seen = list[int]()
    work = once_for_each(lambda workflow: seen.append(len(workflow.description)))
    large = Workflow(description="x" * WORKFLOW_BYTES_MAX)
    work(large)
    work(large)
    assert seen == [WORKFLOW_BYTES_MAX] * 2


def test_a_workflow_that_is_changed_afterwards_is_another_one() -> None:
    workflow = named("one")
    graph = Graph.of(workflow)
    validate(workflow)
    workflow.nodes.add(node_id="a")
    assert list(graph.nodes) == ["a"] and graph.nodes["a"].HasField("noop")
    for _ in range(2):
        with pytest.raises(InvalidCommand) as caught:
            validate(workflow)
        caught.value.violations.clear()
