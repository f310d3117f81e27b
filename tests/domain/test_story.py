"""The story: every event has its words, outcomes carry time and money, and foreign text cannot steer a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from crewlog.cli import story, wording
from crewlog.cli.lines import Tone
from crewlog.cli.story import Story, tell, tell_all
from crewlog.domain.agent import view as agent_view
from crewlog.domain.agent.state import Agent
from crewlog.eventlog.codec import EVENT_TYPES, event_type
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentTakenOver,
    ContentBlock,
    EffectKey,
    ModelAnswer,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailure,
    ToolOutput,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import BlobRef, Body
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.entry_pb2 import Event, RecordedEntry
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    MapExpanded,
    NoopNode,
    RunFailed,
    RunSucceeded,
    TaskCancelled,
    TaskFailed,
    TaskResult,
    TaskSucceeded,
    TaskTimedOut,
)
from crewlog.v1.workspace_pb2 import Change, ChangeCommitted, DiffStat, Snapshot

Record = Callable[..., RecordedEntry]
AGENT = "demo_implementer-1"


def _texts(*entries: RecordedEntry) -> list[str]:
    return [line.text for line in tell_all(entries)]


def _call(index: int, tool: str, input_json: str) -> ToolCallStarted:
    key = EffectKey(turn=1, index=index, attempt=1)
    return ToolCallStarted(key=key, call=ToolUse(tool=tool, input_json=Body(inline=input_json.encode())))


def test_every_event_of_the_catalogue_is_told() -> None:
    assert sorted(event_type(kind()) for kind in story.TOLD) == sorted(EVENT_TYPES)


@pytest.mark.parametrize("field", EVENT_TYPES)
def test_an_event_without_any_field_set_is_told_without_failing(record: Record, field: str) -> None:
    fact = getattr(Event(), field)
    assert tell_all([record("agent", AGENT, fact)])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({"node": AgentNode()}, "begins with m"),
        ({"command": CommandNode()}, "begins"),
        ({"noop": NoopNode()}, "begins"),
    ],
)
def test_a_model_is_named_only_where_one_is_asked(record: Record, kind: dict[str, Any], told: str) -> None:
    started = AgentStarted(run_id="r", task_id="a-1", model="m", **kind)
    assert _texts(record("agent", AGENT, started)) == [told]
    assert agent_view.view(Agent(started=started), AGENT).model == ("m" if "node" in kind else "")


def test_an_outcome_says_what_was_called_and_how_long_it_took(record: Record) -> None:
    key = EffectKey(turn=1, index=0, attempt=1)
    output = ToolOutput(duration_micros=250_000, snapshot=Snapshot(tree="ab"))
    lines = tell_all(
        [
            record("agent", AGENT, _call(0, "edit", '{"path": "src/slug.py", "old_text": "a"}')),
            record("agent", AGENT, ToolCallSucceeded(key=key, output=output)),
        ]
    )
    assert [(line.who, line.text, line.tone) for line in lines] == [
        ("implementer-1", "calls edit src/slug.py", Tone.DETAIL),
        ("implementer-1", "edit src/slug.py (files changed)", Tone.PLAIN),
    ]
    assert lines[1].duration_micros == 250_000
    assert lines[1].revision == 2


def test_calls_of_different_agents_are_not_mixed_up(record: Record) -> None:
    key = EffectKey(turn=1, index=0, attempt=1)
    texts = _texts(
        record("agent", AGENT, _call(0, "bash", '{"command": "pytest -q"}')),
        record("agent", "demo_tester-1", _call(0, "read", '{"path": "a"}')),
        record("agent", AGENT, ToolCallSucceeded(key=key)),
        record("agent", "demo_tester-1", ToolCallSucceeded(key=key)),
    )
    assert texts[2:] == ["bash pytest -q", "read a"]


def test_an_item_of_a_map_is_told_with_what_it_is_for(record: Record) -> None:
    items = ['"src/a.py"', '{"path":"b"}', '"' + "x" * 200 + '"']
    expanded = MapExpanded(task_id="each-1", node_id="each", visit=1, items_json=items, items=3)
    numbers = MapExpanded(task_id="parts-1", node_id="parts", visit=1, items=3)
    began = ("each_0-1", "each_1-1", "each_2-1", "each_3-1", "parts_0-1", "each-1", "other_0-1")
    texts = _texts(
        record("run", "demo", expanded, numbers), *(record("agent", f"demo_{each}", AgentStarted()) for each in began)
    )
    cut = "x" * (wording.ITEM_CHARACTERS - 1) + "…"
    assert texts[2:] == ["begins: src/a.py", 'begins: {"path":"b"}', f"begins: {cut}", *["begins"] * 4]


def test_malformed_tool_input_is_shown_as_it_came(record: Record) -> None:
    assert _texts(record("agent", AGENT, _call(0, "bash", '{"command": '))) == ['calls bash {"command":']


def test_a_model_answer_is_told_with_its_money(record: Record) -> None:
    answer = ModelAnswer(
        content=[ContentBlock(text="I look first.\nThen I edit.")], cost_usd_micros=1_250, duration_micros=900_000
    )
    [line] = tell_all(
        [record("agent", AGENT, ModelCallSucceeded(key=EffectKey(turn=2, index=-1, attempt=1), answer=answer))]
    )
    assert line.text == "turn 2: I look first. Then I edit."
    assert (line.cost_usd_micros, line.duration_micros) == (1_250, 900_000)


def test_an_answer_without_words_names_its_calls(record: Record) -> None:
    uses = [ContentBlock(tool_use=ToolUse(tool=tool)) for tool in ("read", "grep")]
    answer = ModelAnswer(content=uses)
    assert _texts(record("agent", AGENT, ModelCallSucceeded(key=EffectKey(turn=1, index=-1), answer=answer))) == [
        "turn 1: calls read, grep"
    ]


def test_a_failed_tool_call_says_why(record: Record) -> None:
    failure = ToolFailure(reason="timed_out", text=Body(inline=b"after 120 s"))
    key = EffectKey(turn=1, index=0, attempt=1)
    lines = tell_all(
        [
            record("agent", AGENT, _call(0, "bash", '{"command": "sleep 999"}')),
            record("agent", AGENT, ToolCallFailed(key=key, failure=failure)),
        ]
    )
    assert (lines[1].text, lines[1].tone) == ("bash sleep 999: timed_out: after 120 s", Tone.BAD)


def test_the_end_of_a_task_and_of_the_run(record: Record) -> None:
    result = TaskResult(
        turns=3, tool_calls=1, usage=Usage(input_tokens=1200, output_tokens=100), cost_usd_micros=42_000
    )
    change = Change(branch="crewlog/demo", stat=DiffStat(files=2, insertions=10, deletions=3))
    assert _texts(
        record("run", "demo", TaskSucceeded(task_id="implementer-1", result=result)),
        record("run", "demo", TaskFailed(task_id="tester-1", failure=Failure(reason="refusal", message="no"))),
        record("run", "demo", RunSucceeded(change=change)),
    ) == [
        "done after 3 turns, 1 tool call, 1.3k tokens",
        "failed: refusal: no",
        "succeeded: branch crewlog/demo, 2 files +10 -3",
    ]


def test_a_task_that_is_out_of_time_is_told_once(record: Record) -> None:
    timed_out = TaskTimedOut(task_id="a-1", failure=Failure(reason="task_timed_out", message="longer than 2 s"))
    cut = ToolCallFailed(key=EffectKey(turn=1), failure=ToolFailure(reason="cancelled"))
    stopped = [record("agent", "demo_a-1", cut), record("run", "demo", TaskCancelled(task_id="a-1"))]
    entries = [record("run", "demo", timed_out), *stopped]
    told = [line for line in tell_all(entries) if line.tone is not Tone.DETAIL]
    assert [line.text for line in told] == ["timed out: task_timed_out: longer than 2 s"]
    others = [record("run", "demo", TaskCancelled(task_id="b-1")), record("run", "other", TaskCancelled(task_id="a-1"))]
    assert [line.text for line in tell_all([*entries, *others])[3:]] == ["cancelled", "cancelled"]


def test_why_a_run_has_failed_stands_apart_from_what_it_has_brought(record: Record) -> None:
    failure = Failure(reason="map_failed", message="m_1-1: cancelled")
    assert _texts(record("run", "demo", RunFailed(failure=failure))) == [
        "failed: map_failed: m_1-1: cancelled; nothing changed"
    ]


def test_a_take_over_is_never_a_detail(record: Record) -> None:
    [line] = tell_all([record("agent", AGENT, AgentTakenOver(generation=2, executor_id="executor-b"))])
    assert line.tone is Tone.BAD
    assert "generation 2" in line.text


def test_an_event_of_a_later_release_is_told_as_unknown(record: Record) -> None:
    entry = record("run", "demo")
    entry.entry.decisions[0].events.add()
    assert _texts(entry) == ["something that this release does not know"]


def test_a_blob_is_told_by_its_size(record: Record) -> None:
    failure = ToolFailure(reason="failed", text=Body(blob=BlobRef(sha256=b"x" * 32, size_bytes=70_000)))
    [text] = _texts(record("agent", AGENT, ToolCallFailed(key=EffectKey(turn=1), failure=failure)))
    assert text.endswith("[70.0k bytes, kept as a blob]")


def test_telling_in_steps_is_telling_at_once(record: Record) -> None:
    key = EffectKey(turn=1, index=0, attempt=1)
    entries = [
        record("agent", AGENT, _call(0, "read", '{"path": "a"}')),
        record("agent", AGENT, ToolCallSucceeded(key=key)),
    ]
    state, lines = Story(), []
    for entry in entries:
        state, more = tell(state, entry)
        lines += more
    assert lines == tell_all(entries)


def test_a_commit_is_told_at_the_time_of_its_entry_whatever_its_date(record: Record) -> None:
    entries = [record("agent", AGENT, AgentTakenOver()), record("agent", AGENT, AgentTakenOver())]
    entries.append(record("change", "demo", ChangeCommitted(workspace_id=AGENT, at_unix_micros=1_000_000)))
    assert [line.at_unix_micros for line in tell_all(entries)] == [1_000_000, 2_000_000, 3_000_000]


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x9b31m", "\u202eabc", "a\rb", "\x07", "\ud800", "\u2066"])
def test_foreign_text_cannot_steer_the_terminal(record: Record, evil: str) -> None:
    assert wording.plain(evil).isprintable()
    fact = AgentTakenOver(generation=2, executor_id=evil.encode(errors="ignore").decode())
    assert all(text.isprintable() for text in _texts(record("agent", AGENT, fact)))
