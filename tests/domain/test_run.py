"""Tables of the run's rules, and random graphs that have to end."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from crewlog.domain.decider import fold
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, Refused, WrongState
from crewlog.domain.run import decider as run
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.domain.run.view import view
from crewlog.domain.workflow.graph import Graph
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts, Limit
from crewlog.v1.run_pb2 import (
    AgentNode,
    BackEdge,
    CancelRun,
    ClaimTask,
    EdgeTaken,
    EndTask,
    FinishRun,
    LapseClaim,
    Node,
    NoopNode,
    Role,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunStarted,
    RunStatus,
    RunSucceeded,
    StartRun,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskFailure,
    TaskResult,
    TaskStatus,
    TaskSucceeded,
    Workflow,
)
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = "0" * 40
AGAIN = "VERDICT: changes requested"


def agent_node(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, agent=AgentNode(role=Role(name=node_id, prompt="do it")))


def noop_node(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, noop=NoopNode())


CHAIN = Workflow(
    name="chain",
    nodes=[agent_node("write"), agent_node("test", "write"), agent_node("review", "test")],
    back_edges=[BackEdge(**{"from": "review", "to": "write", "output_contains": AGAIN, "visits_max": 2})],  # type: ignore[arg-type]
)


def start(workflow: Workflow = CHAIN, **changes: object) -> StartRun:
    fields: dict[str, object] = {"run_id": "r", "workflow": workflow, "input": "fix it", "base_commit": BASE, **changes}
    return StartRun(**fields)  # type: ignore[arg-type]


def claim(task: str, executor: str = "e1") -> ClaimTask:
    return ClaimTask(run_id="r", task_id=task, executor_id=executor)


def success(task: str, output: str = "", commit: str = "", cost: int = 0) -> EndTask:
    result = TaskResult(
        output=Body(inline=output.encode()), commit=commit, cost_usd_micros=cost, spent=Amounts(usd_micros=cost)
    )
    return EndTask(run_id="r", task_id=task, succeeded=result)


def failure(task: str) -> EndTask:
    return EndTask(run_id="r", task_id=task, failed=TaskFailure(failure=Failure(reason="model_refused")))


def lapse(task: str, generation: int) -> LapseClaim:
    return LapseClaim(run_id="r", task_id=task, generation=generation, reason="its executor is gone")


def closing(task: str) -> ClaimTask:
    return ClaimTask(run_id="r", task_id=task, executor_id="scheduler", to_close=True)


CANCEL = CancelRun(run_id="r", reason="enough")
FINISH = FinishRun(run_id="r")


def after(*commands: run.Command) -> Run:
    state = run.INITIAL
    for command in commands:
        state = fold(run, run.decide(state, command), state)
    return state


WRITING = (start(), claim("write-1"))
REVIEWING = (*WRITING, success("write-1"), claim("test-1"), success("test-1"), claim("review-1"))


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ((), claim("write-1"), NotFound),
        ((), start(), [RunStarted]),
        ((), start(run_id="not/a/name"), InvalidCommand),
        ((start(),), start(), []),
        ((start(),), start(base_commit="1" * 40, at_unix_micros=7), []),
        ((start(),), start(input="something else"), Conflict),
        ((start(),), claim("write-1"), [TaskClaimed]),
        ((start(),), claim("test-1"), WrongState),
        ((start(),), claim("write-2"), WrongState),
        ((start(),), claim("nothing-1"), NotFound),
        (WRITING, claim("write-1", "e2"), WrongState),
        (WRITING, lapse("write-1", 1), [TaskClaimLapsed]),
        (WRITING, lapse("write-1", 2), []),
        ((*WRITING, lapse("write-1", 1)), claim("write-1", "e2"), [TaskClaimed]),
        ((*WRITING, lapse("write-1", 1)), success("write-1"), [TaskSucceeded]),
        (WRITING, success("write-1"), [TaskSucceeded]),
        ((*WRITING, success("write-1")), success("write-1"), []),
        (WRITING, success("review-1"), NotFound),
        (WRITING, failure("write-1"), [TaskFailed]),
        (REVIEWING, success("review-1", "VERDICT: approved"), [TaskSucceeded]),
        (REVIEWING, success("review-1", AGAIN), [TaskSucceeded, EdgeTaken]),
        (WRITING, CANCEL, [RunCancelRequested]),
        ((*WRITING, CANCEL), CANCEL, []),
        ((*WRITING, CANCEL), lapse("write-1", 1), [TaskClaimLapsed]),
        ((*WRITING, CANCEL), closing("write-1"), WrongState),
        ((*WRITING, CANCEL, lapse("write-1", 1)), closing("write-1"), [TaskClaimed]),
        ((*WRITING, CANCEL, lapse("write-1", 1)), FINISH, WrongState),
        ((*WRITING, lapse("write-1", 1)), closing("write-1"), WrongState),
        ((*WRITING, CANCEL), FINISH, WrongState),
        ((start(), CANCEL), FINISH, [RunCancelled]),
        (WRITING, FINISH, WrongState),
        ((*WRITING, failure("write-1")), FINISH, [RunFailed]),
        ((*WRITING, failure("write-1"), FINISH), FINISH, []),
        ((*REVIEWING, success("review-1")), FINISH, [RunSucceeded]),
    ],
)
def test_decide(given: Sequence[run.Command], when: run.Command, then: object) -> None:
    state = after(*given)
    if isinstance(then, type):
        with pytest.raises(then):
            run.decide(state, when)
    else:
        assert [type(event) for event in run.decide(state, when)] == then


def test_a_dependent_task_becomes_ready_when_all_that_it_needs_is_done() -> None:
    diamond = Workflow(
        name="d", nodes=[noop_node("a"), noop_node("b", "a"), noop_node("c", "a"), noop_node("d", "b", "c")]
    )
    state = after(start(diamond), claim("a-1"), success("a-1"))
    assert run_state.claimable(state) == ("b", "c")
    state = after(
        start(diamond), claim("a-1"), success("a-1"), claim("b-1"), claim("c-1"), success("b-1"), success("c-1")
    )
    assert run_state.claimable(state) == ("d",)


def test_the_way_back_visits_everything_behind_it_again() -> None:
    back = (*REVIEWING, success("review-1", AGAIN, commit="1" * 40))
    state = after(*back)
    assert run_state.claimable(state) == ("write",)
    task = run_state.next_task(state, "write")
    assert (task.task_id, task.based_on) == ("write-2", ("review-1",))
    assert run_state.base_commits(state, task) == ("1" * 40,)
    state = after(*back, claim("write-2"), success("write-2"), claim("test-2"), success("test-2"))
    assert run_state.claimable(state) == ("review",)


def test_the_way_back_ends_with_a_failure_that_keeps_the_work() -> None:
    second = (claim("write-2"), success("write-2"), claim("test-2"), success("test-2", commit="2" * 40))
    state = after(*REVIEWING, success("review-1", AGAIN), *second, claim("review-2"), success("review-2", AGAIN))
    assert state.failure is not None and state.failure.reason == "visits_exhausted"
    assert run_state.is_finishing(state)
    assert run_state.tips(state) == ("2" * 40,)


def test_files_come_from_the_predecessor_and_the_last_commit_is_the_tip() -> None:
    state = after(*WRITING, success("write-1", commit="1" * 40), claim("test-1"))
    assert run_state.base_commits(state, state.tasks["test-1"]) == ("1" * 40,)
    state = after(*WRITING, success("write-1", commit="1" * 40), claim("test-1"), success("test-1", commit="2" * 40))
    assert run_state.tips(state) == ("2" * 40,)
    assert run_state.tips(after(start())) == ()


def test_a_claim_takes_its_allotment_and_the_end_returns_the_rest() -> None:
    limited = start(budget=Limit(usd_micros=1_000))
    state = after(limited, claim("write-1"))
    assert (state.allotted.usd_micros, state.tasks["write-1"].allotment.usd_micros) == (1_000, 1_000)
    state = after(limited, claim("write-1"), success("write-1", cost=400))
    assert (state.spent.usd_micros, state.allotted.usd_micros) == (400, 0)
    state = after(limited, claim("write-1"), success("write-1", cost=400), claim("test-1"))
    assert state.tasks["test-1"].allotment.usd_micros == 600


def test_tasks_that_are_ready_together_share_what_is_left() -> None:
    wide = Workflow(name="w", nodes=[agent_node("a"), agent_node("b"), agent_node("c")])
    state = after(start(wide, budget=Limit(usd_micros=100)), claim("a-1"), claim("b-1"), claim("c-1"))
    assert [task.allotment.usd_micros for task in state.tasks.values()] == [
        33,
        33,
        34,
    ] or state.allotted.usd_micros == 100
    assert state.allotted.usd_micros <= 100


def test_a_task_that_cannot_be_paid_fails_instead_of_being_claimed() -> None:
    state = after(start(budget=Limit(usd_micros=100)), claim("write-1"), success("write-1", cost=100))
    events = run.decide(state, claim("test-1"))
    assert [type(event) for event in events] == [TaskFailed]
    failed = fold(run, events, state)
    assert failed.failure is not None and failed.failure.reason == "budget_exhausted"
    assert run_state.is_finishing(failed)


def test_a_lapsed_claim_keeps_its_allotment_and_raises_the_generation() -> None:
    limited = start(budget=Limit(usd_micros=1_000))
    state = after(limited, claim("write-1"), lapse("write-1", 1), claim("write-1", "e2"))
    task = state.tasks["write-1"]
    assert (task.generation, task.executor_id, state.allotted.usd_micros) == (2, "e2", 1_000)


def test_claims_are_not_repeated_for_ever() -> None:
    commands: list[run.Command] = [start()]
    for generation in range(1, run_state.CLAIMS_MAX + 1):
        commands += [claim("write-1"), lapse("write-1", generation)]
    state = after(*commands)
    assert isinstance(_refusal(state, claim("write-1")), WrongState)
    assert [task.task_id for task in run_state.closable(state)] == ["write-1"]
    state = after(*commands, closing("write-1"), failure("write-1"))
    assert run_state.is_finishing(state) and state.failure is not None


def test_nothing_more_is_claimed_once_a_task_has_failed() -> None:
    wide = Workflow(name="w", nodes=[noop_node("a"), noop_node("b")])
    state = after(start(wide), claim("a-1"), failure("a-1"))
    assert run_state.claimable(state) == ()
    assert isinstance(_refusal(state, claim("b-1")), WrongState)


def test_the_view_lists_what_was_done_and_what_is_to_come() -> None:
    shown = view(after(*WRITING, success("write-1", cost=5)), revision=9)
    assert [(task.task_id, task.status) for task in shown.tasks] == [
        ("write-1", TaskStatus.TASK_STATUS_SUCCEEDED),
        ("test-1", TaskStatus.TASK_STATUS_READY),
        ("review-1", TaskStatus.TASK_STATUS_WAITING),
    ]
    assert (shown.spent_usd_micros, shown.revision, shown.status) == (5, 9, RunStatus.RUN_STATUS_RUNNING)


def _refusal(state: Run, command: run.Command) -> Refused:
    with pytest.raises(Refused) as refused:
        run.decide(state, command)
    return refused.value


@st.composite
def graphs(draw: st.DrawFn) -> Workflow:
    """Nodes that depend on earlier ones, and at most two ways back, each from a node of its own."""
    size = draw(st.integers(1, 8))
    names = [f"n{number}" for number in range(size)]
    nodes = [
        noop_node(
            name, *draw(st.lists(st.sampled_from(names[:number]), unique=True, max_size=3) if number else st.just([]))
        )
        for number, name in enumerate(names)
    ]
    workflow = Workflow(name="random", nodes=nodes)
    graph = Graph.of(workflow)
    pairs = [(a, b) for b in names for a in [b, *sorted(graph.descendants(b))]]
    for source, target in draw(st.lists(st.sampled_from(pairs), max_size=2, unique_by=lambda pair: pair[0])):
        edge = {"from": source, "to": target, "output_contains": AGAIN, "visits_max": draw(st.integers(1, 3))}
        workflow.back_edges.append(BackEdge(**edge))  # type: ignore[arg-type]
    return workflow


@given(workflow=graphs(), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_random_graphs_end_and_no_task_starts_before_its_dependencies(workflow: Workflow, seed: int) -> None:
    chance = random.Random(seed)
    events: list[Message] = list(run.decide(run.INITIAL, start(workflow)))
    state = fold(run, events)
    for _ in range(10_000):
        if run_state.is_finishing(state):
            break
        command = _anything_possible(state, chance)
        _check_dependencies(state, command)
        new = run.decide(state, command)
        events += new
        state = fold(run, new, state)
        assert state.allotted.usd_micros == 0
    state = fold(run, run.decide(state, FINISH), state)
    assert run_state.is_over(state)
    for cut in range(0, len(events), 7):
        assert view(fold(run, events[cut:], fold(run, events[:cut]))) == view(fold(run, events))


def _anything_possible(state: Run, chance: random.Random) -> run.Command:
    open_tasks = run_state.open_tasks(state)
    ready = run_state.claimable(state)
    if ready and (not open_tasks or chance.random() < 0.5):
        return claim(run_state.next_task(state, chance.choice(ready)).task_id)
    closable = run_state.closable(state)
    if closable and (not open_tasks or chance.random() < 0.5):
        return closing(chance.choice(closable).task_id)
    task = chance.choice(open_tasks)
    roll = chance.random()
    if roll < 0.1:
        return lapse(task.task_id, task.generation)
    return success(task.task_id, AGAIN if roll < 0.4 else "fine") if roll < 0.97 else failure(task.task_id)


def _check_dependencies(state: Run, command: run.Command) -> None:
    if isinstance(command, ClaimTask) and not command.to_close:
        task = run_state.next_task(state, command.task_id.rpartition("-")[0])
        for other in state.graph.nodes[task.node_id].depends_on:
            done = [t for t in state.tasks.values() if t.node_id == other]
            assert any(t.status == TaskStatus.TASK_STATUS_SUCCEEDED for t in done)
