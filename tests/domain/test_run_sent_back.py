"""Tables of the ways back: what has begun before is ended, and the visits that come take nobody else's turn."""

from __future__ import annotations

from typing import Any

import pytest
from crewlog.domain.errors import Conflict
from crewlog.domain.run import state as run_state
from crewlog.domain.run.view import view
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted
from crewlog.v1.node_pb2 import RetryPolicy
from crewlog.v1.run_pb2 import (
    AnswerGate,
    ClaimTask,
    EndTask,
    GateKind,
    GateStatus,
    LapseClaim,
    MapNode,
    Node,
    ParkCause,
    ParkTask,
    Question,
    ResumeRun,
    Role,
    SpawnChild,
    TaskCancelled,
    TaskCancelRequested,
    TaskResult,
    TaskRetried,
    UnparkTask,
)

from tests.domain.playing import Play, agent, edge, kinds, node, of

CAUSES = [cause for cause in ParkCause.values() if cause]
BEFORE_THEY_BEGIN = {"GATE", "WAIT", "MAP", "CHILD_RUN", "MERGE", "RETRY"}
PARKED = [cause for cause in CAUSES if ParkCause.Name(cause).removeprefix("PARK_CAUSE_") not in BEFORE_THEY_BEGIN]
QUESTION = Question(turn=1, kind=GateKind.GATE_KIND_QUESTION, question="which?")
BACK = edge("c", "a", "failed", visits_max=2)


def beside(**start: Any) -> Play:
    """`c` may send the work back to `a`, while `b` is worked on."""
    parent = agent(children=[Role(name="worker", prompt="work")])
    play = Play(node("a"), node("b", "a", agent=parent), node("c", "a"), edges=(BACK,), **start)
    play.end("a-1")
    play.claim("b-1", "c-1")
    return play


def parked(play: Play, task_id: str, cause: ParkCause.ValueType) -> None:
    is_question = cause == ParkCause.PARK_CAUSE_QUESTION
    budget_id = "run_r" if cause == ParkCause.PARK_CAUSE_BUDGET else ""
    question = QUESTION if is_question else None
    play.do(ParkTask(task_id=task_id, generation=1, cause=cause, question=question, budget_id=budget_id))


def closed(play: Play, task_id: str) -> None:
    """As the scheduler ends an agent that nobody hosts."""
    play.do(ClaimTask(task_id=task_id, executor_id="scheduler", to_close=True))
    play.do(EndTask(task_id=task_id, cancelled=TaskResult()))


def closable(play: Play) -> list[str]:
    return [task.task_id for task in run_state.closable(play.run)]


@pytest.mark.parametrize("cause", PARKED, ids=ParkCause.Name)
def test_an_agent_that_waits_on_an_old_visit_is_ended(cause: ParkCause.ValueType) -> None:
    play = beside(budget=Limit(usd_micros=1_000), on_exhausted=OnExhausted.ON_EXHAUSTED_ASK)
    play.do(SpawnChild(task_id="b-1", generation=1, role="worker", prompt="help", share=Amounts(usd_micros=100)))
    play.claim("b_c1-1")
    parked(play, "b-1", cause)
    assert {e.task_id for e in of(play.end("c-1", fail="no"), TaskCancelRequested)} == {"b-1", "b_c1-1"}
    assert closable(play) == ["b-1"]
    closed(play, "b-1")
    play.do(EndTask(task_id="b_c1-1", cancelled=TaskResult()))
    assert (play.status("b-1"), play.status("b_c1-1")) == ("cancelled", "cancelled")
    assert (play.run.parked, play.run.allotted.usd_micros) == ((), 0)
    play.do(ResumeRun())
    play.end("a-2")
    play.end("b-2")
    play.end("c-2")
    assert play.finish() == "succeeded"


def test_what_an_agent_has_asked_on_an_old_visit_needs_no_answer() -> None:
    play = beside()
    parked(play, "b-1", ParkCause.PARK_CAUSE_QUESTION)
    play.end("c-1", fail="no")
    closed(play, "b-1")
    [gate] = view(play.run).gates
    assert gate.status == GateStatus.GATE_STATUS_CLOSED
    with pytest.raises(Conflict):
        play.do(AnswerGate(gate_id=gate.gate_id, text="this one"))
    play.end("a-2")
    play.end("b-2")
    play.end("c-2")
    assert play.finish() == "succeeded"


@pytest.mark.parametrize("is_item", [False, True], ids=["task", "item"])
def test_the_failure_of_an_old_visit_fails_nothing(*, is_item: bool) -> None:
    play, old = (fanned(), "m_0-1") if is_item else (beside(), "b-1")
    play.end("c-1", fail="no")
    play.end(old, fail="broken")
    assert (play.status(old), play.run.failure, play.ready) == ("failed", None, ("a",))


@pytest.mark.parametrize("is_first", [True, False], ids=["before its turn", "when its turn has come"])
@pytest.mark.parametrize("how", ["worked on", "parked", "lapsed"])
def test_the_end_of_an_old_visit_leaves_the_new_one_its_turn(how: str, *, is_first: bool) -> None:
    play = beside()
    if how == "parked":
        parked(play, "b-1", ParkCause.PARK_CAUSE_QUESTION)
    play.end("c-1", fail="no")
    if not is_first:
        play.end("a-2")
    if how == "lapsed":
        play.do(LapseClaim(task_id="b-1", generation=1))
    if how == "worked on":
        play.do(EndTask(task_id="b-1", cancelled=TaskResult()))
    else:
        closed(play, "b-1")
    if is_first:
        play.end("a-2")
    assert play.ready == ("b", "c")
    play.end("b-2")
    play.end("c-2")
    assert play.finish() == "succeeded"


def test_an_old_visit_that_is_parked_when_the_new_one_may_begin_leaves_it_its_turn() -> None:
    play = beside()
    play.end("c-1", fail="no")
    play.end("a-2")
    parked(play, "b-1", ParkCause.PARK_CAUSE_HANDED_OVER)
    closed(play, "b-1")
    assert play.ready == ("b", "c")


def fanned(policy: RetryPolicy | None = None) -> Play:
    """`c` may send the work back to `a`, while two items of a map are worked on; in the end there is no map."""
    body = Node(agent=agent(), retry=policy)
    m, go = node("m", map=MapNode(body=body, times=2)), edge("x", "m", when="task.visit == 1")
    play = Play(node("a"), node("x", "a"), m, node("c", "a"), edges=(BACK, go))
    play.end("a-1")
    play.end("x-1")
    play.claim("m_0-1", "m_1-1", "c-1")
    return play


@pytest.mark.parametrize("cause", PARKED, ids=ParkCause.Name)
def test_an_item_that_waits_for_a_map_of_an_old_visit_is_ended(cause: ParkCause.ValueType) -> None:
    play = fanned()
    parked(play, "m_0-1", cause)
    play.end("c-1", fail="no")
    assert (closable(play), play.status("m-1")) == (["m_0-1"], "cancelled")
    closed(play, "m_0-1")
    play.do(EndTask(task_id="m_1-1", cancelled=TaskResult()))
    assert (play.run.failure, play.run.parked) == (None, ())


def test_an_item_that_nobody_holds_is_ended_with_the_old_visit_of_its_map() -> None:
    play = fanned()
    play.end("c-1", fail="no")
    play.do(LapseClaim(task_id="m_0-1", generation=1))
    assert (closable(play), play.ready) == (["m_0-1"], ("a",))


def test_an_item_of_an_old_visit_is_not_tried_again() -> None:
    play = fanned(RetryPolicy(attempts_max=3))
    play.end("c-1", fail="no")
    assert not of(play.end("m_0-1", fail="broken"), TaskRetried)
    assert play.run.parked == ()


@pytest.mark.parametrize("why", ["money", "retry"])
def test_what_had_waited_and_not_begun_again_is_not_left_over(why: str) -> None:
    wait = OnExhausted.ON_EXHAUSTED_WAIT
    b = node("b", "a", agent=agent(), retry=RetryPolicy(attempts_max=2, back_off_seconds=5))
    play = Play(node("a"), b, node("c", "a"), edges=(BACK,), on_exhausted=wait)
    play.end("a-1")
    if why == "retry":
        play.end("b-1", fail="broken")
        play.wait(5)
    else:
        play.do(ParkTask(task_id="b-1", cause=ParkCause.PARK_CAUSE_BUDGET, budget_id="tenant"))
        play.do(UnparkTask(task_id="b-1"))
    old = run_state.next_task(play.run, "b").task_id
    assert play.ready[-1] == "b"
    assert kinds(play.end("c-1", fail="no"))[-1] is TaskCancelled
    assert (play.status(old), play.ready) == ("cancelled", ("a",))
