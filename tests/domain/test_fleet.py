"""What the scheduler concludes from the reports of executors."""

from __future__ import annotations

import pytest
from crewlog.runtime.limits import ANSWER_BYTES_MAX
from crewlog.scheduler.fleet import ORDER_BYTES_MAX, Fleet, Held, lost_tasks, stray_tasks
from crewlog.v1.body_pb2 import Body
from crewlog.v1.scheduler_pb2 import ChangedAllotment, ExecutorReport, Grant, RunningTask, Stop, TaskMessage

KEY = ("r", "t-1")


def fleet_with(*slots: int) -> Fleet:
    fleet = Fleet()
    for number, count in enumerate(slots):
        fleet.connect(f"e{number}_boot").slots = count
    return fleet


def report(*running: tuple[str, str, int], last_grant: int = 0) -> ExecutorReport:
    tasks = [RunningTask(run_id=run, task_id=task, generation=generation) for run, task, generation in running]
    return ExecutorReport(executor_id="e0_boot", running=tasks, last_grant=last_grant)


def test_the_executor_with_the_most_room_gets_the_task() -> None:
    fleet = fleet_with(1, 3)
    names = []
    for number in range(4):
        executor = fleet.reserve(("r", f"t-{number}"))
        assert executor is not None
        names.append(executor.name)
    assert sorted(names) == ["e0", "e1", "e1", "e1"]
    assert fleet.reserve(("r", "t-9")) is None
    assert fleet.free() == 0


def test_an_executor_that_is_not_connected_gets_nothing() -> None:
    fleet = fleet_with(5)
    fleet.executors["e0_boot"].connections = 0
    assert fleet.reserve(KEY) is None


@pytest.mark.parametrize(
    ("held", "told", "lost"),
    [
        (Held(generation=1, granted=7), report(("r", "t-1", 1), last_grant=7), False),
        (Held(generation=1, granted=7), report(last_grant=6), False),
        (Held(generation=1, granted=7), report(last_grant=7), True),
        (Held(generation=2, granted=7), report(("r", "t-1", 1), last_grant=7), True),
        (Held(generation=0), report(last_grant=7), False),
        (Held(generation=1, granted=0), report(), True),
    ],
    ids=[
        "at work",
        "not told yet",
        "told and absent",
        "an older generation",
        "reserved only",
        "of an earlier scheduler",
    ],
)
def test_a_task_is_lost_only_when_the_executor_was_told_of_it(held: Held, told: ExecutorReport, lost: bool) -> None:
    executor = fleet_with(3).executors["e0_boot"]
    executor.held[KEY] = held
    assert bool(lost_tasks(executor, told)) is lost


def test_what_was_told_on_an_older_stream_is_lost_where_it_is_not_worked_on() -> None:
    fleet = fleet_with(3)
    executor = fleet.executors["e0_boot"]
    fleet.grant(executor, Grant(run_id="r", task_id="t-1", generation=1, revision=7))
    assert executor.order().grants
    fleet.grant(executor, Grant(run_id="r", task_id="t-2", generation=1, revision=8))
    assert not lost_tasks(executor, report())
    fleet.connect("e0_boot")
    assert [key for key, _ in lost_tasks(executor, report())] == [("r", "t-1")]
    assert not lost_tasks(executor, report(("r", "t-1", 1)))
    assert [grant.task_id for grant in executor.order().grants] == ["t-2"]


def test_an_executor_is_told_to_stop_what_is_not_its_own() -> None:
    executor = fleet_with(3).executors["e0_boot"]
    executor.held[KEY] = Held(generation=2, granted=1)
    stops = list(stray_tasks(executor, report(("r", "t-1", 1), ("r", "t-2", 1), ("r", "t-1", 2))))
    assert [(stop.task_id, stop.generation) for stop in stops] == [("t-1", 1), ("t-2", 1)]


def test_the_end_of_an_old_claim_does_not_release_its_successor() -> None:
    fleet = fleet_with(3)
    fleet.hold("e0_boot", KEY, Held(generation=2), 0.0)
    fleet.release("e0_boot", KEY, generation=1)
    assert KEY in fleet.executors["e0_boot"].held
    fleet.release("e0_boot", KEY, generation=2)
    assert KEY not in fleet.executors["e0_boot"].held


def test_a_new_boot_names_the_older_ones() -> None:
    fleet = Fleet()
    old = fleet.connect("e0_first")
    fleet.connect("e1_first")
    new = fleet.connect("e0_second")
    assert fleet.older_boots(new) == [old]


def test_an_order_holds_what_waited_and_then_nothing() -> None:
    fleet = fleet_with(3)
    executor = fleet.executors["e0_boot"]
    fleet.grant(executor, Grant(run_id="r", task_id="t-1", generation=1, revision=4))
    assert executor.wanted.is_set()
    assert [grant.revision for grant in executor.order().grants] == [4]
    assert not executor.wanted.is_set()
    assert not executor.order().grants


@pytest.mark.parametrize("kind", ["grants", "messages"])
def test_an_order_is_never_larger_than_a_call_may_be(kind: str) -> None:
    """Long prompts and long conversations go into several, in their order, however many wait."""
    fleet = fleet_with(300)
    executor = fleet.executors["e0_boot"]
    for number in range(200):
        text = "x" * 500_000
        if kind == "grants":
            fleet.grant(executor, Grant(run_id="r", task_id=f"t-{number}", generation=1, prompt=text))
        else:
            fleet.say("e0_boot", TaskMessage(run_id="r", task_id=f"t-{number}", text=Body(inline=text.encode())))
    told: list[str] = []
    while executor.wanted.is_set():
        order = executor.order()
        assert order.ByteSize() < ANSWER_BYTES_MAX // 2
        told += [grant.task_id for grant in order.grants] + [message.task_id for message in order.messages]
    assert told == [f"t-{number}" for number in range(200)]


def test_nothing_overtakes_the_grant_that_it_is_about() -> None:
    fleet = fleet_with(3)
    executor = fleet.executors["e0_boot"]
    for number in range(2):
        fleet.grant(executor, Grant(run_id="r", task_id=f"t-{number}", generation=1, prompt="x" * ORDER_BYTES_MAX))
    fleet.stop("e0_boot", Stop(run_id="r", task_id="t-1", generation=1))
    fleet.change_allotment("e0_boot", ChangedAllotment(run_id="r", task_id="t-1", generation=1))
    first, second = executor.order(), executor.order()
    assert ([grant.task_id for grant in first.grants], len(first.stops), len(first.allotments)) == (["t-0"], 0, 0)
    assert ([grant.task_id for grant in second.grants], len(second.stops), len(second.allotments)) == (["t-1"], 1, 1)
    assert not executor.wanted.is_set()


def test_what_is_too_large_for_an_order_is_told_alone() -> None:
    fleet = fleet_with(3)
    executor = fleet.executors["e0_boot"]
    for number in range(2):
        fleet.grant(
            executor, Grant(run_id="r", task_id=f"t-{number}", generation=1, prompt="x" * (ORDER_BYTES_MAX + 1))
        )
    assert [len(executor.order().grants) for _ in range(3)] == [1, 1, 0]
