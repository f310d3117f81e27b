"""Views of runs: what stands in them in which order, in every process."""

from __future__ import annotations

import json

from crewlog.domain.decider import fold
from crewlog.domain.run import decider as run
from crewlog.domain.run.view import GATES_SHOWN_MAX, changed_gates, gates, view
from crewlog.runtime.limits import ANSWER_BYTES_MAX
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    GateAnswered,
    GateOpened,
    GateView,
    MapExpanded,
    MapNode,
    Node,
    NoopNode,
    ParkCause,
    Role,
    RunCancelled,
    RunCancelRequested,
    RunStarted,
    TaskCancelled,
    TaskClaimed,
    TaskParked,
    TaskResult,
    TaskSkipped,
    TaskSucceeded,
    WaitStarted,
    Workflow,
)
from google.protobuf.message import Message

from tests.domain.playing import Play, edge, node

GATES = 12
AT_ONCE = ("north", "south", "west", "east", "above", "below")


def started() -> RunStarted:
    nodes = [Node(node_id=name, agent=AgentNode(role=Role(name=name, prompt="do it"))) for name in AT_ONCE]
    return RunStarted(run_id="r", project_id="p", workflow=Workflow(name="w", nodes=nodes), at_unix_micros=1)


def claim(node_id: str) -> TaskClaimed:
    task_id = f"{node_id}-1"
    return TaskClaimed(task_id=task_id, node_id=node_id, visit=1, executor_id="e", generation=1, at_unix_micros=2)


def test_gates_stand_in_the_order_in_which_they_were_opened() -> None:
    opened = [GateOpened(gate_id=f"north-1-{number}", at_unix_micros=10 + number) for number in range(GATES)]
    events: list[Message] = [started(), claim("north"), *opened]
    assert [gate.gate_id for gate in view(fold(run, events)).gates] == [gate.gate_id for gate in opened]


def asking(count: int, question: str = "") -> list[Message]:
    """A task that asks again and again; the last gate is the one that is open, and so is the first."""
    opened = [
        GateOpened(gate_id=f"north-1-{number}", task_id="north-1", question=question, at_unix_micros=10 + number)
        for number in range(count)
    ]
    answered = [GateAnswered(gate_id=gate.gate_id, choice="yes") for gate in opened[1:-1]]
    parked = TaskParked(task_id="north-1", node_id="north", visit=1, cause=ParkCause.PARK_CAUSE_QUESTION)
    return [started(), claim("north"), *opened, *answered, parked]


def test_of_many_gates_a_view_shows_those_that_are_open_and_the_latest() -> None:
    shown = view(fold(run, asking(2 * GATES_SHOWN_MAX)))
    latest = range(GATES_SHOWN_MAX + 1, 2 * GATES_SHOWN_MAX)
    assert [gate.gate_id for gate in shown.gates] == [f"north-1-{number}" for number in (0, *latest)]
    assert shown.gates_left_out == GATES_SHOWN_MAX
    assert view(fold(run, asking(12))).gates_left_out == 0


def test_gates_of_many_words_are_left_out_of_a_view_before_it_is_too_large() -> None:
    shown = view(fold(run, asking(80, "q" * 100_000)), with_tasks=False)
    assert 38 < len(shown.gates) < 42
    assert shown.gates_left_out == 80 - len(shown.gates)
    assert (shown.gates[0].gate_id, shown.gates[-1].gate_id) == ("north-1-0", "north-1-79")


def test_gates_change_with_what_is_said_of_them_and_with_who_waits() -> None:
    events = asking(12)
    state, known = run.INITIAL, dict[str, GateView]()
    for event in [*events, TaskCancelled(task_id="north-1", at_unix_micros=9), RunCancelled(at_unix_micros=9)]:
        before, state = state, run.evolve(state, event)  # type: ignore[arg-type]
        known |= {gate.gate_id: gate for gate in changed_gates(before, state)}
        assert list(known.values()) == gates(state)
    assert changed_gates(state, state) == []


def test_tasks_that_were_claimed_at_once_stand_as_they_were_written() -> None:
    events: list[Message] = [started(), *(claim(name) for name in reversed(AT_ONCE))]
    assert [task.node_id for task in view(fold(run, events)).tasks] == list(AT_ONCE)


def test_tasks_stand_as_they_flow() -> None:
    """What was left out after what it would have followed, and what is to come after what it waits for."""
    ways = {"last": ["late", "fallback"], "late": ["never"], "never": ["slow"], "fallback": ["slow"], "slow": []}
    nodes = [Node(node_id=name, agent=AgentNode(role=Role(name="r")), depends_on=ways[name]) for name in ways]
    workflow = Workflow(name="w", nodes=nodes)
    events: list[Message] = [
        RunStarted(run_id="r", project_id="p", workflow=workflow, at_unix_micros=1),
        TaskClaimed(task_id="slow-1", node_id="slow", visit=1, executor_id="e", generation=1, at_unix_micros=2),
        TaskSucceeded(task_id="slow-1", at_unix_micros=3),
        TaskSkipped(task_id="late-1", node_id="late", visit=1, at_unix_micros=4),
        TaskSkipped(task_id="never-1", node_id="never", visit=1, at_unix_micros=4),
        TaskClaimed(task_id="fallback-1", node_id="fallback", visit=1, executor_id="e", generation=1, at_unix_micros=5),
    ]
    shown = [task.node_id for task in view(fold(run, events)).tasks]
    assert shown == ["slow", "never", "late", "fallback", "last"]
    to_come = [task.node_id for task in view(fold(run, events[:1])).tasks]
    assert to_come == ["slow", "never", "fallback", "late", "last"]


def test_items_of_a_map_stand_by_their_number() -> None:
    body = Node(node_id="many", agent=AgentNode(role=Role(name="r")))
    node = Node(node_id="many", map=MapNode(times=12, body=body))
    events: list[Message] = [
        RunStarted(run_id="r", project_id="p", workflow=Workflow(name="w", nodes=[node]), at_unix_micros=1),
        MapExpanded(task_id="many-1", node_id="many", visit=1, items=12, at_once_max=12, at_unix_micros=2),
        *(
            TaskClaimed(task_id=f"many_{n}-1", node_id=f"many_{n}", visit=1, generation=1, at_unix_micros=3)
            for n in reversed(range(12))
        ),
    ]
    shown = [task.node_id for task in view(fold(run, events)).tasks]
    assert shown == ["many", *(f"many_{number}" for number in range(12))]


def mapped(items_json: list[str]) -> list[Message]:
    """A map over a list whose first two items are at work."""
    body = Node(node_id="many", agent=AgentNode(role=Role(name="r")))
    node = Node(node_id="many", map=MapNode(over="[]", body=body))
    expanded = MapExpanded(task_id="many-1", node_id="many", visit=1, items=len(items_json), at_once_max=2)
    expanded.items_json.extend(items_json)
    claims = [TaskClaimed(task_id=f"many_{n}-1", node_id=f"many_{n}", visit=1, generation=1) for n in range(2)]
    return [RunStarted(run_id="r", project_id="p", workflow=Workflow(name="w", nodes=[node])), expanded, *claims]


def test_a_task_says_which_item_of_a_list_it_is() -> None:
    shown = view(fold(run, mapped(['"a \\"quoted\\" one"', json.dumps({"file": "x" * 300}), "3"])))
    assert [task.item for task in shown.tasks] == ["", 'a "quoted" one', ('{"file": "' + "x" * 300)[:200]]


def test_items_that_were_stopped_with_their_map_have_ended() -> None:
    stopped: list[Message] = [
        RunCancelRequested(),
        *(TaskCancelled(task_id=task_id, at_unix_micros=9) for task_id in ("many_0-1", "many_1-1", "many-1")),
        RunCancelled(at_unix_micros=9),
    ]
    (whole, *_) = view(fold(run, [*mapped(["1", "2", "3"]), *stopped])).tasks
    assert (whole.items, whole.items_ended) == (3, 2)
    (whole, *_) = view(fold(run, mapped(["1", "2", "3"]))).tasks
    assert (whole.items, whole.items_ended) == (3, 0)


def test_items_of_a_later_visit_are_not_those_of_an_earlier_one() -> None:
    again = edge("r", "m", "failed", visits_max=3)
    play = Play(node("m", map=MapNode(body=Node(noop=NoopNode()), times=3)), node("r", "m"), edges=(again,))
    for number in range(3):
        play.end(f"m_{number}-1")
    play.end("r-1", fail="not yet")
    play.end("m_0-2")
    shown = [(task.task_id, task.items_ended) for task in view(play.run).tasks if task.kind == "map"]
    assert shown == [("m-1", 3), ("m-2", 1)]


def test_a_wait_names_the_signal_that_it_waits_for() -> None:
    workflow = Workflow(name="w", nodes=[Node(node_id="hold", wait=WaitNode(signal="released"))])
    events: list[Message] = [
        RunStarted(run_id="r", project_id="p", workflow=workflow, at_unix_micros=1),
        WaitStarted(task_id="hold-1", node_id="hold", visit=1, signal="released", at_unix_micros=2),
    ]
    assert [task.signal for task in view(fold(run, events)).tasks] == ["released"]
    over = [*events, TaskSucceeded(task_id="hold-1", at_unix_micros=3)]
    assert [task.signal for task in view(fold(run, over)).tasks] == [""]


def test_a_view_can_be_sent_however_much_the_tasks_have_said() -> None:
    """1,200 tasks of 120 KB each: who has said little is shown as it is, and what all have cost."""
    said = TaskResult(output=Body(inline=b"x" * 60_000), structured_json=f'"{"y" * 60_000}"', summary="x" * 2_000)
    said.cost_usd_micros = 7
    body = Node(node_id="many", agent=AgentNode(role=Role(name="r")))
    node = Node(node_id="many", map=MapNode(times=1_200, body=body))
    state = fold(
        run,
        [
            RunStarted(run_id="r", project_id="p", workflow=Workflow(name="w", nodes=[node]), at_unix_micros=1),
            MapExpanded(task_id="many-1", node_id="many", visit=1, items=1_200, at_once_max=1_200, at_unix_micros=2),
        ],
    )
    for number in range(1_200):
        claimed = TaskClaimed(task_id=f"many_{number}-1", node_id=f"many_{number}", visit=1, at_unix_micros=3)
        result = said if number else TaskResult(output=Body(inline=b"little"))
        state = fold(run, [claimed, TaskSucceeded(task_id=claimed.task_id, result=result, at_unix_micros=4)], state)
    shown = view(state)
    assert shown.ByteSize() < ANSWER_BYTES_MAX // 2
    items = [task.result for task in shown.tasks if task.node_id != "many"]
    assert items[0].output.inline == b"little"
    assert {(item.summary, item.cost_usd_micros) for item in items[1:]} == {("x" * 2_000, 7)}
