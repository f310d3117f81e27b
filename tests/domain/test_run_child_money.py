"""Child runs get more from their parents while there is some left, and never more than that."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.errors import WrongState
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import decider as run
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Run, Task, is_over
from crewlog.scheduler.child_runs import start_of
from crewlog.v1 import budget_pb2
from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AnswerGate,
    AskForAllotment,
    ClaimTask,
    EndTask,
    ExpireGate,
    FinishRun,
    FitRunLimit,
    GateAnswered,
    GateExpired,
    GateOpened,
    GateStatus,
    GrowAllotment,
    LowerRunBudget,
    MapNode,
    Node,
    ParkTask,
    RaiseRunBudget,
    RetryRun,
    RunLimitLowered,
    RunLimitRaised,
    StartRun,
    TaskFailure,
    TaskParked,
    TaskResult,
    TaskUnparked,
    Workflow,
    WorkflowNode,
)
from google.protobuf.message import Message

from tests.domain.families import LEAF, Family, agent

SEEDS = 150
PATHS = (
    "supplied",
    "GrowAllotment: AllotmentGrown",
    "GrowAllotment: GateAnswered",
    "FitRunLimit: RunLimitRaised",
    "FitRunLimit: RunLimitLowered",
    "FitRunLimit: AllotmentShrunk",
    "FitRunLimit: TaskUnparked",
    "AskForAllotment: GateOpened",
    "UnparkTask: TaskUnparked",
    "RetryRun: AllotmentShrunk",
)
ASK, STOP, WAIT = OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_STOP, OnExhausted.ON_EXHAUSTED_WAIT
CHUNK = Amounts(usd_micros=20)


def played(seed: int) -> Family:
    family = Family(seed)
    family.play()
    return family


def found(seeds: range) -> list[str]:
    """What is wrong, also with runs that do not come to their end."""
    families = [Family(seed) for seed in seeds]
    for family in families:
        with suppress(AssertionError):
            family.play()
    return [what for family in families for what in violations(family.log)]


def test_whatever_happens_child_runs_have_what_their_parents_gave() -> None:
    paths: Counter[str] = Counter()
    for seed in range(SEEDS):
        family = played(seed)
        assert list(violations(family.log)) == [], f"seed {seed}"
        for run_id, state in family.runs.items():
            assert is_over(state) and state.allotted == ZERO, f"seed {seed}: {run_id}"
        paths.update(family.paths)
    assert not [path for path in PATHS if not paths[path]], paths


def _raised_before_it_grows(parent: Run, task: Task, child: Run, at: int) -> FitRunLimit | None:
    command = FOLLOW(parent, task, child, at)
    if command is None and not is_over(child) and not task.changes and not child.followed:
        more = (task.allotment + CHUNK).limit()
        return FitRunLimit(run_id=child.started.run_id, allotment=more, number=1, request_id="early")
    return command


def _raised_again(state: Run, command: FitRunLimit) -> list[Message]:
    by = Amounts.of(command.allotment) - state.limit
    return [RunLimitRaised(by=by.at_least_zero().message(), number=command.number)]


FOLLOW = run_child_money.follow


@pytest.mark.parametrize(
    ("rule", "broken", "said"),
    [
        ("follow", _raised_before_it_grows, "of which 0 have been made"),
        ("_fit", _raised_again, "of its allotment again"),
    ],
)
def test_a_rule_that_is_broken_is_seen(monkeypatch: pytest.MonkeyPatch, rule: str, broken: Any, said: str) -> None:
    monkeypatch.setattr(f"crewlog.domain.run.child_money.{rule}", broken)
    assert any(said in what for what in found(range(10)))


# One parent, one child run


class Pair:
    """A run with a child run `sub`, which has one task, and as many others as share its money."""

    def __init__(self, on_exhausted: OnExhausted.ValueType = STOP, others: int = 1, **node: Any) -> None:
        nodes = [Node(node_id="sub", workflow=WorkflowNode(workflow=LEAF), **node)]
        nodes += [agent(f"other{number}") for number in range(others)]
        workflow = Workflow(name="w", nodes=nodes)
        self.parent, self.child = run.INITIAL, run.INITIAL
        budget = Limit(usd_micros=100)
        self.tell(StartRun(run_id="p", workflow=workflow, budget=budget, on_exhausted=on_exhausted, input="go"))
        task = self.parent.tasks["sub-1"]
        self.child_id = task.child_run_id
        self.tell(start_of(self.parent, task, self.child_id, 1))
        self.tell(ClaimTask(run_id=self.child_id, task_id="a-1", executor_id="e"))

    def tell(self, command: Any) -> list[Message]:
        command.at_unix_micros = command.at_unix_micros or 1
        is_child = command.run_id != "p"
        before = self.child if is_child else self.parent
        events = run.decide(before, command)
        after = run.fold_all(before, events)
        self.parent, self.child = (self.parent, after) if is_child else (after, self.child)
        return events

    def step(self) -> Any:
        return run_child_money.next_step((self.child, self.parent), CHUNK, 1)

    def go_on(self) -> list[type[Message]]:
        """Everything that the scheduler does now."""
        kinds: list[type[Message]] = []
        while (step := self.step()) is not None:
            kinds += [type(event) for event in self.tell(step[1])]
        return kinds

    def park(self, usd: int = 30) -> list[Message]:
        own, wanted = run_money.own_budget(self.child), budget_pb2.Amounts(usd_micros=usd)
        return self.tell(ParkTask(run_id=self.child_id, task_id="a-1", generation=1, budget_id=own, wanted=wanted))


def usd(amount: int) -> budget_pb2.Amounts:
    return budget_pb2.Amounts(usd_micros=amount)


@pytest.mark.parametrize("policy", [STOP, ASK, WAIT])
def test_what_waits_in_a_child_run_gets_more_from_its_parent(policy: OnExhausted.ValueType) -> None:
    pair = Pair(policy)
    assert [type(event) for event in pair.park()] == [TaskParked]
    assert pair.go_on() == [AllotmentGrown, RunLimitRaised, TaskUnparked]
    assert pair.child.limit == pair.parent.tasks["sub-1"].allotment == Amounts(usd_micros=80)
    assert pair.parent.allotted.usd_micros == 80


def test_it_grows_by_a_good_part_and_at_least_by_what_is_needed() -> None:
    little, much = Pair(), Pair()
    little.park(1)
    much.park(45)
    little.go_on()
    much.go_on()
    assert (little.child.limit.usd_micros, much.child.limit.usd_micros) == (70, 95)


def test_a_step_that_is_done_again_changes_nothing() -> None:
    pair = Pair()
    pair.park()
    grow = pair.step()[1]
    pair.tell(grow)
    follow = pair.step()[1]
    assert isinstance(grow, GrowAllotment) and isinstance(follow, FitRunLimit)
    pair.tell(follow)
    assert pair.tell(grow) == pair.tell(follow) == []
    assert follow.request_id == "p:sub-1:1" and follow.request_id in pair.child.requests


def test_whoever_leads_next_finishes_what_was_begun() -> None:
    pair = Pair()
    pair.park()
    pair.tell(pair.step()[1])
    assert pair.child.limit.usd_micros == 50 and pair.parent.allotted.usd_micros == 80
    assert pair.go_on() == [RunLimitRaised, TaskUnparked]


def test_what_a_child_run_did_not_use_returns_once() -> None:
    pair = Pair()
    pair.park()
    pair.go_on()
    pair.tell(EndTask(run_id="p", task_id="sub-1", succeeded=TaskResult(spent=usd(7))))
    assert pair.parent.allotted == ZERO and run_money.left(pair.parent).usd_micros == 93


def exhausted(policy: OnExhausted.ValueType, **node: Any) -> Pair:
    pair = Pair(policy, **node)
    pair.tell(ClaimTask(run_id="p", task_id="other0-1", executor_id="e"))
    pair.park()
    return pair


def test_where_nothing_is_left_the_policy_of_the_parent_says_what_happens() -> None:
    stopping, waiting, asking = exhausted(STOP), exhausted(WAIT), exhausted(ASK)
    assert stopping.go_on() == [TaskUnparked] and stopping.child.tasks["a-1"].has_to_stop
    assert waiting.go_on() == []
    assert asking.go_on() == [GateOpened] and asking.go_on() == []
    gate = asking.parent.gates["sub-1-1"].opened
    assert (gate.task_id, gate.budget_id, gate.wanted.usd_micros) == ("sub-1", "run_p", 30)
    assert not asking.child.gates


def answer(choice: str) -> AnswerGate:
    return AnswerGate(run_id="p", gate_id="sub-1-1", choice=choice, by=usd(40) if choice == "raise" else None)


def test_a_raise_goes_down_to_what_waits() -> None:
    pair = exhausted(ASK)
    pair.go_on()
    assert [type(event) for event in pair.tell(answer("raise"))] == [GateAnswered, RunLimitRaised]
    assert pair.go_on() == [AllotmentGrown, RunLimitRaised, TaskUnparked]


def test_a_gate_is_answered_by_what_it_asked_for() -> None:
    pair = exhausted(ASK)
    pair.go_on()
    pair.tell(EndTask(run_id="p", task_id="other0-1", succeeded=TaskResult(spent=usd(1))))
    assert pair.go_on() == [GateAnswered, AllotmentGrown, RunLimitRaised, TaskUnparked]


def test_a_gate_for_a_child_run_is_closed_when_that_ends() -> None:
    """It had what it needed from others of it, or was cancelled: nothing in it waits any more."""
    pair = exhausted(ASK)
    pair.go_on()
    events = pair.tell(EndTask(run_id="p", task_id="sub-1", succeeded=TaskResult(spent=usd(9))))
    closed = [event for event in events if isinstance(event, GateExpired)]
    assert [(event.gate_id, event.needless_because) for event in closed] == [("sub-1-1", "sub-1 has ended")]
    assert pair.parent.gates["sub-1-1"].status == GateStatus.GATE_STATUS_CLOSED
    assert not pair.parent.due


@pytest.mark.parametrize(
    ("command", "said"), [(answer("stop"), GateAnswered), (ExpireGate(run_id="p", gate_id="sub-1-1"), GateExpired)]
)
def test_who_is_refused_stops_and_is_not_asked_about_again(command: Any, said: type[Message]) -> None:
    pair = exhausted(ASK)
    pair.go_on()
    assert [type(event) for event in pair.tell(command)] == [said]
    assert pair.go_on() == [TaskUnparked] and pair.child.tasks["a-1"].has_to_stop
    assert pair.tell(AskForAllotment(run_id="p", task_id="sub-1", wanted=usd(1))) == []


def test_a_node_costs_no_more_than_it_may() -> None:
    pair = Pair(WAIT, budget=Limit(usd_micros=60))
    pair.park(10)
    pair.go_on()
    assert pair.child.limit.usd_micros == 60
    pair.tell(ClaimTask(run_id=pair.child_id, task_id="a-1", executor_id="e"))
    pair.tell(
        ParkTask(run_id=pair.child_id, task_id="a-1", generation=2, budget_id=f"run_{pair.child_id}", wanted=usd(9))
    )
    assert pair.go_on() == [TaskUnparked] and pair.child.tasks["a-1"].has_to_stop


def test_a_lower_limit_of_the_parent_goes_down_too() -> None:
    pair = Pair()
    pair.tell(LowerRunBudget(run_id="p", by=usd(70)))
    assert pair.go_on()[0] is RunLimitLowered
    assert pair.child.limit == pair.parent.tasks["sub-1"].allotment == Amounts(usd_micros=30)


@pytest.mark.parametrize("kind", [RaiseRunBudget, LowerRunBudget])
def test_nobody_else_changes_the_limit_of_a_child_run(kind: Any) -> None:
    pair = Pair()
    with pytest.raises(WrongState, match="is a part of that of run 'p'"):
        pair.tell(kind(run_id=pair.child_id, by=usd(1)))


def test_a_child_run_that_is_taken_up_again_has_what_nobody_else_has_spent() -> None:
    pair = Pair()
    failed = TaskFailure(result=TaskResult(spent=usd(30)))
    pair.tell(ClaimTask(run_id="p", task_id="other0-1", executor_id="e"))
    pair.tell(EndTask(run_id="p", task_id="sub-1", failed=failed))
    pair.tell(EndTask(run_id="p", task_id="other0-1", cancelled=TaskResult(spent=usd(65))))
    pair.parent = run.fold_all(pair.parent, run.decide(pair.parent, FINISH))
    pair.tell(RetryRun(run_id="p"))
    assert pair.parent.tasks["sub-1"].allotment.usd_micros == 35
    assert pair.parent.spent.usd_micros + pair.parent.allotted.usd_micros == 100


def test_unused_parts_help_the_one_of_ten_that_needs_more() -> None:
    body = Node(workflow=WorkflowNode(workflow=LEAF))
    workflow = Workflow(name="w", nodes=[Node(node_id="m", map=MapNode(body=body, times=10))])
    state = run.fold_all(run.INITIAL, run.decide(run.INITIAL, StartRun(run_id="p", workflow=workflow, budget=LIMIT)))
    for number in range(1, 10):
        end = EndTask(run_id="p", task_id=f"m_{number}-1", succeeded=TaskResult(spent=usd(10)))
        state = run.fold_all(state, run.decide(state, end))
    task = state.tasks["m_0-1"]
    child = run.fold_all(run.INITIAL, run.decide(run.INITIAL, start_of(state, task, task.child_run_id, 1)))
    step = run_child_money.supply((child, state), Amounts(usd_micros=700), CHUNK, 1)
    assert step is not None and step[0] == "p"
    events = run.decide(state, step[1])
    assert [type(event) for event in events] == [AllotmentGrown]


LIMIT = Limit(usd_micros=1_000)
FINISH = FinishRun(run_id="p")
