"""Tables of the signals that nothing waits for: they are refused, with the names of those that something does."""

from __future__ import annotations

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import MapNode, Node, SignalRun, WorkflowNode

from tests.domain.playing import Play, node, workflow

GO = WaitNode(signal="go")
INNER = WorkflowNode(workflow=workflow(node("w", wait=GO)))
EACH = MapNode(body=Node(workflow=INNER), times=5)


def refused(play: Play, name: str) -> str:
    known = len(play.events)
    with pytest.raises(InvalidCommand) as refusal:
        play.do(SignalRun(name=name))
    assert "name" in refusal.value.violations
    assert len(play.events) == known
    return f"{refusal.value.message}; {refusal.value.what_to_do}"


def test_a_signal_that_nothing_waits_for_is_refused_with_those_that_there_are() -> None:
    others = (node("a"), node("v", "a", wait=WaitNode(signal="deployed")), node("w", "a", wait=GO))
    said = refused(Play(*others), "gone")
    assert said == "signal 'gone': no node of run 'r' waits for it; it waits for deployed, go"


def test_where_nothing_waits_for_a_signal_that_is_said() -> None:
    assert refused(Play(node("a"), node("p", wait=WaitNode(seconds=9))), "go").endswith("waits for no signal")


def test_what_only_waits_later_is_known() -> None:
    play = Play(node("a"), node("w", "a", wait=GO))
    assert play.do(SignalRun(name="go"))


def test_the_child_run_that_waits_for_it_is_named() -> None:
    play = Play(node("a"), node("c", "a", workflow=INNER))
    assert "the child run of 'c' waits for it, and has not begun" in refused(play, "go")
    play.end("a-1")
    assert f"`crewlog signal {play.run.tasks['c-1'].child_run_id} go`" in refused(play, "go")


def test_of_many_child_runs_a_few_are_named() -> None:
    said = refused(Play(node("m", map=EACH)), "go")
    assert said.count("crewlog signal r-m") == 3
    assert said.endswith(", ...")
