"""What comes of a run does not depend on who was faster, where its workflow leaves nothing to chance.

Left out are joins that go on with the first, and ways back that overtake one another: there the order decides.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Task
from crewlog.domain.workflow.graph import Graph, map_of
from crewlog.domain.workflow.validation import violations_of
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import Edge, Join, JoinMode, JoinNode
from crewlog.v1.run_pb2 import ClaimTask, EndTask, MapNode, Node, NoopNode, TaskFailure, TaskResult, TaskStatus
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.domain.playing import Play, edge, node, workflow

NODES_MAX, ORDERS, STEPS_MAX = 9, 4, 2_000
OUTPUTS = ["", "again", "good"]
CONDITIONS = ["", "", 'task.output == "good"', 'task.output != "good"', 'task.outcome == "failed"']
STRICT = [JoinMode.JOIN_MODE_ALL, JoinMode.JOIN_MODE_QUORUM]


@dataclass(frozen=True)
class Told:
    """A workflow, and how each of its nodes ends whenever it is visited."""

    nodes: list[Node]
    edges: list[Edge]
    outputs: dict[str, str]
    failing: frozenset[str]


@dataclass(frozen=True)
class Came:
    """Of a run; of one that has failed only that: what else was done by then is a matter of time."""

    status: str
    nodes: tuple[tuple[str, str, frozenset[str]], ...] = ()


@st.composite
def stories(draw: st.DrawFn) -> Told:
    ids = [f"n{number}" for number in range(draw(st.integers(2, NODES_MAX)))]
    nodes = [draw(_node(node_id, ids[:number])) for number, node_id in enumerate(ids)]
    edges = [*draw(st.lists(_forward(ids), max_size=4)), *draw(_loops(ids))]
    outputs = {node_id: draw(st.sampled_from(OUTPUTS)) for node_id in ids}
    failing = draw(st.sets(st.sampled_from(ids), max_size=2))
    return Told(nodes, edges, outputs, frozenset(failing))


@st.composite
def _node(draw: st.DrawFn, node_id: str, before: Sequence[str]) -> Node:
    kinds: list[dict[str, Any]] = [
        {"noop": NoopNode()},
        {"join_files": JoinNode()},
        {"map": MapNode(body=Node(noop=NoopNode()), times=2)},
    ]
    depends_on = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
    return node(
        node_id,
        *depends_on,
        join=draw(st.sampled_from([None, None, Join(mode=draw(st.sampled_from(STRICT)))])),
        continue_on_failure=draw(st.booleans()),
        exclusive=draw(st.sampled_from([False, False, True])),
        **draw(st.sampled_from([kinds[0], *kinds])),
    )


@st.composite
def _forward(draw: st.DrawFn, ids: Sequence[str]) -> Edge:
    source, target = sorted(draw(st.lists(st.sampled_from(ids), min_size=2, max_size=2, unique=True)))
    outcomes = draw(st.sampled_from([(), (), ("failed",), ("succeeded", "failed")]))
    return edge(source, target, *outcomes, when=draw(st.sampled_from(CONDITIONS)))


@st.composite
def _loops(draw: st.DrawFn, ids: Sequence[str]) -> list[Edge]:
    pairs = draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=2, unique=True))
    return [_loop(draw(st.integers(2, 3)), *sorted(pair)) for pair in pairs]


def _loop(visits: int, first: str, last: str) -> Edge:
    return edge(last, first, when=f"task.visit < {visits}", visits_max=9)


def _is_left_to_chance(told: Told) -> bool:
    """Two ways back whose sources may be at work at once."""
    graph = Graph.of(workflow(*told.nodes, edges=tuple(told.edges)))
    sources = sorted({each for each, ways in graph.back.items() if ways})
    return any(later not in graph.descendants(first) for first, later in itertools.pairwise(sources))


@settings(max_examples=150, deadline=None)
@given(stories(), st.integers(0, 1_000_000))
def test_what_comes_of_a_run_does_not_depend_on_the_order(told: Told, seed: int) -> None:
    assume(not violations_of(workflow(*told.nodes, edges=tuple(told.edges))))
    assume(not _is_left_to_chance(told))
    came = {_played(told, seed + number) for number in range(ORDERS)}
    assert len(came) == 1


def _played(told: Told, seed: int) -> Came:
    chance, play = random.Random(seed), Play(*told.nodes, edges=tuple(told.edges))
    for _ in range(STEPS_MAX):
        if run_state.is_finishing(play.run):
            return _what_came(play, play.finish())
        play.do(chance.choice([*_moves(play, told)]))
    raise AssertionError(f"the run does not end: {play.run}")


def _moves(play: Play, told: Told) -> Iterator[ClaimTask | EndTask]:
    for node_id in run_state.claimable(play.run):
        yield ClaimTask(task_id=run_state.next_task(play.run, node_id).task_id, executor_id="e")
    for task in run_state.open_tasks(play.run):
        yield _end(play, told, task)


def _end(play: Play, told: Told, task: Task) -> EndTask:
    node_id = map_of(task.node_id) or task.node_id
    result = TaskResult(output=Body(inline=told.outputs[node_id].encode()))
    if run_state.is_stopping(play.run) or run_state.is_to_stop(task):
        return EndTask(task_id=task.task_id, cancelled=result)
    if node_id in told.failing:
        return EndTask(task_id=task.task_id, failed=TaskFailure(failure=Failure(reason="broken"), result=result))
    return EndTask(task_id=task.task_id, succeeded=result)


def _what_came(play: Play, status: str) -> Came:
    if status != "succeeded":
        return Came(status)
    tasks = {node_id: run_state.current(play.run, node_id) for node_id in play.run.graph.nodes}
    return Came(status, tuple((node_id, *_of(play, task)) for node_id, task in tasks.items()))


def _of(play: Play, task: Task | None) -> tuple[str, frozenset[str]]:
    assert task is not None
    before = frozenset(play.run.tasks[each].node_id for each in task.based_on)
    return TaskStatus.Name(task.status), before
