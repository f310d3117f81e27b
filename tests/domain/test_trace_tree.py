"""The tree of a run's trace, drawn from entries alone."""

from __future__ import annotations

from collections.abc import Callable

from crewlog.cli.trace_tree import BAR_CHARACTERS, Span, bar, spans_of
from crewlog.cli.tracing import in_words
from crewlog.v1.agent_pb2 import (
    EffectKey,
    EffectPutInDoubt,
    ModelAnswer,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailure,
    ToolOutput,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import (
    ChildRunRequested,
    ChildSpawned,
    GateOpened,
    MapExpanded,
    MergeRequested,
    RunFailed,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskFailed,
    TaskSucceeded,
    WaitStarted,
    Workflow,
)
from crewlog.v1.workspace_pb2 import Change, ChangeDelivered

Record = Callable[..., RecordedEntry]
AGENT = "demo_implementer-1"
CALL = EffectKey(turn=1, index=0, attempt=1)
ASK = EffectKey(turn=1, index=-1, attempt=1)


def _history(record: Record) -> list[RecordedEntry]:
    use = ToolUse(tool="bash", input_json=Body(inline=b'{"command": "pytest -q"}'))
    return [
        record("run", "demo", RunStarted(workflow=Workflow(name="feature"))),
        record("run", "demo", TaskClaimed(task_id="implementer-1", generation=1)),
        record("agent", AGENT, ModelCallStarted(key=ASK, model="m-1")),
        record(
            "agent",
            AGENT,
            ModelCallSucceeded(key=ASK, answer=ModelAnswer(cost_usd_micros=2_000)),
            ToolCallStarted(key=CALL, call=use),
        ),
        record("agent", AGENT, ToolCallSucceeded(key=CALL)),
        record("run", "demo", TaskSucceeded(task_id="implementer-1")),
        record("run", "demo", RunSucceeded()),
    ]


def _seconds(span: Span) -> tuple[float, float]:
    return span.start_micros / 1e6, span.end_micros / 1e6


def test_a_run_holds_agents_and_an_agent_holds_its_calls(record: Record) -> None:
    spans = spans_of(_history(record))
    assert [(span.depth, span.name) for span in spans] == [
        (0, "invoke_workflow feature"),
        (1, "invoke_agent implementer-1"),
        (2, "chat m-1"),
        (2, "execute_tool bash"),
    ]
    assert [_seconds(span) for span in spans] == [(1, 7), (2, 6), (3, 4), (4, 5)]
    assert spans[3].detail == "pytest -q"


def test_spans_of_parallel_tasks_stay_with_their_parents(record: Record) -> None:
    other = "demo_tester-1"
    spans = spans_of(
        [
            record("run", "demo", RunStarted(workflow=Workflow(name="feature"))),
            record("run", "demo", TaskClaimed(task_id="implementer-1"), TaskClaimed(task_id="tester-1")),
            record("agent", other, ModelCallStarted(key=ASK, model="m-2")),
            record("agent", AGENT, ModelCallStarted(key=ASK, model="m-1")),
        ]
    )
    assert [span.name for span in spans[1:]] == [
        "invoke_agent implementer-1",
        "chat m-1",
        "invoke_agent tester-1",
        "chat m-2",
    ]


def test_what_is_open_ends_with_the_log_and_says_so(record: Record) -> None:
    spans = spans_of(_history(record)[:3])
    assert [_seconds(span) for span in spans] == [(1, 3), (2, 3), (3, 3)]
    assert all(span.detail == "(open)" for span in spans)


def test_failures_are_marked(record: Record) -> None:
    history = [
        *_history(record)[:3],
        record("agent", AGENT, EffectPutInDoubt(key=ASK)),
        record("run", "demo", TaskFailed(task_id="implementer-1", failure=Failure(reason="timed_out"))),
        record("run", "demo", RunFailed()),
    ]
    assert [(span.failed, span.detail) for span in spans_of(history)] == [
        (True, ""),
        (True, "timed_out"),
        (True, "in doubt"),
    ]


def test_calls_of_one_answer_ran_one_after_the_other(record: Record) -> None:
    keys = [EffectKey(turn=1, index=index, attempt=1) for index in range(3)]
    use = ToolUse(tool="bash")
    spans = spans_of(
        [
            record("agent", AGENT, *(ToolCallStarted(key=key, call=use) for key in keys)),
            record("agent", AGENT, ToolCallSucceeded(key=keys[0], output=ToolOutput(duration_micros=900_000))),
            record("agent", AGENT, ToolCallFailed(key=keys[1], failure=ToolFailure(duration_micros=500_000))),
            record("agent", AGENT, ToolCallSucceeded(key=keys[2], output=ToolOutput(duration_micros=9_000_000))),
        ]
    )
    assert [_seconds(span) for span in sorted(spans, key=lambda span: span.end_micros)] == [(1.1, 2), (2.5, 3), (1, 4)]


def test_a_delivery_takes_from_the_end_of_the_last_task_until_it_is_recorded(record: Record) -> None:
    dated = ChangeDelivered(change=Change(branch="crewlog/demo"), at_unix_micros=1_000_000)
    spans = spans_of([*_history(record)[:-1], record("change", "demo", dated), record("run", "demo", RunSucceeded())])
    assert (spans[-1].name, spans[-1].detail, _seconds(spans[-1])) == ("deliver change", "crewlog/demo", (6, 8))


def test_what_took_no_time_that_is_known_has_no_duration(record: Record) -> None:
    started = record("run", "demo", RunStarted(workflow=Workflow(name="feature")))
    lines = in_words(spans_of([started, record("change", "demo", ChangeDelivered(change=Change(branch="b")))]))
    assert "µs" not in lines[-1]
    assert lines[-1].startswith("  deliver change")


def test_an_attempt_is_a_span_of_its_own(record: Record) -> None:
    again = EffectKey(turn=1, index=-1, attempt=2)
    spans = spans_of(
        [
            record("agent", AGENT, ModelCallStarted(key=ASK, model="m")),
            record("agent", AGENT, EffectPutInDoubt(key=ASK), ModelCallStarted(key=again, model="m")),
            record("agent", AGENT, ModelCallSucceeded(key=again)),
        ]
    )
    assert [_seconds(span) for span in spans] == [(1, 2), (2, 3)]


def test_a_bar_shows_when(record: Record) -> None:
    root = Span(("run",), (), "root", 0, 100)
    assert bar(root, root, 10) == "█" * 10
    assert bar(Span(("a",), (), "a", 50, 60), root, 10) == "     █    "
    assert bar(Span(("a",), (), "a", 100, 100), root, 10) == "         █"
    assert len(bar(Span(("a",), (), "a", 0, 1), root)) == BAR_CHARACTERS


def test_items_belong_to_their_map_and_children_to_their_agent(record: Record) -> None:
    spans = spans_of(
        [
            record("run", "demo", RunStarted(workflow=Workflow(name="graph"))),
            record("run", "demo", MapExpanded(task_id="parts-1", node_id="parts", visit=1, items=2)),
            record("run", "demo", TaskClaimed(task_id="parts_1-1", node_id="parts_1"), TaskClaimed(task_id="lead-1")),
            record("run", "demo", ChildSpawned(task_id="lead-1", node_id="lead_c1")),
            record("run", "demo", TaskClaimed(task_id="lead_c1-1", node_id="lead_c1")),
            record("run", "demo", TaskSucceeded(task_id="parts_1-1"), TaskSucceeded(task_id="parts-1")),
        ]
    )
    assert [(span.depth, span.name) for span in spans[1:]] == [
        (1, "map parts-1"),
        (2, "invoke_agent parts_1-1"),
        (1, "invoke_agent lead-1"),
        (2, "invoke_agent lead_c1-1"),
    ]
    assert (spans[1].detail, _seconds(spans[1])) == ("2 items", (2, 6))


def test_what_nobody_performs_has_a_span_as_well(record: Record) -> None:
    spans = spans_of(
        [
            record("run", "demo", RunStarted(workflow=Workflow(name="graph"))),
            record("run", "demo", GateOpened(gate_id="ask-1-1", task_id="ask-1", node_id="ask", question="Shall it?")),
            record("run", "demo", WaitStarted(task_id="hold-1", node_id="hold", signal="released")),
            record("run", "demo", ChildRunRequested(task_id="sub-1", child_run_id="demo-sub-1-abc")),
            record("run", "demo", MergeRequested(task_id="join-1", commits=["a", "b"])),
            record("run", "demo", TaskClaimed(task_id="join-1", node_id="join")),
            record("run", "demo", TaskSucceeded(task_id="ask-1"), TaskFailed(task_id="sub-1")),
        ]
    )
    assert [(span.name, span.detail, span.failed) for span in spans[1:]] == [
        ("gate ask-1", "Shall it?", False),
        ("wait hold-1", "released (open)", False),
        ("invoke_workflow sub-1", "demo-sub-1-abc", True),
        ("merge join-1", "2 commits", False),
        ("invoke_agent join-1", "(open)", False),
    ]
    assert _seconds(spans[4]) == (5, 6)
