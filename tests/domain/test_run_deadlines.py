"""Tables of what is due, and in which order."""

from __future__ import annotations

import pytest
from crewlog.domain.run.deadlines import next_due_at
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import (
    EndTask,
    MapNode,
    Node,
    ParkCause,
    ParkTask,
    RetryRun,
    RunLimits,
    RunTimedOut,
    TaskFailure,
    TaskTimedOut,
    WorkflowNode,
)

from tests.domain.playing import SECOND, Play, kinds, node, workflow


def test_a_run_whose_time_is_over_is_not_due_again_while_it_stops() -> None:
    play = Play(node("a"), limits=RunLimits(duration_seconds_max=60))
    play.claim("a-1")
    assert kinds(play.wait(61)) == [RunTimedOut]
    assert next_due_at(play.run) is None
    assert play.wait(1) == []


def test_a_paused_run_that_is_being_stopped_does_not_go_on_by_itself() -> None:
    play = Play(node("a"), node("b"))
    play.claim("a-1", "b-1")
    later = play.now + 10 * SECOND
    parked = ParkTask(task_id="a-1", generation=1, cause=ParkCause.PARK_CAUSE_MODEL, not_before_unix_micros=later)
    parked.failure.CopyFrom(Failure(reason="model_overloaded"))
    play.do(parked)
    assert next_due_at(play.run) == later
    play.end("b-1", fail="broken")
    assert next_due_at(play.run) is None
    assert play.wait(11) == []


def test_what_was_due_first_comes_first_also_when_nobody_looked_in_time() -> None:
    play = Play(node("w", wait=WaitNode(seconds=3_600), timeout_seconds=7_200))
    play.wait(10_000)
    assert play.status("w-1") == "succeeded"


@pytest.mark.parametrize("is_item", [True, False])
def test_a_child_run_that_is_taken_up_has_its_time_anew(is_item: bool) -> None:
    sub = Node(workflow=WorkflowNode(workflow=workflow(node("only"))), timeout_seconds=60)
    if is_item:
        play, task_id = Play(node("m", map=MapNode(body=sub, times=1))), "m_0-1"
    else:
        play, task_id = Play(node("sub", workflow=sub.workflow, timeout_seconds=60)), "sub-1"
    play.do(EndTask(task_id=task_id, failed=TaskFailure(failure=Failure(reason="broken"))))
    assert play.finish() == "failed"
    play.now += 3_600 * SECOND
    play.do(RetryRun(request_id="again"))
    assert next_due_at(play.run) == play.now + 60 * SECOND
    assert kinds(play.wait(60)) == [TaskTimedOut]
