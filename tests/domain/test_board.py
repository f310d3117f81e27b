"""The board behind the live view: folds entries, and takes live deltas as hints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crewlog.cli import board
from crewlog.cli.board import Board, Row
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentTakenOver,
    EffectKey,
    ModelAnswer,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolUse,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts, Usage
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import (
    AgentNode,
    Node,
    Role,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskResult,
    TaskStatus,
    TaskSucceeded,
    Workflow,
)
from crewlog.v1.run_service_pb2 import LiveDelta

Record = Callable[..., RecordedEntry]
AGENT = "demo_implementer-1"
ASK = EffectKey(turn=1, index=-1, attempt=1)
CALL = EffectKey(turn=1, index=0, attempt=1)


def _node(name: str, *depends_on: str) -> Node:
    return Node(node_id=name, depends_on=depends_on, agent=AgentNode(role=Role(name=name)))


def _started(record: Record) -> RecordedEntry:
    nodes = [_node("implementer"), _node("tester", "implementer")]
    return record("run", "demo", RunStarted(run_id="demo", workflow=Workflow(name="w", nodes=nodes)))


def _after(*entries: RecordedEntry) -> Board:
    state = Board()
    for entry in entries:
        state = board.fold(state, entry)
    return state


@pytest.fixture
def asking(record: Record) -> Board:
    """The implementer has asked its model."""
    return _after(
        _started(record),
        record("run", "demo", TaskClaimed(task_id="implementer-1", node_id="implementer", visit=1, generation=1)),
        record("agent", AGENT, AgentStarted(node=_node("implementer").agent)),
        record("agent", AGENT, ModelCallStarted(key=ASK, model="m")),
    )


def _delta(text: str, offset: int, *, turn: int = 1, index: int = -1) -> LiveDelta:
    return LiveDelta(agent_id=AGENT, turn=turn, index=index, offset=offset, text=text)


def _row(state: Board) -> Row:
    return board.rows(state)[0]


def test_tasks_to_come_are_rows_too(record: Record) -> None:
    rows = board.rows(_after(_started(record)))
    assert [(row.task_id, row.status) for row in rows] == [
        ("implementer-1", TaskStatus.TASK_STATUS_READY),
        ("tester-1", TaskStatus.TASK_STATUS_WAITING),
    ]


def test_what_is_being_written_is_shown_as_it_grows(asking: Board) -> None:
    state = board.stream(board.stream(asking, _delta("I look ", 0)), _delta("first", 7))
    assert _row(state).doing == "I look first"


def test_a_gap_is_visible(asking: Board) -> None:
    assert _row(board.stream(asking, _delta("first", 7))).doing == "…first"


def test_the_outcome_replaces_what_was_streamed(asking: Board, record: Record) -> None:
    state = board.stream(asking, _delta("I look", 0))
    answer = ModelAnswer(usage=Usage(input_tokens=10, output_tokens=5), cost_usd_micros=700)
    use = ToolUse(tool="bash", input_json=Body(inline=b'{"command": "pytest"}'))
    state = board.fold(
        state,
        record("agent", AGENT, ModelCallSucceeded(key=ASK, answer=answer), ToolCallStarted(key=CALL, call=use)),
    )
    row = _row(state)
    assert (row.doing, row.tokens, row.cost_usd_micros) == ("bash pytest", 15, 700)
    assert board.spent_usd_micros(state) == 700
    late = board.stream(state, _delta("late", 6))
    assert late == state
    running = board.stream(state, _delta("1 passed", 0, index=0))
    assert _row(running).doing == "bash pytest … 1 passed"
    done = board.fold(running, record("agent", AGENT, ToolCallSucceeded(key=CALL)))
    assert _row(done).doing == ""


@pytest.mark.parametrize("delta", [_delta("x", 0, turn=2), _delta("x", 0, index=3), LiveDelta(agent_id="other")])
def test_a_delta_of_something_else_changes_nothing(asking: Board, delta: LiveDelta) -> None:
    assert board.stream(asking, delta) == asking


def test_a_take_over_forgets_what_was_in_flight(asking: Board, record: Record) -> None:
    state = board.fold(board.stream(asking, _delta("x", 0)), record("agent", AGENT, AgentTakenOver(generation=2)))
    assert _row(state).doing == ""


def test_the_end(asking: Board, record: Record) -> None:
    result = TaskResult(summary="fixed it", cost_usd_micros=900, spent=Amounts(usd_micros=900))
    state = board.fold(
        asking, record("run", "demo", TaskSucceeded(task_id="implementer-1", result=result), RunSucceeded())
    )
    assert board.is_over(state)
    assert _row(state).doing == "fixed it"
    assert board.spent_usd_micros(state) == 900
