"""Tables of edges, joins, time, gates and waits: what begins, what is left out, what ends a run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.run import context as run_context
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.domain.run.deadlines import next_due_at
from crewlog.domain.run.view import view
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.node_pb2 import (
    Files,
    GateNode,
    GateNodeKind,
    Join,
    JoinMode,
    JoinNode,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelTask,
    EdgeSkipped,
    EdgeTaken,
    EndTask,
    GateOpened,
    Handling,
    MergeRequested,
    RetryRun,
    SignalRun,
    TaskCancelled,
    TaskCancelRequested,
    TaskFailed,
    TaskFailure,
    TaskResult,
    TaskRetried,
    TaskStatus,
    TaskSucceeded,
    TaskUnparked,
)

from tests.domain.playing import BASE, SECOND, Play, agent, edge, kinds, node, of

SUCCEEDED, FAILED = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED

# edges


def test_a_condition_decides_which_way_is_taken_and_the_log_says_why() -> None:
    play = Play(
        node("a"),
        node("b"),
        node("c"),
        edges=(edge("a", "b", when="task.result.size > 3"), edge("a", "c", when="task.result.size <= 3")),
    )
    events = play.end("a-1", value={"size": 2})
    assert [(e.to_node_id, e.why) for e in of(events, EdgeTaken)] == [("c", "task.result.size <= 3")]
    assert [e.to_node_id for e in of(events, EdgeSkipped)] == ["b"]
    assert play.status("b-1") == "skipped"
    assert play.ready == ("c",)
    play.end("c-1")
    assert play.finish() == "succeeded"


def test_what_only_comes_after_something_left_out_is_left_out_as_well() -> None:
    play = Play(
        node("a"),
        node("b"),
        node("c", "b"),
        node("d", "c", "a"),
        node("e", "c"),
        edges=(edge("a", "b", when="false"),),
    )
    play.end("a-1")
    assert [play.status(f"{name}-1") for name in "bce"] == ["skipped"] * 3
    assert play.ready == ("d",)
    assert run_state.next_task(play.run, "d").based_on == ("a-1",)


def test_of_exclusive_edges_the_first_by_priority_is_taken() -> None:
    play = Play(
        node("a", exclusive=True),
        node("b", "a"),
        node("c"),
        node("d"),
        edges=(edge("a", "c", when="true", priority=1), edge("a", "d", when="true", priority=2)),
    )
    play.end("a-1")
    assert play.ready == ("d",)
    assert {play.status("b-1"), play.status("c-1")} == {"skipped"}


def test_a_phrase_in_the_output_leads_on() -> None:
    play = Play(node("a"), node("b"), edges=(edge("a", "b", output_contains="VERDICT: go"),))
    play.end("a-1", "well\nVERDICT: go")
    assert play.ready == ("b",)


@pytest.mark.parametrize("fail,expected", [("broken", ("rescue",)), ("merge_conflict", ("resolve",))])
def test_a_failure_leads_to_where_it_is_handled(fail: str, expected: tuple[str, ...]) -> None:
    play = Play(
        node("a"),
        node("next", "a"),
        node("rescue"),
        node("resolve"),
        edges=(edge("a", "rescue", "failed"), edge("a", "resolve", "conflicted")),
    )
    play.end("a-1", fail=fail)
    assert play.run.failure is None
    assert play.ready == expected
    assert play.status("next-1") == "skipped"
    assert run_state.is_after_conflict(play.run, run_state.next_task(play.run, expected[0])) == (fail != "broken")
    play.end(f"{expected[0]}-1")
    assert play.finish() == "succeeded"


def test_a_failure_that_nobody_handles_fails_the_run() -> None:
    play = Play(node("a"), node("b", "a"))
    play.end("a-1", fail="broken")
    assert play.ready == ()
    assert play.finish() == "failed"


def test_a_failure_may_count_as_done() -> None:
    play = Play(node("a", continue_on_failure=True), node("b", "a"))
    events = play.end("a-1", fail="broken")
    assert of(events, TaskFailed)[0].handling == Handling.HANDLING_CONTINUE
    assert play.ready == ("b",)


def test_a_failure_that_counts_as_done_leads_to_the_first_of_several() -> None:
    play = Play(
        node("a", continue_on_failure=True, exclusive=True),
        node("b", "a"),
        node("c", "a"),
        node("d"),
        edges=(edge("a", "d", when='task.output == "never"'),),
    )
    play.end("a-1", fail="broken")
    assert (play.ready, play.status("c-1"), play.status("d-1")) == (("b",), "skipped", "skipped")
    play.end("b-1")
    assert play.finish() == "succeeded"


def test_a_condition_that_cannot_be_worked_out_fails_the_task() -> None:
    play = Play(node("a"), node("b"), edges=(edge("a", "b", when="task.result.size > 3"),))
    play.end("a-1", "no value")
    assert play.run.failure is not None and play.run.failure.reason == "condition_failed"
    assert "start another run" in play.run.failure.what_to_do


def test_a_way_back_is_taken_as_often_as_it_may() -> None:
    play = Play(
        node("fix"),
        node("test", "fix"),
        node("done", "test"),
        edges=(edge("test", "fix", "failed", visits_max=3),),
    )
    for visit in (1, 2):
        play.end(f"fix-{visit}")
        play.end(f"test-{visit}", fail="command_failed")
        assert play.ready == ("fix",)
        assert run_state.next_task(play.run, "fix").based_on == (f"test-{visit}",)
    play.end("fix-3")
    play.end("test-3")
    assert play.ready == ("done",)
    assert len(of(play.events, EdgeTaken)) == 2


def test_a_way_back_that_is_used_up_fails_what_would_go_on() -> None:
    play = Play(
        node("write"),
        node("review", "write"),
        node("done", "review"),
        edges=(edge("review", "write", when="!task.result.ok", visits_max=1),),
    )
    play.end("write-1")
    play.end("review-1", value={"ok": False})
    assert play.run.failure is not None and play.run.failure.reason == "visits_exhausted"
    assert "start another run" in play.run.failure.what_to_do


def test_what_works_on_an_old_visit_is_stopped() -> None:
    play = Play(
        node("a"), node("b", "a"), node("c", "a"), edges=(edge("b", "a", when="task.visit == 1", visits_max=2),)
    )
    play.end("a-1")
    play.claim("b-1", "c-1")
    events = play.end("b-1")
    assert [e.task_id for e in of(events, TaskCancelRequested)] == ["c-1"]
    play.do(EndTask(task_id="c-1", cancelled=TaskResult()))
    assert play.run.failure is None
    play.end("a-2")
    play.end("b-2")
    play.end("c-2")
    assert play.finish() == "succeeded"


# joins


def join(mode: str, count: int = 0, **fields: Any) -> dict[str, Any]:
    return {"join": Join(mode=JoinMode.Value(f"JOIN_MODE_{mode}"), count=count, **fields)}


def fan(width: int, **joined: Any) -> Play:
    names = [f"n{number}" for number in range(width)]
    return Play(*(node(name) for name in names), node("j", *names, join_files=JoinNode(), **joined), node("z", "j"))


def test_any_goes_on_with_the_first_and_stops_the_rest() -> None:
    play = fan(3, **join("ANY"))
    play.claim("n0-1", "n1-1")
    play.end("n1-1")
    assert play.status("j-1") == "succeeded"
    assert play.ready == ("z",)
    assert play.run.cancelling == ("n0-1",)
    assert play.status("n2-1") == "skipped"
    play.do(EndTask(task_id="n0-1", cancelled=TaskResult()))
    assert play.run.failure is None
    play.end("z-1")
    assert play.finish() == "succeeded"


@pytest.mark.parametrize("kind", [{"join_files": JoinNode()}, {}])
@pytest.mark.parametrize("begun", [("a-1", "b-1"), ("a-1",)])
def test_a_join_that_another_does_not_wait_for_any_more_is_left_out(begun: tuple[str, ...], kind: Any) -> None:
    strict, first = node("x", "a", "b", **join("ALL")), node("j", "y", "fast", **join("ANY"), **kind)
    play = Play(node("a"), node("b"), strict, node("y", "x"), node("fast"), first)
    play.end("a-1") if len(begun) == 1 else play.claim(*begun)
    play.end("fast-1")
    for task_id in play.run.open:
        play.do(EndTask(task_id=task_id, cancelled=TaskResult()))
    assert (play.status("x-1"), play.status("y-1"), play.run.failure) == ("skipped", "skipped", None)


@pytest.mark.parametrize("kind", [{}, {"agent": agent()}, {"join_files": JoinNode()}, {"gate": GateNode(question="?")}])
def test_whatever_goes_on_with_the_first_stops_the_rest(kind: dict[str, Any]) -> None:
    play = Play(node("a"), node("b"), node("c"), node("j", "a", "b", "c", **join("ANY"), **kind))
    play.claim("a-1", "b-1")
    play.end("a-1")
    assert play.run.cancelling == ("b-1",)
    assert play.status("c-1") == "skipped"
    play.do(EndTask(task_id="b-1", cancelled=TaskResult()))
    assert play.run.failure is None


def test_what_is_stopped_by_one_that_goes_on_leads_to_nothing_else() -> None:
    play = Play(node("a"), node("b"), node("x", "b", join_files=JoinNode()), node("j", "a", "x", **join("ANY")))
    play.end("a-1")
    assert (play.status("b-1"), play.status("x-1"), play.ready) == ("skipped", "skipped", ("j",))


def test_any_can_let_the_rest_go_on() -> None:
    play = fan(2, **join("ANY", keep_rest=True))
    play.end("n1-1")
    assert set(play.ready) == {"n0", "z"}


def test_first_n_waits_for_so_many() -> None:
    play = fan(3, **join("FIRST", 2))
    play.end("n0-1")
    assert "j-1" not in play.run.tasks
    play.end("n1-1", fail="broken")
    assert play.run.failure is None
    play.end("n2-1")
    assert play.status("j-1") == "succeeded"


@pytest.mark.parametrize("failures,status", [(1, "succeeded"), (2, "failed")])
def test_a_quorum_needs_more_than_half(failures: int, status: str) -> None:
    play = fan(3, **join("QUORUM"))
    for number in range(3):
        play.end(f"n{number}-1", fail="broken" if number < failures else "")
    assert play.status("j-1") == status
    assert (play.run.failure is not None) == (status == "failed")


def test_all_is_missed_when_one_way_was_not_taken() -> None:
    play = Play(
        node("a"),
        node("b", "a"),
        node("j", "b", join_files=JoinNode(), **join("ALL")),
        edges=(edge("a", "j", when="false"),),
    )
    play.end("a-1")
    play.end("b-1")
    assert play.run.failure is not None and play.run.failure.reason == "join_missed"
    assert play.run.failure.message == "'j' needs 2 of 2 before it, and 1 have come: a-1 has led elsewhere"


def test_a_join_says_what_became_of_those_that_it_has_missed() -> None:
    play = fan(7, **join("QUORUM"))
    for number in range(7):
        play.end(f"n{number}-1", fail="broken" if number != 2 else "")
    assert play.run.failure is not None
    failed = ", ".join(f"n{number}-1 has failed" for number in (0, 1, 3, 4, 5))
    assert play.run.failure.message == f"'j' needs 4 of 7 before it, and 1 have come: {failed}, and 1 more"
    assert "on_failure: continue" in play.run.failure.what_to_do


def test_several_commits_are_merged_by_a_join() -> None:
    play = Play(node("a"), node("b"), node("j", "a", "b", join_files=JoinNode()), node("z", "j"))
    play.end("a-1", commit="a" * 40)
    events = play.end("b-1", commit="b" * 40)
    assert list(of(events, MergeRequested)[0].commits) == ["a" * 40, "b" * 40]
    assert play.run.merging == ("j-1",)
    play.do(EndTask(task_id="j-1", succeeded=TaskResult(commit="c" * 40)))
    assert run_state.base_commits(play.run, run_state.next_task(play.run, "z")) == ("c" * 40,)
    play.end("z-1")
    assert run_state.tips(play.run) == ("c" * 40,)


def test_a_conflict_leads_to_who_resolves_it_with_both_sides() -> None:
    play = Play(
        node("a"),
        node("b"),
        node("j", "a", "b", join_files=JoinNode()),
        node("resolve"),
        node("z", "j"),
        edges=(edge("j", "resolve", "conflicted"), edge("resolve", "z")),
    )
    play.end("a-1", commit="a" * 40)
    play.end("b-1", commit="b" * 40)
    play.do(EndTask(task_id="j-1", failed=TaskFailure(failure=Failure(reason="merge_conflict"))))
    task = run_state.next_task(play.run, "resolve")
    assert run_state.base_commits(play.run, task) == ("a" * 40, "b" * 40)
    assert run_state.is_after_conflict(play.run, task)
    play.end("resolve-1", commit="c" * 40)
    assert play.ready == ("z",)
    play.end("z-1")
    assert run_state.tips(play.run) == ("c" * 40,)


def test_files_may_come_from_one_of_several_or_from_none() -> None:
    play = Play(
        node("a"),
        node("b"),
        node("judge", "a", "b", files=Files(none=True)),
        node("keep", "judge", files=Files(**{"from": "tasks.judge.result.winner"})),  # type: ignore[arg-type]
    )
    play.end("a-1", commit="a" * 40)
    play.end("b-1", commit="b" * 40)
    play.claim("judge-1")
    assert run_state.base_commits(play.run, play.run.tasks["judge-1"]) == (BASE,)
    play.end("judge-1", value={"winner": "b"})
    play.claim("keep-1")
    assert run_state.base_commits(play.run, play.run.tasks["keep-1"]) == ("b" * 40,)
    play.end("keep-1")
    assert run_state.tips(play.run) == ("b" * 40,)


# retries and time


def test_a_failed_task_is_tried_again_after_a_while() -> None:
    play = Play(node("a", retry=RetryPolicy(attempts_max=3, back_off_seconds=10)), node("b", "a"))
    events = play.end("a-1", fail="broken")
    assert kinds(events) == [TaskFailed, TaskRetried]
    assert play.ready == () and play.run.failure is None
    assert next_due_at(play.run) == play.now + 10 * SECOND
    assert kinds(play.wait(10)) == [TaskUnparked]
    play.end("a-2", fail="broken")
    assert play.wait(19) == []
    play.wait(1)
    play.end("a-3", fail="broken")
    assert play.run.failure is not None


def test_only_the_reasons_that_are_named_are_tried_again() -> None:
    play = Play(node("a", retry=RetryPolicy(attempts_max=3, reasons=["command_failed"])))
    play.end("a-1", fail="other")
    assert play.run.failure is not None


def test_a_run_that_is_taken_up_tries_as_often_as_before() -> None:
    play = Play(node("a", retry=RetryPolicy(attempts_max=2)))
    for _ in range(2):
        play.end(f"a-{play.run.visits['a']}", fail="broken")
        play.wait(1)
    assert play.finish() == "failed"
    play.do(RetryRun(request_id="again"))
    assert of(play.end("a-3", fail="broken"), TaskRetried)


def test_what_nobody_wants_any_more_is_not_tried_again() -> None:
    again = RetryPolicy(attempts_max=3)
    play = Play(node("a", retry=again), node("b"), node("c", retry=again), node("j", "a", "b", **join("ANY")))
    play.claim("a-1", "c-1")
    play.end("b-1")
    play.do(CancelTask(task_id="c-1"))
    assert not of([*play.end("a-1", fail="broken"), *play.end("c-1", fail="broken")], TaskRetried)


def test_a_task_that_takes_too_long_is_stopped_and_leads_on() -> None:
    play = Play(node("a", timeout_seconds=60), node("late"), edges=(edge("a", "late", "timed_out"),))
    play.claim("a-1")
    play.wait(59)
    assert play.run.tasks["a-1"].timed_out is None
    play.wait(1)
    assert play.run.tasks["a-1"].timed_out is not None
    play.do(EndTask(task_id="a-1", cancelled=TaskResult()))
    assert play.status("a-1") == "timed_out"
    assert play.ready == ("late",)


def test_a_task_that_times_out_without_an_edge_fails_the_run() -> None:
    play = Play(node("a", timeout_seconds=60))
    play.claim("a-1")
    play.wait(60)
    play.do(EndTask(task_id="a-1", cancelled=TaskResult()))
    assert play.run.failure is not None and play.run.failure.reason == "task_timed_out"


# gates and waits


def gate(**fields: Any) -> GateNode:
    return GateNode(question="ship {{ tasks.a.result.name }}?", **fields)


@pytest.mark.parametrize("choice,status", [("approve", "succeeded"), ("reject", "failed")])
def test_a_gate_asks_and_its_answer_is_its_result(choice: str, status: str) -> None:
    play = Play(node("a"), node("ship", "a", gate=gate()), node("z", "ship"))
    events = play.end("a-1", value={"name": "1.0"})
    opened = of(events, GateOpened)[0]
    assert (opened.question, list(opened.choices)) == ("ship 1.0?", ["approve", "reject"])
    assert view(play.run).gates[0].status == 1
    play.do(AnswerGate(gate_id=opened.gate_id, choice=choice, answered_by="ann"))
    assert play.status("ship-1") == status
    result = play.run.tasks["ship-1"].result
    assert result is not None and json.loads(result.structured_json)["answered_by"] == "ann"


def test_a_gate_that_nobody_answers_times_out_or_takes_its_default() -> None:
    for default, status in (("", "timed_out"), ("approve", "succeeded")):
        play = Play(node("ship", gate=GateNode(question="?", expires_seconds=60, default_answer=default)))
        assert next_due_at(play.run) == play.now + 60 * SECOND
        play.wait(60)
        assert play.status("ship-1") == status


def test_a_text_may_be_edited() -> None:
    kind = GateNodeKind.GATE_NODE_KIND_EDIT
    play = Play(node("a"), node("edit", "a", gate=GateNode(kind=kind, question="mend it", text="{{ tasks.a.output }}")))
    opened = of(play.end("a-1", "a {{ 1 + 1 }} draft"), GateOpened)[0]
    assert opened.text.inline == b"a {{ 1 + 1 }} draft"
    play.do(AnswerGate(gate_id=opened.gate_id, text="final", answered_by="ann"))
    assert run_context.value_of(play.run, play.run.tasks["edit-1"])["result"]["text"] == "final"


def test_a_wait_ends_by_itself() -> None:
    play = Play(node("pause", wait=WaitNode(seconds=30)), node("z", "pause"))
    assert not run_state.is_finishing(play.run)
    assert play.wait(29) == []
    play.wait(1)
    assert play.ready == ("z",)


def test_a_signal_is_kept_until_somebody_waits_for_it_and_given_once() -> None:
    play = Play(node("a"), node("w", "a", wait=WaitNode(signal="deployed")), node("z", "w"))
    play.do(SignalRun(name="deployed", payload_json='{"v": 1}', request_id="s1"))
    assert play.do(SignalRun(name="deployed", payload_json='{"v": 1}', request_id="s1")) == []
    play.end("a-1")
    assert play.ready == ("z",)
    assert run_context.value_of(play.run, play.run.tasks["w-1"])["result"] == {"v": 1}


def test_a_wait_uses_its_signal_up() -> None:
    play = Play(node("a"), node("v", "a", wait=WaitNode(signal="go")), node("w", "v", wait=WaitNode(signal="go")))
    play.do(SignalRun(name="go", payload_json="1"))
    play.end("a-1")
    assert (play.status("v-1"), play.status("w-1")) == ("succeeded", "parked")
    play.do(SignalRun(name="go", payload_json="2"))
    assert play.status("w-1") == "succeeded"
    assert run_context.value_of(play.run, play.run.tasks["w-1"])["result"] == 2
    assert not play.run.signals


def test_every_round_waits_for_a_signal_of_its_own() -> None:
    play = Play(
        node("w", wait=WaitNode(signal="go")), node("a", "w"), edges=(edge("a", "w", "succeeded", visits_max=3),)
    )
    play.do(SignalRun(name="go"))
    play.end("a-1")
    assert play.status("w-2") == "parked"


def test_a_signal_ends_all_that_wait_for_it_and_nothing_later() -> None:
    play = Play(
        *(node(name, wait=WaitNode(signal="go")) for name in ("v", "w")),
        node("z", "v", "w", wait=WaitNode(signal="go")),
        node("y", "z", wait=WaitNode(signal="other")),
    )
    play.do(SignalRun(name="other"))
    play.do(SignalRun(name="go"))
    assert [play.status(f"{name}-1") for name in "vwz"] == ["succeeded", "succeeded", "parked"]
    assert list(play.run.signals) == ["other"]


def test_a_wait_that_is_sent_back_by_the_end_of_another_does_not_end_again() -> None:
    waits = (node(name, "a", wait=WaitNode(signal="go")) for name in ("w", "x"))
    play = Play(node("a"), *waits, edges=(edge("w", "a", visits_max=2),))
    play.end("a-1")
    events = play.do(SignalRun(name="go"))
    assert [e.task_id for e in of(events, TaskSucceeded)] == ["w-1"]
    assert [e.task_id for e in of(events, TaskCancelled)] == ["x-1"]


def test_a_history_in_which_one_signal_ended_several_waits_is_still_read() -> None:
    play = Play(node("a"), node("v", "a", wait=WaitNode(signal="go")), node("w", "v", wait=WaitNode(signal="go")))
    play.do(SignalRun(name="go", payload_json="1"))
    play.end("a-1")
    read = run.evolve(play.run, TaskSucceeded(task_id="w-1", result=TaskResult(structured_json="1")))
    assert read.tasks["w-1"].status == SUCCEEDED


def test_a_signal_that_does_not_come_times_out() -> None:
    play = Play(node("w", wait=WaitNode(signal="deployed", seconds=5)), node("z"), edges=(edge("w", "z", "timed_out"),))
    play.wait(5)
    assert play.status("w-1") == "timed_out"
    assert play.ready == ("z",)


def test_what_is_advised_when_a_signal_has_not_come_can_be_done() -> None:
    play = Play(node("w", wait=WaitNode(signal="deployed", seconds=5)))
    play.wait(5)
    assert play.finish() == "failed" and play.run.failure is not None
    retry, signal = (
        play.run.failure.what_to_do.index(verb) for verb in ("crewlog retry r", "crewlog signal r deployed")
    )
    assert retry < signal
    play.do(RetryRun(request_id="again"))
    play.do(SignalRun(name="deployed"))
    assert play.finish() == "succeeded"


@pytest.mark.parametrize(
    "payload",
    [
        "{",
        "NaN",
        "1e999",
        '"\\ud800"',
        "[" * 60_000,
        "[" * 30_000 + "]" * 30_000,
        "[" * 800 + "]" * 800,
        f"[{','.join(['1e15'] * 10_000)}]",
    ],
    ids=["open", "NaN", "infinite", "half of a character", "open and deep", "very deep", "deep", "grows"],
)
def test_a_signal_has_to_be_json_that_can_be_read_again(payload: str) -> None:
    """Where the stack is deeper than here, what is nested could not be: the run would stop there for ever."""
    play = Play(node("w", wait=WaitNode(signal="deployed")))
    with pytest.raises(InvalidCommand, match="payload_json"):
        play.do(SignalRun(name="deployed", payload_json=payload))
    play.do(SignalRun(name="deployed", payload_json="[" * 30 + "]" * 30))


def test_a_round_in_which_a_node_was_not_reached_is_no_visit_of_it() -> None:
    play = Play(
        node("reproduce"),
        node("is-red", "reproduce"),
        node("fix", "is-red"),
        edges=(edge("is-red", "reproduce", when="task.visit == 1", visits_max=2),),
    )
    play.end("reproduce-1")
    play.end("is-red-1")
    play.end("reproduce-2")
    play.end("is-red-2")
    play.end("fix-1")
    assert play.finish() == "succeeded"
