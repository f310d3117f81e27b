"""The trace of a run as a tree with durations, from the log alone: what a collector would show, without a collector.

invoke_workflow feature
  invoke_agent implementer
    chat claude-...
    execute_tool bash
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from crewlog.cli import effects, wording
from crewlog.domain import names
from crewlog.eventlog import codec
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1 import run_pb2 as run
from crewlog.v1 import workspace_pb2 as workspace
from crewlog.v1.entry_pb2 import RecordedEntry
from google.protobuf.message import Message

ROOT = ("run",)
Key = tuple[str | int, ...]
BAR_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Span:
    """`end_micros` is 0 while it is open. `parent` is empty for the root, and `depth` counts the ancestors."""

    key: Key
    parent: Key
    name: str
    start_micros: int
    end_micros: int = 0
    detail: str = ""
    failed: bool = False
    depth: int = 0


@dataclass(slots=True)
class _Spans:
    """The spans so far, in the order of their starts, the last moment that the log tells of, and a task's last end.
    `owners` has the maps, and the parents of children, by their node."""

    by_key: dict[Key, Span] = field(default_factory=dict)
    owners: dict[str, Key] = field(default_factory=dict)
    last_micros: int = 0
    tasks_ended_micros: int = 0

    def open(self, span: Span) -> None:
        self.by_key.setdefault(span.key, span)

    def close(self, key: Key, at: int, detail: str = "", failed: bool = False) -> None:
        span = self.by_key.get(key)
        if span is not None:
            self.by_key[key] = replace(span, end_micros=at, detail=detail or span.detail, failed=failed)


def spans_of(entries: Iterable[RecordedEntry]) -> list[Span]:
    """Every span of the entries of one run, parents before children, siblings by their start."""
    spans = _Spans()
    for recorded in entries:
        for fact in codec.known_facts([recorded.entry]):
            at = _moment_of(fact, recorded)
            spans.last_micros = max(spans.last_micros, at)
            step = _STEPS.get(type(fact))
            if step is not None:
                step(spans, recorded.entry.aggregate.id, at, fact)
    return [_until(span, spans.last_micros) for span in _in_order(spans.by_key)]


def bar(span: Span, root: Span, characters: int = BAR_CHARACTERS) -> str:
    """When the span was, within the time of the root: at least one character wide."""
    total = max(1, root.end_micros - root.start_micros)
    begin = (span.start_micros - root.start_micros) * characters // total
    end = -(-(span.end_micros - root.start_micros) * characters // total)
    begin = min(max(0, begin), characters - 1)
    end = min(max(begin + 1, end), characters)
    return " " * begin + "█" * (end - begin) + " " * (characters - end)


def _moment_of(fact: Message, recorded: RecordedEntry) -> int:
    """Facts of changes name the date of a commit, which is that of its first attempt and not of its end."""
    named = 0 if recorded.entry.aggregate.kind == "change" else getattr(fact, "at_unix_micros", 0)
    return named or recorded.entry.recorded_at_unix_micros


def _until(span: Span, last_micros: int) -> Span:
    if span.end_micros:
        return span
    return replace(span, end_micros=max(last_micros, span.start_micros), detail=f"{span.detail} (open)".strip())


def _in_order(by_key: dict[Key, Span]) -> list[Span]:
    children: dict[Key, list[Span]] = {}
    for span in by_key.values():
        parent = span.parent if span.parent in by_key else ()
        children.setdefault(parent, []).append(span)
    ordered: list[Span] = []
    stack = _latest_first(children.get((), []))
    while stack:
        span = stack.pop()
        ordered.append(span)
        stack += [replace(child, depth=span.depth + 1) for child in _latest_first(children.get(span.key, []))]
    return ordered


def _latest_first(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.start_micros)[::-1]


def _run_started(spans: _Spans, _: str, at: int, fact: run.RunStarted) -> None:
    spans.open(Span(ROOT, (), f"invoke_workflow {fact.workflow.name}", at))


def _run_over(spans: _Spans, _: str, at: int, fact: Any) -> None:
    spans.close(ROOT, at, failed=isinstance(fact, run.RunFailed))


def _task_claimed(spans: _Spans, run_id: str, at: int, fact: run.TaskClaimed) -> None:
    spans.close(_merge_key(fact.task_id), at)
    _open_task(spans, run_id, at, fact.task_id, "invoke_agent")


def _open_task(spans: _Spans, run_id: str, at: int, task_id: str, name: str, detail: str = "") -> Key:
    """An item is part of its map, and a child of the agent that has asked for it."""
    key, node_id = _agent_key(run_id, task_id), names.node_of(task_id)
    parent = spans.owners.get(node_id) or spans.owners.get(node_id.rpartition("_")[0], ROOT)
    spans.open(Span(key, parent, f"{name} {task_id}", at, detail=detail))
    return key


def _gate_opened(spans: _Spans, run_id: str, at: int, fact: run.GateOpened) -> None:
    if fact.node_id:
        _open_task(spans, run_id, at, fact.task_id, "gate", wording.plain(fact.question))


def _wait_started(spans: _Spans, run_id: str, at: int, fact: run.WaitStarted) -> None:
    _open_task(spans, run_id, at, fact.task_id, "wait", fact.signal)


def _map_expanded(spans: _Spans, run_id: str, at: int, fact: run.MapExpanded) -> None:
    detail = wording.counted(fact.items, "item")
    spans.owners[fact.node_id] = _open_task(spans, run_id, at, fact.task_id, "map", detail)


def _child_run_requested(spans: _Spans, run_id: str, at: int, fact: run.ChildRunRequested) -> None:
    _open_task(spans, run_id, at, fact.task_id, "invoke_workflow", fact.child_run_id)


def _child_spawned(spans: _Spans, run_id: str, at: int, fact: run.ChildSpawned) -> None:
    spans.owners[fact.node_id] = _agent_key(run_id, fact.task_id)


def _merge_requested(spans: _Spans, _: str, at: int, fact: run.MergeRequested) -> None:
    detail = wording.counted(len(fact.commits), "commit")
    spans.open(Span(_merge_key(fact.task_id), ROOT, f"merge {fact.task_id}", at, detail=detail))


def _task_ended(spans: _Spans, run_id: str, at: int, fact: Any) -> None:
    cost = wording.money(fact.result.cost_usd_micros) if fact.result.cost_usd_micros else ""
    failed = isinstance(fact, run.TaskFailed)
    spans.tasks_ended_micros = at
    spans.close(_merge_key(fact.task_id), at, failed=failed)
    spans.close(_agent_key(run_id, fact.task_id), at, fact.failure.reason if failed else cost, failed)


def _asked(spans: _Spans, agent_id: str, at: int, fact: agent.ModelCallStarted) -> None:
    spans.open(Span(_effect_key(agent_id, fact.key), (agent_id,), f"chat {fact.model}", at))


def _answered(spans: _Spans, agent_id: str, at: int, fact: agent.ModelCallSucceeded) -> None:
    used = f"{wording.count(wording.tokens(fact.answer.usage))} tokens, {wording.money(fact.answer.cost_usd_micros)}"
    spans.close(_effect_key(agent_id, fact.key), at, used)


def _not_answered(spans: _Spans, agent_id: str, at: int, fact: agent.ModelCallFailed) -> None:
    spans.close(_effect_key(agent_id, fact.key), at, fact.failure.failure.reason, True)


def _called(spans: _Spans, agent_id: str, at: int, fact: agent.ToolCallStarted) -> None:
    words = effects.call_in_words(fact.call)
    name, _, about = words.partition(" ")
    spans.open(Span(_effect_key(agent_id, fact.key), (agent_id,), f"execute_tool {name}", at, detail=about))


def _returned(spans: _Spans, agent_id: str, at: int, fact: agent.ToolCallSucceeded) -> None:
    _end_call(spans, _effect_key(agent_id, fact.key), at, fact.output.duration_micros)


def _failed(spans: _Spans, agent_id: str, at: int, fact: agent.ToolCallFailed) -> None:
    _end_call(spans, _effect_key(agent_id, fact.key), at, fact.failure.duration_micros, fact.failure.reason)


def _end_call(spans: _Spans, key: Key, at: int, duration_micros: int, reason: str = "") -> None:
    """The calls of one answer are meant at once, and performed one after the other: each ran for its own time."""
    spans.close(key, at, reason, bool(reason))
    span = spans.by_key.get(key)
    if span is not None and duration_micros:
        spans.by_key[key] = replace(span, start_micros=max(span.start_micros, at - duration_micros))


def _in_doubt(spans: _Spans, agent_id: str, at: int, fact: agent.EffectPutInDoubt) -> None:
    spans.close(_effect_key(agent_id, fact.key), at, "in doubt", True)


def _delivered(spans: _Spans, _: str, at: int, fact: workspace.ChangeDelivered) -> None:
    detail = wording.plain(fact.change.branch)
    start = spans.tasks_ended_micros or at
    spans.open(Span(("deliver",), ROOT, "deliver change", min(start, at), at, detail))


def _agent_key(run_id: str, task_id: str) -> Key:
    return (names.agent_id(run_id, task_id),)


def _merge_key(task_id: str) -> Key:
    return ("merge", task_id)


def _effect_key(agent_id: str, key: agent.EffectKey) -> Key:
    return (agent_id, key.turn, key.index, key.attempt)


_STEPS: dict[type[Message], Callable[[_Spans, str, int, Any], None]] = {
    run.RunStarted: _run_started,
    run.RunSucceeded: _run_over,
    run.RunFailed: _run_over,
    run.RunCancelled: _run_over,
    run.TaskClaimed: _task_claimed,
    run.GateOpened: _gate_opened,
    run.WaitStarted: _wait_started,
    run.MapExpanded: _map_expanded,
    run.ChildRunRequested: _child_run_requested,
    run.ChildSpawned: _child_spawned,
    run.MergeRequested: _merge_requested,
    run.TaskSucceeded: _task_ended,
    run.TaskFailed: _task_ended,
    run.TaskCancelled: _task_ended,
    agent.ModelCallStarted: _asked,
    agent.ModelCallSucceeded: _answered,
    agent.ModelCallFailed: _not_answered,
    agent.ToolCallStarted: _called,
    agent.ToolCallSucceeded: _returned,
    agent.ToolCallFailed: _failed,
    agent.EffectPutInDoubt: _in_doubt,
    workspace.ChangeDelivered: _delivered,
}
