"""Tables of the money of a run: allotments that grow and shrink, tasks that wait, and gates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.amounts import AMOUNT_MAX
from crewlog.domain.decider import fold
from crewlog.domain.errors import BudgetExceeded, Conflict, InvalidCommand, NotFound, Refused, WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Run, claimable, is_finishing
from crewlog.domain.run.view import view
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted
from crewlog.v1.node_pb2 import GateNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    AllotmentGrown,
    AllotmentShrunk,
    AnswerGate,
    CancelRun,
    CancelTask,
    ClaimTask,
    EndTask,
    ExpireGate,
    FinishRun,
    GateAnswered,
    GateExpired,
    GateOpened,
    GateStatus,
    GrowAllotment,
    LapseClaim,
    LowerRunBudget,
    Node,
    ParkCause,
    ParkTask,
    Question,
    RaiseRunBudget,
    RetryRun,
    Role,
    RunBudgetWarned,
    RunCancelled,
    RunLimitLowered,
    RunLimitRaised,
    ShrinkAllotment,
    SpawnChild,
    StartRun,
    TaskCancelled,
    TaskClaimed,
    TaskFailed,
    TaskFailure,
    TaskParked,
    TaskResult,
    TaskStatus,
    TaskUnparked,
    UnparkTask,
    Workflow,
)

from tests.domain.playing import Play, agent, node

ASK, WAIT = OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT
GATE = "a-1-1"


def start(on_exhausted: OnExhausted.ValueType = ASK, usd: int = 100, nodes: str = "ab") -> StartRun:
    role = AgentNode(role=Role(name="w", prompt="do it"))
    workflow = Workflow(name="wide", nodes=[Node(node_id=node, agent=role) for node in nodes])
    return StartRun(run_id="r", workflow=workflow, input="go", budget=Limit(usd_micros=usd), on_exhausted=on_exhausted)


def claim(task: str = "a-1", given: int = 0) -> ClaimTask:
    return ClaimTask(run_id="r", task_id=task, executor_id="e", given=Limit(usd_micros=given) if given else None)


def spent(usd: int) -> TaskResult:
    return TaskResult(spent=Amounts(usd_micros=usd), cost_usd_micros=usd)


def grow(usd: int, number: int = 1, generation: int = 1) -> GrowAllotment:
    return GrowAllotment(run_id="r", task_id="a-1", generation=generation, number=number, by=Amounts(usd_micros=usd))


def park(task: str = "a-1", budget_id: str = "run_r", so_far: int = 5, generation: int = 0) -> ParkTask:
    return ParkTask(run_id="r", task_id=task, budget_id=budget_id, so_far=spent(so_far), generation=generation)


def shrink(usd: int, request_id: str = "q") -> ShrinkAllotment:
    return ShrinkAllotment(run_id="r", task_id="a-1", by=Amounts(usd_micros=usd), request_id=request_id)


def raised(usd: int = 10, request_id: str = "") -> RaiseRunBudget:
    return RaiseRunBudget(run_id="r", by=Amounts(usd_micros=usd), request_id=request_id)


def lower(usd: int = 10, request_id: str = "") -> LowerRunBudget:
    return LowerRunBudget(run_id="r", by=Amounts(usd_micros=usd), request_id=request_id)


def answer(choice: str, usd: int = 10, gate_id: str = GATE) -> AnswerGate:
    return AnswerGate(run_id="r", gate_id=gate_id, choice=choice, by=Amounts(usd_micros=usd))


def end(task: str, usd: int) -> EndTask:
    return EndTask(run_id="r", task_id=task, succeeded=spent(usd))


def lapse(so_far: int, task: str = "a-1") -> LapseClaim:
    return LapseClaim(run_id="r", task_id=task, generation=1, so_far=spent(so_far))


EXPIRE, UNPARK = ExpireGate(run_id="r", gate_id=GATE), UnparkTask(run_id="r", task_id="a-1")
CANCEL, FINISH = CancelRun(run_id="r"), FinishRun(run_id="r", at_unix_micros=9)
ONE = (start(nodes="a"), claim(given=40))
PARKED = (*ONE, park())


def closed(task: str = "a-1", usd: int = 5) -> tuple[run.Command, run.Command]:
    """The scheduler has claimed a task that nobody holds, and ended its agent."""
    claimed = ClaimTask(run_id="r", task_id=task, executor_id="scheduler", to_close=True)
    return claimed, EndTask(run_id="r", task_id=task, cancelled=spent(usd))


OVER = (*PARKED, CANCEL, *closed(), FINISH)


def after(*commands: run.Command) -> Run:
    state = run.INITIAL
    for command in commands:
        state = fold(run, run.decide(state, command), state)
    return state


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        (ONE, grow(60), [AllotmentGrown]),
        (ONE, grow(61), BudgetExceeded),
        (ONE, grow(-1), InvalidCommand),
        (ONE, grow(10, generation=2), WrongState),
        ((*ONE, grow(10)), grow(10), []),
        ((*ONE, grow(10)), grow(10, number=2), [AllotmentGrown]),
        (PARKED, grow(10), WrongState),
        (ONE, shrink(10), [AllotmentShrunk]),
        ((*ONE, shrink(10)), shrink(10), []),
        ((*ONE, shrink(10)), shrink(10, "p"), [AllotmentShrunk]),
        (PARKED, shrink(10), []),
        (ONE, park(), [TaskParked, GateOpened]),
        (ONE, park(generation=1), [TaskParked, GateOpened]),
        ((start(WAIT), claim()), park(), [TaskParked]),
        (PARKED, park(), []),
        ((*PARKED, UNPARK, claim()), park(generation=1), []),
        ((*PARKED, UNPARK, claim()), park(generation=2), [TaskParked, GateOpened]),
        (PARKED, claim(), WrongState),
        (PARKED, UNPARK, [GateAnswered, TaskUnparked]),
        (ONE, UNPARK, []),
        (ONE, raised(), [RunLimitRaised]),
        (ONE, raised(0), InvalidCommand),
        (ONE, raised(AMOUNT_MAX), InvalidCommand),
        (PARKED, answer("raise", AMOUNT_MAX), InvalidCommand),
        (OVER, RetryRun(run_id="r", by=Amounts(usd_micros=AMOUNT_MAX)), InvalidCommand),
        (ONE, LowerRunBudget(run_id="r", by=Amounts(model_calls=1)), InvalidCommand),
        (ONE, RaiseRunBudget(run_id="r", by=Amounts(model_calls=1)), InvalidCommand),
        ((*ONE, raised(request_id="q")), raised(request_id="q"), []),
        ((*ONE, raised(request_id="q")), raised(request_id="p"), [RunLimitRaised]),
        (PARKED, raised(), [RunLimitRaised, GateAnswered, TaskUnparked]),
        ((*ONE, park(budget_id="tenant")), raised(), [RunLimitRaised]),
        (OVER, raised(), WrongState),
        (ONE, lower(), [RunLimitLowered]),
        (ONE, lower(80), [RunLimitLowered, AllotmentShrunk]),
        ((*ONE, end("a-1", 40)), lower(70), [RunLimitLowered, RunBudgetWarned]),
        (PARKED, answer("raise"), [GateAnswered, RunLimitRaised, TaskUnparked]),
        (PARKED, answer("raise", 0), InvalidCommand),
        (PARKED, answer("maybe"), InvalidCommand),
        (PARKED, answer("stop", gate_id="other"), NotFound),
        (PARKED, answer("stop"), [GateAnswered, TaskUnparked]),
        ((*PARKED, answer("stop")), answer("stop"), []),
        ((*PARKED, answer("stop")), answer("raise"), Conflict),
        ((*PARKED, answer("stop")), EXPIRE, []),
        (PARKED, EXPIRE, [GateExpired, TaskUnparked]),
        ((*PARKED, EXPIRE), answer("raise"), Conflict),
        ((*PARKED, EXPIRE), EXPIRE, []),
        ((*ONE, park(budget_id="tenant")), answer("raise"), [GateAnswered, TaskUnparked]),
        (OVER, answer("stop"), Conflict),
        (OVER, EXPIRE, []),
        ((*PARKED, CANCEL), FINISH, WrongState),
        ((*PARKED, CANCEL, *closed()), FINISH, [RunCancelled]),
        ((*ONE, lapse(7), CANCEL), FINISH, WrongState),
        ((*ONE, lapse(7), CANCEL, *closed()), FINISH, [RunCancelled]),
        ((start(nodes="a"), park(), CANCEL), FINISH, [TaskCancelled, GateExpired, RunCancelled]),
        (PARKED, FINISH, WrongState),
    ],
)
def test_decide(given: Sequence[run.Command], when: run.Command, then: object) -> None:
    state = after(*given)
    if isinstance(then, type) and issubclass(then, Refused):
        with pytest.raises(then):
            run.decide(state, when)
    else:
        assert [type(event) for event in run.decide(state, when)] == then


@pytest.mark.parametrize(
    ("on_exhausted", "then"),
    [
        (OnExhausted.ON_EXHAUSTED_UNSPECIFIED, [TaskFailed]),
        (OnExhausted.ON_EXHAUSTED_STOP, [TaskFailed]),
        (WAIT, [TaskParked]),
        (ASK, [TaskParked, GateOpened]),
    ],
)
def test_a_task_that_nothing_is_left_for(on_exhausted: OnExhausted.ValueType, then: object) -> None:
    state = after(start(on_exhausted), claim("b-1"), end("b-1", 100))
    assert [type(event) for event in run.decide(state, claim())] == then


def test_a_first_allotment_is_no_larger_than_the_share_or_what_was_given() -> None:
    assert after(start(), claim()).tasks["a-1"].allotment.usd_micros == 50
    assert after(start(), claim(given=40)).tasks["a-1"].allotment.usd_micros == 40
    assert after(start(), claim(given=60)).tasks["a-1"].allotment.usd_micros == 50


def test_what_waits_goes_on_in_the_order_in_which_it_began_to_wait() -> None:
    waiting: tuple[run.Command, ...] = (
        start(nodes="abc"),
        *(claim(f"{node}-1") for node in "abc"),
        park("c-1"),
        park("a-1"),
        park("b-1"),
    )
    unparked = [event for event in run.decide(after(*waiting), raised()) if isinstance(event, TaskUnparked)]
    assert [event.task_id for event in unparked] == ["c-1", "a-1", "b-1"]
    assert claimable(after(*waiting, raised())) == ("c", "a", "b")


@pytest.mark.parametrize("command", [answer("stop"), EXPIRE])
def test_a_task_that_gets_no_money_is_claimed_again_to_end(command: run.Command) -> None:
    events = run.decide(after(*PARKED, command), claim())
    assert isinstance(events[0], TaskClaimed) and events[0].has_to_stop and events[0].generation == 2


def test_a_task_that_has_not_begun_and_gets_no_money_fails() -> None:
    waits = after(start(nodes="ab"), claim("b-1"), end("b-1", 100), claim(), answer("stop"))
    assert [type(event) for event in run.decide(waits, claim())] == [TaskFailed]


def test_lowering_takes_from_each_the_same_part_of_what_it_holds() -> None:
    state = after(start(), claim(given=10), claim("b-1"), grow(0), lower(55))
    assert state.limit.usd_micros == 45
    assert state.allotted.usd_micros <= 45
    assert state.tasks["a-1"].allotment.usd_micros >= 4
    waits = after(start(), claim(), park(), claim("b-1"), lower(50))
    assert waits.allotted.usd_micros <= 50


def test_a_limit_is_never_lowered_away() -> None:
    state = after(*ONE, lower(1_000))
    assert (state.limit.usd_micros, state.tasks["a-1"].allotment.usd_micros) == (1, 1)


@pytest.mark.parametrize("stops", [(CANCEL,), (EndTask(run_id="r", task_id="b-1", failed=TaskFailure()),)])
@pytest.mark.parametrize("waits", [(park(so_far=5),), (lapse(5),), (park(so_far=5), UNPARK)])
def test_what_waits_when_the_run_stops_keeps_what_it_spent(
    stops: Sequence[run.Command], waits: Sequence[run.Command]
) -> None:
    commands = (start(), claim(), claim("b-1"), *waits, *stops, lapse(7, "b-1"))
    others = closed("b-1", 7) if stops == (CANCEL,) else ()
    state = after(*commands, *closed(), *others, FINISH)
    told = sum(task.result.spent.usd_micros for task in state.tasks.values() if task.result is not None)
    assert state.spent.usd_micros == told and state.tasks["a-1"].result == spent(5)
    assert state.allotted.usd_micros == 0
    assert state.tasks["a-1"].status == TaskStatus.TASK_STATUS_CANCELLED


def test_a_run_is_not_finished_while_a_task_waits_for_money() -> None:
    assert not is_finishing(after(*PARKED))
    assert not is_finishing(after(*PARKED, CANCEL))
    assert is_finishing(after(*PARKED, CANCEL, *closed()))


def test_warnings_come_once_and_again_after_a_raise() -> None:
    state = after(start(nodes="abc"), claim("a-1", 80), grow(50), end("a-1", 83))
    assert state.warned_percent == 80
    assert (
        after(
            start(nodes="a"),
            claim(),
            end("a-1", 83),
        ).warned_percent
        == 80
    )
    assert RunBudgetWarned not in [type(event) for event in run.decide(state, claim("b-1"))]
    assert after(start(nodes="ab"), claim(), end("a-1", 83), raised(100)).warned_percent < 80


def test_a_task_and_its_children_get_no_more_than_their_node_may_cost() -> None:
    worker = agent(children=[Role(name="worker", prompt="work")])
    play = Play(node("a", agent=worker, budget=Limit(usd_micros=100)), budget=Limit(usd_micros=1_000))
    play.claim("a-1")
    play.do(SpawnChild(task_id="a-1", generation=1, role="worker", prompt="help", share=Amounts(usd_micros=40)))
    assert run_money.below_cap(play.run, play.run.tasks["a-1"]).usd_micros == 0
    with pytest.raises(BudgetExceeded, match="may not cost so much"):
        play.do(GrowAllotment(task_id="a-1", generation=1, number=1, by=Amounts(usd_micros=1)))


STOPPED = EndTask(run_id="r", task_id="b-1", failed=TaskFailure())


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        (PARKED, (CancelTask(run_id="r", task_id="a-1"), *closed())),
        ((start(nodes="a"), park()), (CancelTask(run_id="r", task_id="a-1"),)),
        (PARKED, (CANCEL, *closed())),
        ((start(nodes="ab"), claim("b-1"), park()), (CANCEL, closed("b-1")[1], FINISH)),
        ((start(nodes="ab"), claim("b-1"), park()), (STOPPED, FINISH)),
        ((*ONE, park(budget_id="tenant")), (CancelTask(run_id="r", task_id="a-1"), *closed())),
    ],
)
def test_nobody_is_asked_for_money_that_no_task_waits_for(
    given: Sequence[run.Command], ends: Sequence[run.Command]
) -> None:
    """The gate is closed in the entry that ends the task, and not when its time is over."""
    waits = after(*given)
    before = after(*given, *ends[:-1])
    assert next(iter(before.gates.values())).status == GateStatus.GATE_STATUS_OPEN
    events = run.decide(before, ends[-1])
    [closing] = [event for event in events if isinstance(event, GateExpired)]
    assert (closing.gate_id, closing.needless_because) == (GATE, "a-1 has ended")
    ended = fold(run, events, before)
    assert [gate.status for gate in view(waits).gates] == [GateStatus.GATE_STATUS_OPEN]
    assert [gate.status for gate in view(ended).gates] == [GateStatus.GATE_STATUS_CLOSED]
    assert not ended.due
    with pytest.raises(Conflict):
        run.decide(ended, answer("raise"))


def test_of_several_questions_of_a_task_the_open_one_is_closed() -> None:
    again = after(*PARKED, answer("raise"), claim(), park(generation=2), CancelTask(run_id="r", task_id="a-1"))
    events = run.decide(fold(run, run.decide(again, closed()[0]), again), closed()[1])
    assert [event.gate_id for event in events if isinstance(event, GateExpired)] == ["a-1-2"]


def test_a_task_that_waits_for_money_closes_the_gate_when_its_time_is_over() -> None:
    play = Play(
        node("a", agent=agent(), timeout_seconds=60),
        budget=Limit(usd_micros=100),
        on_exhausted=ASK,
    )
    play.claim("a-1")
    play.do(park(generation=1))
    assert not [event for event in play.wait(61) if isinstance(event, GateExpired)]
    play.do(closed()[0])
    events = play.do(closed()[1])
    assert [event.needless_because for event in events if isinstance(event, GateExpired)] == ["a-1 has ended"]
    assert play.status("a-1") == "timed_out"


def test_a_person_is_not_asked_any_more_for_a_task_that_has_ended() -> None:
    """Also where it is not about money: a week later the log said that nobody had answered."""
    asked = ParkTask(task_id="a-1", generation=1, cause=ParkCause.PARK_CAUSE_QUESTION, question=Question(question="?"))
    play = Play(node("a", agent=agent()), node("ok", gate=GateNode(question="Go on?")), node("z", agent=agent()))
    play.claim("a-1", "z-1")
    play.do(asked)
    play.do(CancelTask(task_id="a-1"))
    play.do(closed()[0])
    for command, gone in ((closed()[1], "a-1"), (CancelTask(task_id="ok-1"), "ok-1")):
        [closing] = [event for event in play.do(command) if isinstance(event, GateExpired)]
        assert closing.needless_because == f"{gone} has ended"
    assert not play.run.due
    assert {gate.status for gate in view(play.run).gates} == {GateStatus.GATE_STATUS_CLOSED}


@pytest.mark.parametrize("command", [EXPIRE, answer("stop"), raised()])
def test_a_gate_that_was_answered_or_was_not_is_no_needless_one(command: run.Command) -> None:
    state = after(*PARKED, command, claim(), end("a-1", 5))
    [gate] = view(state).gates
    assert gate.status != GateStatus.GATE_STATUS_CLOSED
    assert gate.status != GateStatus.GATE_STATUS_EXPIRED or command == EXPIRE
