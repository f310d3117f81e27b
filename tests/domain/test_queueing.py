"""Who goes first, who is kept back by a limit, and that nobody who could go on is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from crewlog.domain.admission import WORDS, Key
from crewlog.domain.run import state as run_state
from crewlog.scheduler import queueing
from crewlog.v1.admission_pb2 import AdmissionDimension
from crewlog.v1.run_pb2 import Node
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.domain.giving_out import MINUTE, Office, agent, many, noop

TENANT = AdmissionDimension.ADMISSION_DIMENSION_TENANT
PROJECT = AdmissionDimension.ADMISSION_DIMENSION_PROJECT
WORKFLOW = AdmissionDimension.ADMISSION_DIMENSION_WORKFLOW
ROLE = AdmissionDimension.ADMISSION_DIMENSION_ROLE
MODEL = AdmissionDimension.ADMISSION_DIMENSION_MODEL
POOL = AdmissionDimension.ADMISSION_DIMENSION_POOL


def batch(runs: int, slots: int = 4) -> Office:
    """So many runs of low priority, of which as many are at work as there are slots."""
    office = Office()
    office.executor("e", slots)
    for number in range(runs):
        office.now += 1
        office.start(f"batch-{number}", many(2), priority=-10)
    return office


def test_an_interactive_run_starts_in_the_next_slot_that_gets_free() -> None:
    office = batch(1_000)
    office.start("mine", many(1), priority=10)
    assert len(office.begun) == 4
    office.end(*office.at_work()[0])
    assert office.begun[4:] == [("mine", "n0-1")]


def test_an_interactive_run_is_not_stuck_behind_one_with_a_thousand_tasks() -> None:
    office = Office()
    office.executor("e", 4)
    office.start("wide", many(1_000))
    office.now += 1
    office.start("mine", many(3))
    for _ in range(8):
        office.end(*office.at_work()[0])
    assert Counter(run_id for run_id, _ in office.begun[4:]) == {"wide": 5, "mine": 3}


def test_runs_of_the_same_priority_take_turns_longest_waiting_first() -> None:
    office = Office()
    office.executor("e", 1)
    for name in ("a", "b", "c"):
        office.start(name, many(3))
        office.now += 1
    for _ in range(6):
        office.now += 1
        office.end(*office.at_work()[0])
    assert [run_id for run_id, _ in office.begun[:7]] == ["a", "a", "b", "c", "a", "b", "c"]


def test_waiting_for_a_minute_counts_as_one_more() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("first", many(1), priority=10)
    office.start("older", many(1), priority=0)
    office.now += 3 * MINUTE + 1
    office.start("newer", many(1), priority=3)
    office.start("high", many(1), priority=4)
    for _ in range(3):
        office.end(*office.at_work()[0])
    assert [run_id for run_id, _ in office.begun] == ["first", "high", "older", "newer"]


def test_a_batch_run_is_not_starved_by_interactive_ones() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("begun", many(1), priority=10)
    office.start("batch", many(1), priority=-10)
    for number in range(40):
        office.now += MINUTE
        office.start(f"mine-{number}", many(1), priority=10)
        office.end(*office.at_work()[0])
    place = [run_id for run_id, _ in office.begun].index("batch")
    assert 20 <= place <= 23


def test_a_thousand_that_have_waited_for_long_let_the_interactive_one_through() -> None:
    office = batch(1_000)
    office.now += 60 * MINUTE
    office.start("mine", many(1), priority=10)
    for _ in range(2):
        office.end(*office.at_work()[0])
    assert ("mine", "n0-1") in office.begun[4:]
    assert any(run_id.startswith("batch") for run_id, _ in office.begun[4:])


def test_a_place_is_kept_for_who_was_called() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("begun", many(1))
    office.start("called", many(1), priority=5)
    office.fleet.release("e_boot", ("begun", "n0-1"), 1)
    assert office.dispatch.hungry() == ["called"]
    office.start("late", many(1), priority=-5)
    assert office.begun == [("begun", "n0-1")]
    office.look("called")
    assert office.begun[1:] == [("called", "n0-1")]


def test_a_place_is_not_kept_for_ever() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("begun", many(1))
    office.start("called", many(1))
    office.start("next", many(1))
    office.fleet.release("e_boot", ("begun", "n0-1"), 1)
    assert office.dispatch.hungry() == ["called"]
    assert office.dispatch.hungry() == []
    office.now += int(queueing.OFFER_SECONDS * 1e6) + 1
    assert office.dispatch.hungry() == ["next"]


def test_a_run_that_is_forgotten_keeps_nobody_waiting() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("begun", many(1))
    office.start("called", many(1))
    office.start("next", many(1))
    office.fleet.release("e_boot", ("begun", "n0-1"), 1)
    assert office.dispatch.hungry() == ["called"]
    office.dispatch.forget("called")
    assert office.dispatch.hungry() == ["next"]


def test_who_waits_for_labels_does_not_keep_others_waiting() -> None:
    office = Office()
    office.executor("e", 1)
    office.start("gpu", [noop("n0", "gpu")], priority=10)
    office.start("plain", many(1))
    assert office.begun == [("plain", "n0-1")]
    office.executor("g", 1, "gpu")
    assert office.begun[1:] == [("gpu", "n0-1")]


def test_who_needs_no_labels_goes_before_others_on_an_executor_that_has_them() -> None:
    office = Office()
    office.executor("g", 1, "gpu")
    office.start("begun", many(1))
    office.start("plain", many(1), priority=5)
    office.start("gpu", [noop("n0", "gpu")])
    office.end("begun", "n0-1")
    assert office.begun[1:] == [("plain", "n0-1")]


WORKERS: dict[AdmissionDimension.ValueType, tuple[Node, str]] = {
    TENANT: (noop("n0"), "local"),
    PROJECT: (noop("n0"), "p"),
    WORKFLOW: (noop("n0"), "w"),
    ROLE: (agent("n0", "tester"), "tester"),
    MODEL: (agent("n0", "tester", model="small"), "small"),
    POOL: (noop("n0", "gpu"), "gpu"),
}


@pytest.mark.parametrize("name", ["", "*"], ids=["its own", "of every other"])
@pytest.mark.parametrize("dimension", WORDS, ids=list(WORDS.values()))
def test_a_limit_holds(dimension: AdmissionDimension.ValueType, name: str) -> None:
    office = Office()
    office.executor("e", 8, "gpu")
    node, own_name = WORKERS[dimension]
    office.limit(dimension, name or own_name, 2)
    for number in range(5):
        office.start(f"r{number}", [node])
    assert len(office.at_work()) == 2
    while office.at_work():
        office.end(*office.at_work()[0])
        assert len(office.at_work()) <= 2
    assert len(office.begun) == 5


def test_who_is_kept_back_by_a_limit_keeps_nobody_else_back() -> None:
    office = Office()
    office.executor("e", 2)
    office.limit(ROLE, "tester", 1)
    for number in range(3):
        office.start(f"r{number}", [agent("n0", "tester")], priority=10)
    office.start("other", many(1), priority=-10)
    assert office.begun == [("r0", "n0-1"), ("other", "n0-1")]


def test_other_tasks_of_the_same_run_go_on() -> None:
    office = Office()
    office.executor("e", 8)
    office.limit(ROLE, "tester", 1)
    office.start("r", [agent("a", "tester"), agent("b", "tester"), agent("c", "writer"), noop("d")])
    assert {task_id for _, task_id in office.at_work()} == {"a-1", "c-1", "d-1"}


def test_turns_are_taken_under_a_limit_too() -> None:
    office = Office()
    office.executor("e", 8)
    office.limit(ROLE, "tester", 1)
    office.start("wide", many(1_000, "tester"))
    office.now += 1
    office.start("mine", many(1, "tester"))
    for _ in range(2):
        office.now += 1
        office.end(*office.at_work()[0])
    assert ("mine", "n0-1") in office.begun


def test_a_limit_that_is_lowered_holds_for_what_begins_from_then_on() -> None:
    office = Office()
    office.executor("e", 8)
    office.start("r", many(10))
    assert len(office.at_work()) == 8
    office.limit(TENANT, "local", 3)
    for left in (7, 6, 5, 4, 3, 3, 3, 2):
        office.end(*office.at_work()[0])
        assert len(office.at_work()) == left


def test_a_limit_that_is_raised_or_taken_away_lets_others_begin_at_once() -> None:
    office = Office()
    office.executor("e", 8)
    office.limit(TENANT, "local", 0)
    office.start("r", many(6))
    assert not office.begun
    office.limit(TENANT, "local", 2)
    assert len(office.begun) == 2
    office.limit(TENANT, "local", -1)
    assert len(office.begun) == 6


def test_holding_and_releasing_again_counts_once() -> None:
    office = Office()
    office.executor("e", 8)
    office.start("r", many(1))
    key, state = ("r", "n0-1"), office.runs["r"]
    for _ in range(2):
        office.fleet.hold("e_boot", key, office.fleet.claimed(state, state.tasks["n0-1"]), 0.0)
        office.dispatch.hold_open_tasks(state, 0.0)
    assert office.fleet.limits.at_work(Key(TENANT, "local")) == 1
    for _ in range(2):
        office.fleet.release("e_boot", key, 1)
    assert office.fleet.limits.at_work(Key(TENANT, "local")) == 0


def test_what_was_reserved_for_a_claim_that_was_not_made_is_free_again() -> None:
    office = Office()
    office.start("r", many(1))
    office.fleet.connect("e_boot").slots = 1
    assert len(office.dispatch.claims(office.runs["r"])) == 1
    office.fleet.connect("f_boot").slots = 9
    assert len(office.dispatch.claims(office.runs["r"])) == 1
    assert office.fleet.limits.at_work(Key(TENANT, "local")) == 1
    office.dispatch.forget("r")
    assert office.fleet.limits.at_work(Key(TENANT, "local")) == 0


def test_an_item_of_a_map_counts_as_what_is_made_for_it() -> None:
    office = Office()
    office.executor("e", 8)
    office.limit(ROLE, "tester", 2)
    each = Node(node_id="parts")
    each.map.times = 5
    each.map.body.CopyFrom(agent("", "tester"))
    office.start("r", [each])
    assert len(office.at_work()) == 2


def test_nothing_is_kept_of_runs_that_are_done_with() -> None:
    office = batch(50)
    while office.at_work():
        office.end(*office.at_work()[0])
    for run_id in office.runs:
        office.dispatch.forget(run_id)
    office.dispatch.hungry()
    queue, limits = office.dispatch.queue, office.fleet.limits
    assert not (queue._lanes or queue._members or queue._offers or queue._offered)
    assert not (limits._at_work or limits.freed or office.fleet.requirements._runs)


NAMES = {TENANT: ["local", "*"], PROJECT: ["p0", "p1", "*"], ROLE: ["r0", "r1", "*"], POOL: ["gpu", "*"]}
LIMIT = st.sampled_from(list(NAMES)).flatmap(
    lambda dimension: st.tuples(st.just(dimension), st.sampled_from(NAMES[dimension]), st.integers(-1, 3))
)
NODE = st.tuples(st.sampled_from(["", "r0", "r1"]), st.sampled_from([(), ("gpu",)]))
START = st.tuples(st.lists(NODE, min_size=1, max_size=5), st.integers(-10, 10), st.sampled_from(["p0", "p1"]))
STEP = st.one_of(
    LIMIT.map(lambda step: ("limit", step)),
    START.map(lambda step: ("start", step)),
    st.integers(0, 30).map(lambda step: ("end", step)),
    st.integers(0, 30).map(lambda step: ("cancel", step)),
    st.integers(1, 10).map(lambda step: ("time", step)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=50), st.booleans())
def test_no_limit_is_exceeded_and_nobody_waits_for_nothing(steps: list[tuple[str, Any]], last_first: bool) -> None:
    office = Office(last_first=last_first)
    office.executor("e", 3)
    office.executor("g", 2, "gpu")
    for what, how in steps:
        before, begun = office.counted(), len(office.begun)
        _take(office, what, how)
        assert all(office.fleet.limits.at_work(key) == count for key, count in office.counted().items())
        for key, count in office.counted().items():
            tasks_max = office.fleet.limits.tasks_max(key)
            assert tasks_max is None or count <= max(tasks_max, before[key])
        assert len(office.begun) - begun <= 5
        _nobody_waits_for_nothing(office)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_comes_and_goes_those_who_can_go_on(seed: int) -> None:
    """Long, and with few slots: runs wait for several things at once, which become free at once."""
    chance, office = random.Random(seed), Office(last_first=seed % 2 == 1)
    office.executor("e", 2)
    office.executor("g", 1, "gpu")
    for _ in range(200):
        what, how = _any_step(chance)
        _take(office, what, how)
        assert all(office.fleet.limits.at_work(key) == count for key, count in office.counted().items())
        _nobody_waits_for_nothing(office)


def _any_step(chance: random.Random) -> tuple[str, Any]:
    nodes = [(chance.choice(["", "a", "b"]), chance.choice([(), ("gpu",)])) for _ in range(chance.randint(1, 4))]
    steps: list[tuple[str, Any]] = [
        ("start", (nodes, chance.randint(-3, 3), chance.choice("pq"))),
        ("limit", (ROLE, chance.choice(["a", "b", "*"]), chance.choice([-1, 0, 1, 2]))),
        ("end", chance.randrange(100)),
        ("cancel", chance.randrange(100)),
        ("time", chance.randint(0, 5)),
    ]
    return chance.choices(steps, [3, 2, 4, 1, 2])[0]


def _node(node_id: str, role: str, labels: tuple[str, ...]) -> Node:
    return agent(node_id, role, *labels) if role else noop(node_id, *labels)


def _take(office: Office, what: str, how: Any) -> None:
    match what, how:
        case "limit", (dimension, name, tasks_max):
            office.limit(dimension, name, tasks_max)
        case "start", (nodes, priority, project):
            made = [_node(f"n{number}", *node) for number, node in enumerate(nodes)]
            office.start(f"run-{len(office.runs)}", made, priority, project=project)
        case "end", int(number) if office.at_work():
            office.end(*office.at_work()[number % len(office.at_work())])
        case "cancel", int(number) if office.runs:
            office.cancel(list(office.runs)[number % len(office.runs)])
        case "time", int(minutes):
            office.now += minutes * MINUTE


def _nobody_waits_for_nothing(office: Office) -> None:
    """Who could begin has begun."""
    for state in office.runs.values():
        for node_id in run_state.claimable(state):
            needs = office.fleet.requirements.of(state, node_id)
            assert office.fleet.limits.full(needs) is not None or not office.fleet.free(needs.labels)


def test_a_run_may_wait_for_a_slot_and_for_a_limit_that_are_free_at_once() -> None:
    """It has waited for both since the same moment: which of them comes first does not matter, but one does."""
    office = Office()
    office.executor("e", 1)
    office.limit(ROLE, "tester", 1)
    office.start("first", [agent("n0", "tester")])
    office.start("both", [agent("n0", "tester"), noop("n1")])
    office.end("first", "n0-1")
    (begun,) = office.at_work()
    office.end(*begun)
    assert len(office.begun) == 3 and office.at_work()
