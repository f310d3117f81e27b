"""Tables of maps, child runs, plans, children of agents, and of what people may do about a graph."""

from __future__ import annotations

from typing import Any

import pytest
from crewlog.domain.decider import fold
from crewlog.domain.errors import InvalidCommand, Refused, StaleClaim, WrongState
from crewlog.domain.run import begins as run_begins
from crewlog.domain.run import context as run_context
from crewlog.domain.run import deadlines as run_deadlines
from crewlog.domain.run import decider as run
from crewlog.domain.run import results as run_results
from crewlog.domain.run import state as run_state
from crewlog.domain.run.view import view
from crewlog.domain.workflow.graph import map_of
from crewlog.eventlog.port import ENTRY_BYTES_MAX
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted
from crewlog.v1.node_pb2 import (
    CommandNode,
    GateNode,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    CancelTask,
    ChildRunRequested,
    ChildSpawned,
    ClaimTask,
    EndTask,
    GraphGrown,
    MapExpanded,
    MapNode,
    MessageSent,
    Node,
    NoopNode,
    ParkCause,
    ParkTask,
    PauseRun,
    Planning,
    RaiseRunBudget,
    ResumeRun,
    RetryRun,
    Role,
    SpawnChild,
    TaskCancelRequested,
    TaskFailure,
    TaskParked,
    TaskResult,
    TaskSkipped,
    TaskStatus,
    TaskUnparked,
    WorkflowNode,
)

from tests.domain.playing import Play, agent, edge, kinds, node, of, workflow

SUCCEEDED, FAILED = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED

# maps


def fan_out(**fields: Any) -> MapNode:
    return MapNode(body=Node(noop=NoopNode()), **fields)


def test_a_map_does_its_items_a_few_at_once_and_keeps_their_order() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result", at_once_max=2)), node("z", "m"))
    expanded = of(play.end("a-1", value=["x", "y", "z"]), MapExpanded)[0]
    assert list(expanded.items_json) == ['"x"', '"y"', '"z"']
    assert list(play.ready) == ["m_0", "m_1"]
    play.end("m_1-1", "second")
    assert list(play.ready) == ["m_0", "m_2"]
    assert run_context.item_of(play.run, "m_2") == "z"
    play.end("m_2-1", value={"n": 3})
    play.end("m_0-1", "first")
    assert run_context.result_of(play.run, play.run.tasks["m-1"]) == ["first", "second", {"n": 3}]
    assert list(play.ready) == ["z"]


def test_a_map_of_nothing_is_done() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result")), node("z", "m"))
    play.end("a-1", value=[])
    assert play.ready == ("z",)


def test_a_map_over_something_else_than_a_list_fails() -> None:
    play = Play(node("a"), node("m", "a", map=fan_out(over="tasks.a.result")))
    play.end("a-1", value={"x": 1})
    assert play.run.failure is not None and "list" in play.run.failure.message
    assert "start another run" in play.run.failure.what_to_do


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
    told = "0 of 5 items of 'm' are done; m_0-1: failed, m_2-1: failed, m_1-1: cancelled, m_3-1: cancelled"
    assert told in play.run.failure.message
    assert "--items" in play.run.failure.what_to_do and "crewlog retry" in play.run.failure.what_to_do


def test_a_map_with_a_cancelled_item_does_not_say_that_it_failed() -> None:
    play = Play(node("m", map=fan_out(times=2)), node("z", "m"))
    play.end("m_0-1", "good")
    play.claim("m_1-1")
    play.do(EndTask(task_id="m_1-1", cancelled=TaskResult()))
    assert play.run.failure is not None
    assert "1 of 2 items of 'm' are done; m_1-1: cancelled" in play.run.failure.message


def test_a_map_names_only_the_first_of_many_items_that_are_not_done() -> None:
    play = Play(node("m", map=fan_out(times=8, failures_max=7)), node("z", "m"))
    for number in range(8):
        play.end(f"m_{number}-1", fail="broken")
    assert play.run.failure is not None
    assert play.run.failure.message.endswith("m_4-1: failed, and 3 more")


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


def test_an_input_that_cannot_be_worked_out_after_a_merge_fails_its_task() -> None:
    sub = WorkflowNode(workflow=workflow(node("only")), input="{{ tasks.a.result.nothing }}")
    play = Play(node("a"), node("b"), node("sub", "a", "b", workflow=sub))
    play.end("a-1", commit="a" * 40)
    play.end("b-1", commit="b" * 40)
    play.do(EndTask(task_id="sub-1", is_merge=True, succeeded=TaskResult(commit="c" * 40)))
    assert play.run.failure is not None and play.run.failure.reason == "expression_failed"
    assert play.finish() == "failed"


def test_a_run_that_is_stopped_waits_for_its_child_runs() -> None:
    play = Play(node("sub", workflow=child()))
    play.do(CancelRun(reason="enough"))
    assert not run_state.is_finishing(play.run)
    play.do(EndTask(task_id="sub-1", cancelled=TaskResult()))
    assert play.finish() == "cancelled"


def test_a_child_run_that_somebody_has_cancelled_fails_its_parent() -> None:
    play = Play(node("sub", workflow=child()), node("z", "sub"))
    play.do(EndTask(task_id="sub-1", cancelled=TaskResult()))
    assert play.run.failure is not None and play.run.failure.reason == "task_cancelled"
    assert play.run.tasks["sub-1"].child_run_id in play.run.failure.message
    assert play.finish() == "failed"


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
        [{"id": "c1"}],
        [{"id": "c2x1"}],
        [],
    ],
)
def test_a_plan_that_is_not_valid_fails_its_planner(tasks: list[dict[str, Any]]) -> None:
    play = Play(node("p", agent=agent(planning=PLANNING)))
    play.end("p-1", value=plan(*tasks))
    assert play.run.failure is not None and play.run.failure.reason == "plan_invalid"


def test_a_plan_that_no_entry_can_hold_fails_its_planner() -> None:
    wordy = Planning(roles=[Role(name="worker", prompt="x" * 64 * 1024)])
    play = Play(node("p", agent=agent(planning=wordy)))
    events = play.end("p-1", value=plan(*({"id": f"t{number}"} for number in range(100))))
    assert play.run.failure is not None and play.run.failure.reason == "plan_invalid"
    assert sum(event.ByteSize() for event in events) < ENTRY_BYTES_MAX


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


def test_a_child_run_that_cannot_be_paid_after_the_merge_waits_once_and_then_begins() -> None:
    inner = node("c", "a", "b", workflow=WorkflowNode(workflow=workflow(node("n"))))
    wait = OnExhausted.ON_EXHAUSTED_WAIT
    play = Play(
        node("a", agent=agent()), node("b", agent=agent()), inner, budget=Limit(usd_micros=90), on_exhausted=wait
    )
    play.claim("a-1", "b-1")
    for task_id, commit in (("a-1", "a" * 40), ("b-1", "b" * 40)):
        spent = TaskResult(commit=commit, spent=Amounts(usd_micros=45))
        play.do(EndTask(task_id=task_id, succeeded=spent))
    merged = EndTask(task_id="c-1", is_merge=True, succeeded=TaskResult(commit="c" * 40))
    assert kinds(play.do(merged)) == [TaskParked]
    assert (play.run.merging, play.run.parked, play.do(merged)) == ((), ("c-1",), [])
    play.do(RaiseRunBudget(by=Amounts(usd_micros=10)))
    assert play.run.merging == ("c-1",)
    assert ChildRunRequested in kinds(play.do(merged))


def test_a_parent_that_sends_the_work_back_stops_its_children_once() -> None:
    children = [Role(name="worker", prompt="work")]
    play = Play(node("lead", agent=agent(children=children)), edges=(edge("lead", "lead", visits_max=2),))
    play.claim("lead-1")
    play.do(spawn())
    play.claim("lead_c1-1")
    assert [e.task_id for e in of(play.end("lead-1"), TaskCancelRequested)] == ["lead_c1-1"]


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


def test_what_is_too_much_for_one_entry_goes_into_several() -> None:
    text = "x" * 50_000
    child = WorkflowNode(workflow=workflow(node("only")), input="{{ tasks.a.output }}{{ tasks.a.output }}")
    play = Play(node("a"), node("m", "a", map=MapNode(body=Node(workflow=child), times=100, at_once_max=100)))
    decisions = [play.end("a-1", text)]
    while run_deadlines.next_due_at(play.run) == 0:
        decisions.append(play.wait(0))
    sizes = [sum(event.ByteSize() for event in events) for events in decisions]
    assert len(sizes) > 5 and max(sizes) < 2 * run_begins.FOLLOWING_BYTES_MAX
    assert len(of(play.events, ChildRunRequested)) == 100


def test_children_and_what_is_planned_are_visits_of_the_run() -> None:
    play = lead(visits_max=2)
    play.do(spawn(1))
    with pytest.raises(WrongState, match="as many visits as its workflow allows"):
        play.do(spawn(2))
    play = Play(node("p", agent=agent(planning=PLANNING)), visits_max=2)
    play.end("p-1", value=plan({"id": "x"}, {"id": "y"}))
    assert play.run.failure is not None and "may have 1 visits more" in play.run.failure.message


def test_who_is_out_of_time_gets_no_children() -> None:
    play = Play(node("lead", agent=agent(children=[Role(name="worker", prompt="work")]), timeout_seconds=60))
    play.claim("lead-1")
    play.wait(61)
    with pytest.raises(WrongState, match="is being stopped"):
        play.do(spawn(1))


@pytest.mark.parametrize("end", [ClaimTask(task_id="m_0-1", executor_id="e"), CancelTask(task_id="m_0-1")])
def test_a_map_that_fails_for_good_stops_its_items_however_one_has_failed(end: Any) -> None:
    body = Node(agent=agent(prompt="{{ 10 / index }}"))
    play = Play(node("m", map=MapNode(body=body, times=3)))
    play.claim("m_1-1")
    play.do(end)
    assert play.ready == ()
    assert [event.task_id for event in of(play.events, TaskCancelRequested)][-2:] == ["m_1-1", "m_2-1"]
