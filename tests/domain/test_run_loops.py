"""Tables of ways back within ways back: what an older visit still does, and what the next one starts from."""

from __future__ import annotations

from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.node_pb2 import Join, JoinMode
from crewlog.v1.run_pb2 import CancelTask, EndTask, RetryRun, TaskFailure, TaskResult

from tests.domain.playing import Play, edge, node

FAILED = TaskFailure(failure=Failure(reason="x"), result=TaskResult())


def test_an_older_visit_that_fails_means_nothing_any_more() -> None:
    again = edge("b", "a", when="task.visit == 1", visits_max=2)
    play = Play(node("a"), node("b", "a"), node("c", "a"), edges=(again,))
    play.end("a-1")
    play.claim("b-1", "c-1")
    play.end("b-1")
    play.do(EndTask(task_id="c-1", failed=FAILED))
    assert play.run.failure is None
    for task_id in ("a-2", "b-2", "c-2"):
        play.end(task_id)
    assert play.finish() == "succeeded"


def test_an_outer_way_back_gives_what_comes_before_and_not_what_an_inner_one_gave() -> None:
    inner = edge("review", "build", when='task.output == "again"', visits_max=5)
    outer = edge("test", "plan", when='task.output == "again"', visits_max=5)
    nodes = node("plan"), node("build", "plan"), node("review", "build"), node("test", "review")
    play = Play(*nodes, edges=(inner, outer))
    for task_id, output in (("plan-1", ""), ("build-1", ""), ("review-1", "again"), ("build-2", "")):
        play.end(task_id, output)
    assert play.run.tasks["build-2"].based_on == ("review-1",)
    for task_id, output in (("review-2", "good"), ("test-1", "again"), ("plan-2", "")):
        play.end(task_id, output)
    play.claim("build-3")
    assert play.run.tasks["build-3"].based_on == ("plan-2",)


def test_the_arrival_by_a_way_back_is_none_in_a_later_round() -> None:
    join = Join(mode=JoinMode.JOIN_MODE_FIRST, count=2, keep_rest=True)
    inner, outer = (edge(source, target, when="task.visit == 1", visits_max=5) for source, target in ("rt", "ep"))
    nodes = node("p"), node("i", "p"), node("k", "p"), node("t", "i", "k", join=join), node("r", "t"), node("e", "r")
    play = Play(*nodes, edges=(inner, outer))
    for task_id in ("p-1", "i-1", "k-1", "t-1", "r-1", "t-2", "r-2", "e-1", "p-2", "i-2"):
        play.end(task_id)
    assert play.ready == ("k",)


def test_what_was_left_out_elsewhere_stays_left_out() -> None:
    to_join = (edge("x", "j"), edge("y", "j"))
    never, sometimes = edge("s", "x", when="false"), edge("a", "y", when='task.output == "y"')
    again = edge("a", "a", when='task.output == "again"', visits_max=3)
    nodes = node("s"), node("x"), node("a", "s"), node("y"), node("j", join=Join(mode=JoinMode.JOIN_MODE_ALL))
    play = Play(*nodes, edges=(never, *to_join, sometimes, again))
    for task_id, output in (("s-1", ""), ("a-1", "again"), ("a-2", "no")):
        play.end(task_id, output)
    assert play.status("j-1") == "skipped"
    assert play.finish() == "succeeded"


def test_what_is_cancelled_and_runs_out_of_time_is_being_cancelled_once() -> None:
    play = Play(node("a", timeout_seconds=60))
    play.claim("a-1")
    play.do(CancelTask(task_id="a-1"))
    play.wait(61)
    assert play.run.cancelling == ("a-1",)
    play.do(EndTask(task_id="a-1", cancelled=TaskResult()))
    assert not play.run.cancelling


def test_a_retry_helps_where_the_task_before_an_edge_says_something_else() -> None:
    play = Play(node("a"), node("b"), edges=(edge("a", "b", when="parse_json(task.output).ok"),))
    play.end("a-1", "rubbish")
    assert play.run.failure is not None and play.run.failure.reason == "condition_failed"
    play.finish()
    play.do(RetryRun(request_id="again"))
    play.end("a-2", '{"ok": true}')
    play.end("b-1")
    assert play.finish() == "succeeded"
