"""What a task waits for, in words: one row for each reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.waiting import Resources, longest, tasks_of
from crewlog.v1.admission_pb2 import AdmissionDimension
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.node_pb2 import GateNode, JoinNode, RetryPolicy, WaitNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    CancelRun,
    EndTask,
    GateKind,
    MapNode,
    Node,
    NoopNode,
    ParkCause,
    ParkTask,
    PauseRun,
    Question,
    Role,
    SpawnChild,
    TaskFailure,
    TaskResult,
    Workflow,
    WorkflowNode,
)
from crewlog.v1.waiting_pb2 import WaitingReason, WaitingTask

from tests.domain.giving_out import MINUTE, Office, agent, many, noop

ROLE = AdmissionDimension.ADMISSION_DIMENSION_ROLE


def waiting(office: Office, run_id: str = "r", *, with_dependencies: bool = True) -> dict[str, WaitingTask]:
    resources = Resources(office.dispatch, Allotments(lambda: office.now))
    found = tasks_of(office.runs[run_id], resources, with_dependencies=with_dependencies)
    return {task.task_id: task for task in found}


def of_one(*nodes: Node, slots: int = 8) -> Office:
    office = Office()
    office.executor("e", slots)
    office.start("r", nodes)
    return office


def dependent() -> Office:
    return of_one(noop("n0"), noop("n1"), Node(node_id="n2", depends_on=["n0", "n1"], noop=NoopNode()))


def no_executor() -> Office:
    office = Office()
    office.start("r", many(1))
    return office


def kept_back() -> Office:
    office = Office()
    office.executor("e", 8)
    office.limit(ROLE, "tester", 1)
    office.start("r", many(2, "tester"))
    return office


def room_again() -> Office:
    """There is room under the limit, and somebody else was faster at the executor."""
    office = Office()
    office.executor("e", 1)
    office.limit(ROLE, "tester", 1)
    office.start("first", many(1, "tester"))
    office.start("r", many(1, "tester"))
    office.start("urgent", many(1), priority=50)
    office.end("first", "n0-1")
    return office


def taken() -> Office:
    office = Office()
    office.executor("g", 1, "gpu")
    office.start("begun", [noop("n0", "gpu")])
    office.start("first", [noop("n0", "gpu")])
    office.start("r", [noop("n0", "gpu")])
    return office


def parked(cause: ParkCause.ValueType, budget_id: str = "", question: Question | None = None) -> Office:
    office = of_one(agent("n0", "tester"))
    park = ParkTask(run_id="r", task_id="n0-1", cause=cause, budget_id=budget_id, question=question, at_unix_micros=1)
    office.do("r", park)
    return office


def asked() -> Office:
    question = Question(turn=1, kind=GateKind.GATE_KIND_QUESTION, question="Which one?", choices=["a", "b"])
    return parked(ParkCause.PARK_CAUSE_QUESTION, question=question)


def paused() -> Office:
    office = Office()
    office.start("r", many(1))
    office.do("r", PauseRun(run_id="r", reason="lunch", at_unix_micros=office.now))
    return office


def tried_again() -> Office:
    retry = RetryPolicy(attempts_max=2, back_off_seconds=30)
    office = of_one(Node(node_id="n0", noop=NoopNode(), retry=retry))
    failure = TaskFailure(failure=Failure(reason="it broke", message="it broke"))
    office.do("r", EndTask(run_id="r", task_id="n0-1", failed=failure, at_unix_micros=office.now))
    return office


def mapped() -> Office:
    body = agent("", "tester")
    return of_one(Node(node_id="parts", map=MapNode(body=body, times=9, at_once_max=4)), slots=2)


def merging() -> Office:
    office = of_one(noop("a"), noop("b"), Node(node_id="both", depends_on=["a", "b"], join_files=JoinNode()))
    for node_id in ("a", "b"):
        result = TaskResult(commit=node_id * 40)
        office.do("r", EndTask(run_id="r", task_id=f"{node_id}-1", succeeded=result, at_unix_micros=office.now))
    return office


def with_children() -> Office:
    role = Role(name="lead", prompt="lead")
    node = AgentNode(role=role, children=[Role(name="helper", prompt="help")], children_max=3)
    office = of_one(Node(node_id="lead", agent=node))
    for index in range(2):
        spawn = SpawnChild(
            run_id="r", task_id="lead-1", generation=1, turn=1, index=index, role="helper", prompt="help"
        )
        office.do("r", spawn)
    office.do("r", ParkTask(run_id="r", task_id="lead-1", cause=ParkCause.PARK_CAUSE_CHILDREN, at_unix_micros=1))
    return office


REASONS: list[tuple[Callable[[], Office], str, str, str]] = [
    (dependent, "n2-1", "DEPENDENCIES", "waits for n0, n1"),
    (taken, "n0-1", "EXECUTOR", "all 1 slots of executors with the labels gpu are taken"),
    (no_executor, "n0-1", "NO_EXECUTOR", "there is no executor"),
    (lambda: of_one(noop("n0", "gpu", "big")), "n0-1", "NO_EXECUTOR", "no executor has the labels big, gpu"),
    (kept_back, "n1-1", "LIMIT", "role=tester: 1 of 1 at work"),
    (room_again, "n0-1", "EXECUTOR", "all 1 slots of executors are taken"),
    (lambda: parked(ParkCause.PARK_CAUSE_BUDGET, "tenant"), "n0-1", "BUDGET", "budget tenant has no room for it"),
    (asked, "n0-1", "GATE", "gate n0-1-1: Which one?"),
    (lambda: of_one(Node(node_id="n0", gate=GateNode(question="Ship it?\nNow?"))), "n0-1", "GATE", "Ship it?"),
    (lambda: of_one(Node(node_id="n0", wait=WaitNode(seconds=60))), "n0-1", "TIME", "its time has not come"),
    (tried_again, "n0-2", "TIME", "it has failed, and is tried again"),
    (lambda: of_one(Node(node_id="n0", wait=WaitNode(signal="go"))), "n0-1", "SIGNAL", "the signal go"),
    (mapped, "parts-1", "CHILDREN", "0 of 9 items have ended"),
    (mapped, "parts_4-1", "MAP", "parts: 4 of 4 items at once; 4 more wait behind it"),
    (mapped, "parts_3-1", "EXECUTOR", "all 2 slots of executors are taken"),
    (with_children, "lead-1", "CHILDREN", "0 of 2 children have ended"),
    (paused, "n0-1", "PAUSED", "the run is paused: lunch"),
    (merging, "both-1", "MERGE", "the files of the tasks before it are being merged"),
]


@pytest.mark.parametrize(("office", "task_id", "reason", "why"), REASONS, ids=[f"{r[2]} {r[3][:20]}" for r in REASONS])
def test_it_is_said_what_a_task_waits_for(office: Callable[[], Office], task_id: str, reason: str, why: str) -> None:
    task = waiting(office())[task_id]
    assert WaitingReason.Name(task.reason) == f"WAITING_REASON_{reason}"
    assert task.why == why or task.why.endswith(f": {why}")
    assert task.since_unix_micros >= MINUTE or reason in ("GATE", "BUDGET", "CHILDREN")


def test_a_child_run_is_named() -> None:
    child = WorkflowNode(workflow=Workflow(name="child", nodes=many(1)))
    office = of_one(Node(node_id="n0", workflow=child))
    task = waiting(office)["n0-1"]
    assert task.reason == WaitingReason.WAITING_REASON_CHILDREN
    assert office.runs["r"].tasks["n0-1"].child_run_id in task.why


def test_it_is_said_when_a_task_goes_on_by_itself() -> None:
    office = of_one(Node(node_id="n0", wait=WaitNode(seconds=60)))
    assert waiting(office)["n0-1"].due_at_unix_micros == office.now + 60_000_000
    office = tried_again()
    assert waiting(office)["n0-2"].due_at_unix_micros == office.now + 30_000_000


def test_it_is_said_how_many_runs_come_before_it() -> None:
    office = taken()
    assert waiting(office, "r")["n0-1"].ahead == 1
    assert waiting(office, "first")["n0-1"].ahead == 0


def test_what_is_at_work_or_over_waits_for_nothing() -> None:
    office = of_one(noop("n0"))
    assert not waiting(office)
    office.end("r", "n0-1")
    assert not waiting(office)


def test_a_run_that_is_being_stopped_waits_for_nothing() -> None:
    office = dependent()
    office.do("r", CancelRun(run_id="r"))
    assert not waiting(office)


def test_of_all_runs_those_are_left_out_that_wait_for_their_own() -> None:
    assert not waiting(dependent(), with_dependencies=False)


def test_the_longest_waiting_come_first_and_are_so_many() -> None:
    tasks = [WaitingTask(run_id=run_id, since_unix_micros=since) for run_id, since in (("a", 3), ("b", 1), ("c", 2))]
    assert [task.run_id for task in longest(tasks, 2)] == ["b", "c"]


def test_every_reason_has_a_row() -> None:
    named = {f"WAITING_REASON_{reason}" for _, _, reason, _ in REASONS}
    assert named == set(WaitingReason.keys()) - {"WAITING_REASON_UNSPECIFIED"}
