"""The board behind the live view: folds entries, and takes live deltas as hints."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from crewlog.cli import board, live
from crewlog.cli.board import Board, Row
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentTakenOver,
    EffectKey,
    EffectPutInDoubt,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolUse,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts, Usage
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.node_pb2 import GateNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    GateKind,
    GateOpened,
    Handling,
    MapExpanded,
    MapNode,
    Node,
    NoopNode,
    ParkCause,
    Role,
    RunPaused,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskFailed,
    TaskParked,
    TaskResult,
    TaskSkipped,
    TaskStatus,
    TaskSucceeded,
    Workflow,
)
from crewlog.v1.run_service_pb2 import LiveDelta
from rich.console import Console

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


def _delta(text: str, offset: int, *, turn: int = 1, index: int = -1, attempt: int = 1) -> LiveDelta:
    return LiveDelta(agent_id=AGENT, turn=turn, index=index, attempt=attempt, offset=offset, text=text)


def _withdrawal(*, index: int = -1, attempt: int = 1) -> LiveDelta:
    return LiveDelta(agent_id=AGENT, turn=1, index=index, attempt=attempt, withdrawn=True)


def _drawn(state: Board) -> str:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(live.screen(state, 30, 0))
    return captured.get()


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
    taken_over = record("agent", AGENT, AgentTakenOver(generation=2), EffectPutInDoubt(key=ASK))
    assert _row(board.fold(board.stream(asking, _delta("x", 0)), taken_over)).doing == ""


def test_a_tool_call_that_runs_again_is_shown_again(asking: Board, record: Record) -> None:
    use = ToolUse(tool="read", input_json=Body(inline=b'{"path": "a"}'))
    state = board.fold(asking, record("agent", AGENT, ModelCallSucceeded(key=ASK), ToolCallStarted(key=CALL, call=use)))
    state = board.fold(state, record("agent", AGENT, AgentTakenOver(generation=2), EffectPutInDoubt(key=CALL)))
    assert _row(state).doing == "read a"
    assert board.stream(state, _delta("zombie", 0, index=0)) == state
    assert _row(board.stream(state, _delta("again", 0, index=0, attempt=2))).doing == "read a … again"


def test_what_a_dead_attempt_has_written_is_withdrawn(asking: Board) -> None:
    state = board.stream(asking, _delta("I look", 0))
    assert board.shown_of(state, _withdrawal()) == "I look"
    withdrawn = board.stream(state, _withdrawal())
    assert _row(withdrawn).doing == "waits for the model"
    assert board.shown_of(withdrawn, _withdrawal()) == ""
    assert board.stream(withdrawn, _delta(" first", 6)) == withdrawn
    assert _row(board.stream(withdrawn, _delta("Again", 0, attempt=2))).doing == "Again"


def test_a_late_withdrawal_takes_nothing_from_the_attempt_after_it(asking: Board, record: Record) -> None:
    second = EffectKey(turn=1, index=-1, attempt=2)
    state = board.fold(asking, record("agent", AGENT, ModelCallFailed(key=ASK), ModelCallStarted(key=second)))
    state = board.stream(state, _delta("Again", 0, attempt=2))
    assert board.stream(state, _withdrawal()) == state
    assert board.shown_of(state, _withdrawal()) == ""


def test_a_parked_task_says_what_it_waits_for(asking: Board, record: Record) -> None:
    parked = TaskParked(task_id="implementer-1", node_id="implementer", visit=1, cause=ParkCause.PARK_CAUSE_QUESTION)
    gate = GateOpened(gate_id="g", task_id="implementer-1", kind=GateKind.GATE_KIND_QUESTION, question="Tabs?")
    state = board.fold(asking, record("run", "demo", parked, gate))
    assert _row(state).doing == "asks: Tabs?"
    assert [gate.gate_id for gate in board.open_gates(state)] == ["g"]


def test_money_of_a_task_that_was_let_go_of_is_not_forgotten(asking: Board, record: Record) -> None:
    answered = record("agent", AGENT, ModelCallSucceeded(key=ASK, answer=ModelAnswer(cost_usd_micros=700)))
    parked = TaskParked(task_id="implementer-1", node_id="implementer", visit=1, cause=ParkCause.PARK_CAUSE_PAUSED)
    state = board.fold(board.fold(asking, answered), record("run", "demo", parked))
    assert board.spent_usd_micros(state) == 700


def test_a_pause_is_on_the_screen_with_the_gates(asking: Board, record: Record) -> None:
    parked = TaskParked(task_id="implementer-1", node_id="implementer", visit=1, cause=ParkCause.PARK_CAUSE_PAUSED)
    state = board.fold(asking, record("run", "demo", RunPaused(by="local", reason="lunch"), parked))
    assert _row(state).doing == "paused: waits until its run is resumed"
    shown = _drawn(state)
    assert "paused by local: lunch" in shown
    assert "demo  paused" in shown


def test_an_open_gate_is_on_the_screen(asking: Board, record: Record) -> None:
    parked = TaskParked(task_id="implementer-1", node_id="implementer", visit=1, cause=ParkCause.PARK_CAUSE_QUESTION)
    gate = GateOpened(gate_id="g", task_id="implementer-1", question="Tabs\x1b[2J?")
    assert "gate g asks: Tabs\\x1b[2J?" in _drawn(board.fold(asking, record("run", "demo", parked, gate)))


def test_the_end(asking: Board, record: Record) -> None:
    result = TaskResult(summary="fixed it", cost_usd_micros=900, spent=Amounts(usd_micros=900))
    state = board.fold(
        asking, record("run", "demo", TaskSucceeded(task_id="implementer-1", result=result), RunSucceeded())
    )
    assert board.is_over(state)
    assert _row(state).doing == "fixed it"
    assert board.spent_usd_micros(state) == 900


@pytest.fixture
def graph(record: Record) -> Board:
    """A map of 1,000 items, of which one is done, one has failed, and one is at work, beside a gate."""
    nodes = [
        Node(node_id="parts", map=MapNode(body=_node("part"), times=1_000, failures_max=5)),
        Node(node_id="ask", gate=GateNode(question="Go on?")),
        Node(node_id="other", noop=NoopNode(), depends_on=["ask"]),
    ]
    expanded = MapExpanded(task_id="parts-1", node_id="parts", visit=1, items=1_000, at_once_max=3)
    claims = [TaskClaimed(task_id=f"parts_{i}-1", node_id=f"parts_{i}", visit=1, generation=1) for i in range(3)]
    result = TaskResult(cost_usd_micros=700, usage=Usage(input_tokens=10))
    failed = TaskFailed(task_id="parts_1-1", handling=Handling.HANDLING_TOLERATED)
    entries = [
        record("run", "demo", RunStarted(run_id="demo", workflow=Workflow(name="w", nodes=nodes))),
        record("run", "demo", expanded),
        record("run", "demo", *claims),
        record("run", "demo", TaskSucceeded(task_id="parts_0-1", result=result), failed),
    ]
    state = Board()
    for entry in entries:
        state = board.fold(state, entry)
    return state


def test_a_map_is_one_row_with_what_its_items_take(graph: Board) -> None:
    rows = {row.task_id: row for row in board.rows(graph)}
    assert set(rows) == {"parts-1", "ask-1", "other-1"}
    assert rows["parts-1"].doing.startswith("1 of 1000 done, 1 at work, 1 failed")
    assert (rows["parts-1"].cost_usd_micros, rows["parts-1"].tokens) == (700, 10)
    assert "parts_2-1" not in _drawn(graph)


def test_a_task_that_was_left_out_says_why(graph: Board, record: Record) -> None:
    skipped = TaskSkipped(task_id="other-1", node_id="other", visit=1, why="nobody wants it")
    state = board.fold(graph, record("run", "demo", skipped))
    row = next(row for row in board.rows(state) if row.task_id == "other-1")
    assert (row.status, row.doing) == (TaskStatus.TASK_STATUS_SKIPPED, "nobody wants it")
    assert "skipped" in _drawn(state)
