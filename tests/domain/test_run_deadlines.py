"""Tables of what is due, and in which order."""

from __future__ import annotations

import pytest
from crewlog.domain.run.deadlines import next_due_at
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.node_pb2 import RetryPolicy, WaitNode
from crewlog.v1.run_pb2 import (
    EndTask,
    LapseClaim,
    MapNode,
    Node,
    ParkCause,
    ParkTask,
    RetryRun,
    RunLimits,
    RunTimedOut,
    TaskFailure,
    TaskTimedOut,
    UnparkTask,
    WorkflowNode,
)

from tests.domain.playing import SECOND, Play, agent, kinds, node, workflow

WAIT = OnExhausted.ON_EXHAUSTED_WAIT


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


HOUR = 3_600.0


def test_a_timeout_does_not_count_before_the_task_has_begun_and_the_time_of_its_run_does() -> None:
    """No executor takes it: there is none with its labels."""
    limits = RunLimits(duration_seconds_max=2 * 3_600)
    play = Play(node("a", executor_labels=["gpu"], timeout_seconds=60), limits=limits)
    begin = play.now
    assert next_due_at(play.run) == begin + 2 * 3_600 * SECOND
    assert play.wait(HOUR) == [] and play.ready == ("a",)
    [over] = play.wait(HOUR)
    assert isinstance(over, RunTimedOut) and over.failure.reason == "run_timed_out"
    assert play.finish() == "failed"


def test_a_timeout_counts_from_the_first_begin_whoever_goes_on_with_the_task() -> None:
    play = Play(node("a", timeout_seconds=60))
    play.now += 3_600 * SECOND
    play.claim("a-1")
    begin = play.now
    play.now += 30 * SECOND
    play.do(LapseClaim(task_id="a-1", generation=1, reason="the executor is gone"))
    assert next_due_at(play.run) == begin + 60 * SECOND, "waiting for another executor counts"
    play.claim("a-1")
    assert next_due_at(play.run) == begin + 60 * SECOND
    assert kinds(play.wait(30)) == [TaskTimedOut]


def test_each_try_has_the_timeout_for_itself() -> None:
    play = Play(node("a", timeout_seconds=60, retry=RetryPolicy(attempts_max=2)))
    play.claim("a-1")
    play.now += 50 * SECOND
    play.end("a-1", fail="broken")
    play.wait(0)
    play.claim("a-2")
    assert next_due_at(play.run) == play.now + 60 * SECOND


def test_a_timeout_does_not_count_while_a_task_waits_for_money_to_begin() -> None:
    play = Play(node("a", agent=agent(), timeout_seconds=60), budget=Limit(usd_micros=9), on_exhausted=WAIT)
    play.do(ParkTask(task_id="a-1", budget_id="tenant"))
    assert play.wait(HOUR) == []
    play.do(UnparkTask(task_id="a-1"))
    play.claim("a-1")
    assert next_due_at(play.run) == play.now + 60 * SECOND


def test_a_timeout_counts_while_a_task_that_has_begun_waits() -> None:
    play = Play(node("a", agent=agent(), timeout_seconds=60), on_exhausted=WAIT)
    play.claim("a-1")
    play.do(ParkTask(task_id="a-1", generation=1, budget_id="tenant"))
    assert kinds(play.wait(60)) == [TaskTimedOut]


def test_what_needs_no_executor_begins_when_it_is_its_turn() -> None:
    """So that the tasks of a child run wait counts for its node."""
    sub = WorkflowNode(workflow=workflow(node("only", executor_labels=["gpu"])))
    play = Play(node("a"), node("sub", "a", workflow=sub, timeout_seconds=60))
    play.now += 3_600 * SECOND
    play.end("a-1")
    assert next_due_at(play.run) == play.now + 60 * SECOND
    assert kinds(play.wait(60)) == [TaskTimedOut]
