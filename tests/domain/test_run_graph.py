"""Tables of what a run does with every kind of node and edge: what begins, what is left out, what ends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.domain import run, run_context, run_results, run_state
from crewlog.domain.decider import fold
from crewlog.domain.errors import InvalidCommand, Refused, StaleClaim
from crewlog.domain.graph import map_of
from crewlog.domain.run_deadlines import next_due_at
from crewlog.domain.run_view import view
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts, Limit
from crewlog.v1.node_pb2 import (
    CommandNode,
    Edge,
    Files,
    GateNode,
    GateNodeKind,
    Join,
    JoinMode,
    JoinNode,
    Outcome,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import (
    AgentNode,
    AnswerGate,
    CancelRun,
    CancelTask,
    CheckDeadlines,
    ChildRunRequested,
    ChildSpawned,
    ClaimTask,
    EdgeSkipped,
    EdgeTaken,
    EndTask,
    FinishRun,
    GateOpened,
    GraphGrown,
    Handling,
    MapExpanded,
    MapNode,
    MergeRequested,
    MessageSent,
    Node,
    NoopNode,
    ParkCause,
    ParkTask,
    PauseRun,
    Planning,
    ResumeRun,
    RetryRun,
    Role,
    RunStatus,
    SignalRun,
    SpawnChild,
    StartRun,
    TaskCancelRequested,
    TaskFailed,
    TaskFailure,
    TaskResult,
    TaskRetried,
    TaskSkipped,
    TaskStatus,
    TaskUnparked,
    Workflow,
    WorkflowNode,
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

    def __init__(self, *nodes: Node, edges: tuple[Edge, ...] = (), **start: Any) -> None:
        self.now = 1_000 * SECOND
        self.run = run.INITIAL
        self.events: list[Message] = []
        self.do(StartRun(run_id="r", workflow=workflow(*nodes, edges=edges), input="do it", base_commit=BASE, **start))

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


def test_a_condition_that_cannot_be_worked_out_fails_the_task() -> None:
    play = Play(node("a"), node("b"), edges=(edge("a", "b", when="task.result.size > 3"),))
    play.end("a-1", "no value")
    assert play.run.failure is not None and play.run.failure.reason == "condition_failed"


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
        node("keep", "judge", files=Files(**{"from": "tasks.judge.result.winner"})),
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


def test_a_signal_that_does_not_come_times_out() -> None:
    play = Play(node("w", wait=WaitNode(signal="deployed", seconds=5)), node("z"), edges=(edge("w", "z", "timed_out"),))
    play.wait(5)
    assert play.status("w-1") == "timed_out"
    assert play.ready == ("z",)


def test_a_signal_has_to_be_json() -> None:
    play = Play(node("w", wait=WaitNode(signal="deployed")))
    with pytest.raises(InvalidCommand, match="payload_json"):
        play.do(SignalRun(name="deployed", payload_json="{"))


# maps


def fan_out(**fields: Any) -> MapNode:
    return MapNode(body=Node(noop=NoopNode()), **fields)


def test_a_map_does_its_items_a_few_at_once_and_keeps_their_order() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result", at_once_max=2)), node("z", "m"))
    expanded = of(play.end("a-1", value=["x", "y", "z"]), MapExpanded)[0]
    assert list(expanded.items_json) == ['"x"', '"y"', '"z"']
    assert play.ready == ("m_0", "m_1")
    play.end("m_1-1", "second")
    assert play.ready == ("m_0", "m_2")
    assert run_context.item_of(play.run, "m_2") == "z"
    play.end("m_2-1", value={"n": 3})
    play.end("m_0-1", "first")
    assert run_context.result_of(play.run, play.run.tasks["m-1"]) == ["first", "second", {"n": 3}]
    assert play.ready == ("z",)


def test_a_map_of_nothing_is_done() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result")), node("z", "m"))
    play.end("a-1", value=[])
    assert play.ready == ("z",)


def test_a_map_over_something_else_than_a_list_fails() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result")))
    play.end("a-1", value={"x": 1})
    assert play.run.failure is not None and "list" in play.run.failure.message


def test_a_map_bears_as_many_failures_as_it_may_and_then_stops() -> None:
    play = Play(node("m", map=fan_out(times=5, failures_max=1, at_once_max=3)), node("z", "m"))
    play.claim("m_0-1", "m_1-1")
    play.end("m_0-1", fail="broken")
    assert play.run.failure is None
    play.claim("m_2-1")
    events = play.end("m_2-1", fail="broken")
    assert [e.task_id for e in of(events, TaskCancelRequested)] == ["m_1-1", "m_3-1"]
    assert play.status("m_3-1") == "cancelled"
    assert play.run.failure is None, "the map ends when the last of its items has"
    play.do(EndTask(task_id="m_1-1", cancelled=TaskResult()))
    assert play.run.failure is not None and play.run.failure.reason == "map_failed"


def test_an_item_is_tried_again_in_its_place() -> None:
    body = Node(noop=NoopNode(), retry=RetryPolicy(attempts_max=2))
    play = Play(node("m", map=MapNode(times=2, body=body)), node("z", "m"))
    play.end("m_0-1", fail="broken")
    play.wait(0)
    assert set(play.ready) == {"m_0", "m_1"}
    play.end("m_0-2", "again")
    play.end("m_1-1", "one")
    assert run_context.result_of(play.run, play.run.tasks["m-1"]) == ["again", "one"]


def test_a_map_in_a_loop_is_expanded_anew() -> None:
    play = Play(
        node("a"),
        node("m", "a", map=fan_out(over="tasks.a.result")),
        node("z", "m"),
        edges=(edge("z", "a", when="task.visit == 1", visits_max=2),),
    )
    play.end("a-1", value=[1, 2])
    play.end("m_0-1"), play.end("m_1-1")
    play.end("z-1")
    play.end("a-2", value=[3])
    assert play.ready == ("m_0",)
    play.end("m_0-2", "three")
    assert run_context.result_of(play.run, play.run.tasks["m-2"]) == ["three"]
    play.end("z-2")
    assert play.finish() == "succeeded"


def test_a_run_that_failed_in_a_map_goes_on_with_the_items_that_are_left() -> None:
    play = Play(node("m", map=fan_out(times=4, at_once_max=2)), node("z", "m"))
    play.end("m_0-1", "kept")
    play.claim("m_1-1", "m_2-1")
    play.end("m_1-1", fail="broken")
    play.do(EndTask(task_id="m_2-1", cancelled=TaskResult()))
    assert play.finish() == "failed"
    play.do(RetryRun(request_id="again"))
    assert set(play.ready) == {"m_1", "m_2"}
    play.end("m_1-2", "b")
    play.end("m_2-2", "c")
    play.end("m_3-1", "d")
    assert run_context.result_of(play.run, play.run.tasks["m-1"]) == ["kept", "b", "c", "d"]
    play.end("z-1")
    assert play.finish() == "succeeded"


def test_a_retry_leaves_items_of_an_older_visit_alone() -> None:
    play = Play(
        node("m", timeout_seconds=5, retry=RetryPolicy(attempts_max=2, back_off_seconds=9), map=fan_out(times=1))
    )
    play.wait(5)
    assert play.status("m-1") == "timed_out"
    play.do(CancelRun(reason="enough"))
    assert play.finish() == "cancelled"
    play.do(RetryRun(request_id="again"))
    assert play.ready == ("m_0",)


# child runs


def child() -> WorkflowNode:
    return WorkflowNode(workflow=workflow(node("only")), input="{{ run.input }} well")


def test_a_child_run_is_asked_for_with_a_share_of_the_money() -> None:
    play = Play(node("a"), node("sub", "a", workflow=child()), node("z", "sub"), budget=Limit(usd_micros=1_000))
    events = play.end("a-1", commit="a" * 40)
    asked = of(events, ChildRunRequested)[0]
    assert (asked.input.inline, asked.base_commit, asked.allotment.usd_micros) == (b"do it well", "a" * 40, 1_000)
    assert play.run.allotted.usd_micros == 1_000
    result = TaskResult(commit="c" * 40, spent=Amounts(usd_micros=300))
    play.do(EndTask(task_id="sub-1", succeeded=result))
    assert (play.run.allotted.usd_micros, play.run.spent.usd_micros) == (0, 300)
    assert run_state.base_commits(play.run, run_state.next_task(play.run, "z")) == ("c" * 40,)


def test_the_end_of_a_merge_done_twice_does_not_end_the_child_run() -> None:
    play = Play(node("a"), node("b"), node("sub", "a", "b", workflow=child()))
    play.end("a-1", commit="a" * 40)
    play.end("b-1", commit="b" * 40)
    merged = EndTask(task_id="sub-1", is_merge=True, succeeded=TaskResult(commit="c" * 40))
    assert kinds(play.do(merged)) == [ChildRunRequested]
    assert play.do(merged) == []


def test_a_run_that_is_stopped_waits_for_its_child_runs() -> None:
    play = Play(node("sub", workflow=child()))
    play.do(CancelRun(reason="enough"))
    assert not run_state.is_finishing(play.run)
    play.do(EndTask(task_id="sub-1", cancelled=TaskResult()))
    assert play.finish() == "cancelled"


def test_a_child_run_that_failed_is_taken_up_with_its_parent() -> None:
    play = Play(node("sub", workflow=child()), budget=Limit(usd_micros=1_000))
    spent = TaskResult(spent=Amounts(usd_micros=200))
    play.do(EndTask(task_id="sub-1", failed=TaskFailure(failure=Failure(reason="x"), result=spent)))
    assert play.finish() == "failed"
    play.do(RetryRun(request_id="again"))
    assert dict(play.run.child_runs) == {"sub-1": play.run.tasks["sub-1"].child_run_id}
    play.do(EndTask(task_id="sub-1", succeeded=TaskResult(spent=Amounts(usd_micros=500))))
    assert play.run.spent.usd_micros == 500
    assert play.finish() == "succeeded"


def test_what_a_child_run_came_to_is_what_its_last_nodes_gave() -> None:
    inner = Play(node("a"), node("b", "a"))
    inner.end("a-1", "draft")
    inner.end("b-1", "final", value={"n": 1})
    inner.finish()
    end = run_results.end_of(inner.run, 5)
    assert (end.succeeded.output.inline, end.succeeded.structured_json) == (b"final", '{"n":1}')


# plans and children of agents


PLANNING = Planning(roles=[Role(name="worker", prompt="work")])


def plan(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": [{"role": "worker", "prompt": "{{ run.id }}", **task} for task in tasks]}


def test_a_plan_becomes_a_part_of_the_graph_before_what_comes_after_it() -> None:
    play = Play(node("p", agent=agent(planning=PLANNING)), node("z", "p"))
    events = play.end("p-1", value=plan({"id": "x"}, {"id": "y", "depends_on": ["x"]}))
    assert of(events, GraphGrown)
    assert play.ready == ("p_x",)
    assert run_context.rendered(play.run, play.run.graph.node("p_x").agent.prompt, "p_x") == "{{ run.id }}"
    play.end("p_x-1")
    play.end("p_y-1", commit="a" * 40)
    assert play.ready == ("z",)
    assert run_state.next_task(play.run, "z").based_on == ("p-1", "p_y-1")
    play.end("z-1")
    assert play.finish() == "succeeded"


def test_a_plan_that_is_made_anew_takes_the_place_of_the_old_one() -> None:
    play = Play(
        node("p", agent=agent(planning=PLANNING)),
        node("z", "p"),
        edges=(edge("z", "p", when="task.visit == 1", visits_max=2),),
    )
    play.end("p-1", value=plan({"id": "x"}, {"id": "y"}))
    play.end("p_x-1"), play.end("p_y-1")
    play.end("z-1")
    play.end("p-2", value=plan({"id": "y"}, {"id": "q"}))
    assert set(play.ready) == {"p_y", "p_q"}
    play.end("p_y-2"), play.end("p_q-1")
    play.end("z-2")
    assert play.finish() == "succeeded"


@pytest.mark.parametrize(
    "tasks",
    [
        [{"id": "x", "depends_on": ["x"]}],
        [{"id": "x", "depends_on": ["nobody"]}],
        [{"id": "x"}, {"id": "x"}],
        [{"id": "x", "role": "root"}],
        [{"id": "X Y"}],
        [],
    ],
)
def test_a_plan_that_is_not_valid_fails_its_planner(tasks: list[dict[str, Any]]) -> None:
    play = Play(node("p", agent=agent(planning=PLANNING)))
    play.end("p-1", value=plan(*tasks))
    assert play.run.failure is not None and play.run.failure.reason == "plan_invalid"


def spawn(index: int = 0, **fields: Any) -> SpawnChild:
    values = {"task_id": "lead-1", "generation": 1, "turn": 1, "index": index, "role": "worker", "prompt": "part"}
    return SpawnChild(**{**values, **fields})


def lead(**fields: Any) -> Play:
    children = [Role(name="worker", prompt="work")]
    play = Play(node("lead", agent=agent(children=children, children_max=2)), **fields)
    play.claim("lead-1")
    return play


def test_a_child_gets_a_part_of_the_money_and_is_made_once() -> None:
    play = lead(budget=Limit(usd_micros=1_000))
    share = Amounts(usd_micros=400)
    assert kinds(play.do(spawn(share=share))) == [ChildSpawned]
    assert play.do(spawn(share=share)) == []
    assert play.ready == ("lead_c1",)
    play.claim("lead_c1-1")
    tasks = play.run.tasks
    assert (tasks["lead-1"].allotment.usd_micros, tasks["lead_c1-1"].allotment.usd_micros) == (600, 400)
    assert play.run.allotted.usd_micros == 1_000


def test_a_parent_that_waits_goes_on_when_its_last_child_has_ended() -> None:
    play = lead()
    play.do(spawn(0)), play.do(spawn(1))
    play.do(ParkTask(task_id="lead-1", generation=1, cause=ParkCause.PARK_CAUSE_CHILDREN))
    assert [type(e) for e in play.end("lead_c1-1", "one")][1:] == [MessageSent]
    events = play.end("lead_c2-1", fail="broken")
    assert kinds(events)[1:] == [MessageSent, TaskUnparked]
    assert b"broken" in of(events, MessageSent)[0].text.inline
    assert play.ready == ("lead",)
    assert play.run.failure is None


def test_who_waits_for_children_that_have_ended_goes_on_at_once() -> None:
    play = lead()
    events = play.do(ParkTask(task_id="lead-1", generation=1, cause=ParkCause.PARK_CAUSE_CHILDREN))
    assert TaskUnparked in kinds(events)


def test_children_do_not_outlive_their_parent() -> None:
    play = lead()
    play.do(spawn(0)), play.do(spawn(1))
    play.claim("lead_c1-1")
    events = play.end("lead-1")
    assert {e.task_id for e in of(events, TaskCancelRequested)} == {"lead_c1-1", "lead_c2-1"}
    assert play.status("lead_c2-1") == "cancelled"
    play.do(EndTask(task_id="lead_c1-1", cancelled=TaskResult()))
    assert play.finish() == "succeeded"


@pytest.mark.parametrize(
    "command,error",
    [
        (spawn(role="root"), InvalidCommand),
        (spawn(prompt=" "), InvalidCommand),
        (spawn(generation=2), StaleClaim),
        (spawn(share=Amounts(usd_micros=1)), Refused),
        (spawn(task_id="nobody-1"), Refused),
    ],
)
def test_what_nobody_may_spawn(command: SpawnChild, error: type[Exception]) -> None:
    with pytest.raises(error):
        lead().do(command)


def test_children_are_limited_in_number_and_depth() -> None:
    play = lead()
    play.do(spawn(0)), play.do(spawn(1))
    with pytest.raises(Refused, match="may have no more"):
        play.do(spawn(2))
    parent = "lead_c1"
    for _ in range(2):
        play.claim(f"{parent}-1")
        play.do(spawn(task_id=f"{parent}-1"))
        parent += "_c1"
    play.claim(f"{parent}-1")
    with pytest.raises(Refused, match="deep"):
        play.do(spawn(task_id=f"{parent}-1"))


# control


def test_nothing_of_the_run_itself_begins_while_it_is_paused() -> None:
    play = Play(node("a"), node("w", "a", wait=WaitNode(seconds=5)))
    play.claim("a-1")
    play.do(PauseRun(reason="lunch"))
    play.end("a-1")
    assert "w-1" not in play.run.tasks
    play.do(ResumeRun())
    assert play.status("w-1") == "parked"


def test_a_gate_can_be_cancelled_by_itself() -> None:
    play = Play(node("g", gate=GateNode(question="?")), node("z"), edges=(edge("g", "z", "cancelled"),))
    play.do(CancelTask(task_id="g-1", by="ann"))
    assert play.status("g-1") == "cancelled"
    assert play.ready == ("z",)


def test_a_retry_keeps_what_was_led_away_and_left_out() -> None:
    play = Play(
        node("a"),
        node("rescue"),
        node("b", "a"),
        node("z", "rescue"),
        edges=(edge("a", "rescue", "failed"),),
    )
    play.end("a-1", fail="broken")
    play.end("rescue-1")
    play.end("z-1", fail="broken")
    assert play.finish() == "failed"
    play.do(RetryRun(request_id="again"))
    assert play.ready == ("z",)
    play.end("z-2")
    assert play.finish() == "succeeded"


def test_every_prefix_of_a_run_is_the_same_again() -> None:
    play = Play(
        node("a"),
        node("m", "a", map=fan_out(over="tasks.a.result", at_once_max=2)),
        node("g", "m", gate=GateNode(question="?")),
        node("sub", "g", workflow=child()),
        node("c", "sub", command=CommandNode(argv=["true"])),
    )
    play.end("a-1", value=[1, 2, 3])
    for index in range(3):
        play.end(f"m_{index}-1")
    play.do(AnswerGate(gate_id="g-1-1", choice="approve", answered_by="ann"))
    play.do(EndTask(task_id="sub-1", succeeded=TaskResult()))
    play.end("c-1")
    play.finish()
    for length in range(len(play.events) + 1):
        state = fold(run, play.events[:length])
        view(state)
        assert fold(run, play.events[length:], state) == play.run


def test_the_kinds_of_names_do_not_meet() -> None:
    assert (map_of("m_3"), map_of("m"), map_of("lead_c1_c2")) == ("m", "", "lead_c1")


def test_skipped_tasks_say_why() -> None:
    play = Play(node("a"), node("b"), edges=(edge("a", "b", when="false"),))
    assert [e.why for e in of(play.end("a-1"), TaskSkipped)] == ["no edge that leads here was taken"]
    assert play.run.tasks["b-1"].status not in (SUCCEEDED, FAILED)
