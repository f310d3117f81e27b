"""What happened, told line by line: a pure fold of entries, used by the live view, by plain output and by replay.

Outcomes are told; intents and bookkeeping are told as details, which a reader may leave out. An event that this release
does not know is told as just that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crewlog.cli import budgeting, effects, receipts, story_control, story_graph, story_money, wording
from crewlog.cli.lines import RUN, Line, Tone
from crewlog.domain import names
from crewlog.eventlog import codec
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1 import project_pb2 as project
from crewlog.v1 import run_pb2 as run
from crewlog.v1 import workspace_pb2 as workspace
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from google.protobuf.message import Message
from immutables import Map


@dataclass(frozen=True, slots=True)
class Story:
    """What later lines need of earlier events: the calls that are open, by agent, turn and place, the tasks that are
    out of time: that they stop is no news, and the items of maps as JSON, by run and node."""

    calls: Map[tuple[str, int, int], str] = field(default_factory=Map)
    out_of_time: Map[tuple[str, str], bool] = field(default_factory=Map)
    items: Map[tuple[str, str], Sequence[str]] = field(default_factory=Map)


@dataclass(frozen=True, slots=True)
class _Scene:
    story: Story
    entry: Entry

    @property
    def id(self) -> str:
        return self.entry.aggregate.id

    @property
    def task(self) -> str:
        return task_of(self.id)

    @property
    def about(self) -> str:
        return self.id if self.entry.aggregate.kind == "budget" else self.task

    def is_out_of_time(self, task_id: str) -> bool:
        return (names.run_of(self.id), task_id) in self.story.out_of_time

    @property
    def item(self) -> str:
        """What the task is for, where it is one of a list."""
        map_node_id, _, index = names.node_of(self.task).rpartition("_")
        items = self.story.items.get((names.run_of(self.id), map_node_id), ())
        if not index.isdecimal() or int(index) >= len(items):
            return ""
        item = json.loads(items[int(index)])
        return wording.one_line(item if isinstance(item, str) else items[int(index)], wording.ITEM_CHARACTERS)

    def call(self, key: agent.EffectKey) -> str:
        if key.index < 0:
            return f"model call of turn {key.turn}"
        return self.story.calls.get((self.id, key.turn, key.index), f"tool call {key.turn}.{key.index}")


def tell(story: Story, recorded: RecordedEntry) -> tuple[Story, list[Line]]:
    """The lines of one entry, and the story after it."""
    lines: list[Line] = []
    for decision in recorded.entry.decisions:
        for event in decision.events:
            fact = codec.unpack(event)
            story = _remember(story, recorded.entry, fact)
            lines += [_placed(line, recorded) for line in _lines(_Scene(story, recorded.entry), fact)]
    return story, lines


def _remember(story: Story, entry: Entry, fact: Message | None) -> Story:
    match fact:
        case agent.ToolCallStarted():
            place = (entry.aggregate.id, fact.key.turn, fact.key.index)
            return replace(story, calls=story.calls.set(place, effects.call_in_words(fact.call)))
        case run.TaskTimedOut():
            return replace(story, out_of_time=story.out_of_time.set((entry.aggregate.id, fact.task_id), True))
        case run.MapExpanded():
            return replace(story, items=story.items.set((entry.aggregate.id, fact.node_id), tuple(fact.items_json)))
        case _:
            return story


def _lines(scene: _Scene, fact: Message | None) -> Iterator[Line]:
    if fact is None:
        yield Line(scene.task, "something that this release does not know", Tone.BAD)
        return
    teller = _ELSEWHERE.get(type(fact))
    yield from teller(scene.about, fact) if teller else _TELLERS[type(fact)](scene, fact)


def _placed(line: Line, recorded: RecordedEntry) -> Line:
    return replace(line, revision=recorded.revision, at_unix_micros=recorded.entry.recorded_at_unix_micros)


def _run_started(_: _Scene, fact: run.RunStarted) -> Iterator[Line]:
    nodes = ", ".join(node.node_id for node in fact.workflow.nodes)
    limit = f", at most {budgeting.in_words(fact.budget)}" if fact.budget.ByteSize() else ""
    base = f", from {wording.short_id(fact.base_commit)}" if fact.base_commit else ""
    yield Line(RUN, wording.plain(f"started: workflow {fact.workflow.name} ({nodes}){limit}{base}"))
    yield Line(RUN, f"asked for: {wording.one_line(effects.text_of(fact.input))}")


def _task_claimed(_: _Scene, fact: run.TaskClaimed) -> Iterator[Line]:
    share = f", at most {budgeting.in_words(fact.allotment)}" if fact.allotment.ByteSize() else ""
    share += ", to end with what is done" if fact.has_to_stop else ""
    share += ", to close it: nobody hosts its agent any more" if fact.to_close else ""
    text = f"claimed by {fact.executor_id} (generation {fact.generation}{share})"
    yield Line(fact.task_id, wording.plain(text), Tone.DETAIL if fact.generation == 1 else Tone.PLAIN)


def _task_claim_lapsed(_: _Scene, fact: run.TaskClaimLapsed) -> Iterator[Line]:
    yield Line(fact.task_id, wording.plain(f"claim {fact.generation} lapsed: {fact.reason}"), Tone.BAD)


def _task_succeeded(_: _Scene, fact: run.TaskSucceeded) -> Iterator[Line]:
    yield _ended(fact.task_id, "done" + _work(fact.result), Tone.GOOD, fact.result)


def _task_failed(_: _Scene, fact: run.TaskFailed) -> Iterator[Line]:
    yield _ended(fact.task_id, _failed(fact.failure), Tone.BAD, fact.result)


def _task_cancelled(scene: _Scene, fact: run.TaskCancelled) -> Iterator[Line]:
    is_known = scene.is_out_of_time(fact.task_id)
    what, tone = ("has stopped", Tone.DETAIL) if is_known else ("cancelled", Tone.BAD)
    yield _ended(fact.task_id, what + _work(fact.result), tone, fact.result)


def _run_succeeded(_: _Scene, fact: run.RunSucceeded) -> Iterator[Line]:
    yield Line(RUN, "succeeded" + _brought(fact.change), Tone.GOOD)


def _run_failed(_: _Scene, fact: run.RunFailed) -> Iterator[Line]:
    yield Line(RUN, _failed(fact.failure) + _brought(fact.change, "; "), Tone.BAD)


def _run_cancelled(_: _Scene, fact: run.RunCancelled) -> Iterator[Line]:
    yield Line(RUN, "cancelled" + _brought(fact.change), Tone.BAD)


def _agent_started(scene: _Scene, fact: agent.AgentStarted) -> Iterator[Line]:
    role = f"{fact.node.role.name} " if fact.node.role.name else ""
    model = f" with {fact.model}" if fact.model and fact.HasField("node") else ""
    item = f": {scene.item}" if scene.item else ""
    yield Line(scene.task, wording.plain(f"{role}begins{model}{item}"))


def _agent_taken_over(scene: _Scene, fact: agent.AgentTakenOver) -> Iterator[Line]:
    text = wording.plain(f"goes on on {fact.executor_id} (generation {fact.generation})")
    calm = fact.HasField("receipt") and receipts.is_calm(fact.receipt)
    found = f": {receipts.in_words(fact.receipt)}" if fact.HasField("receipt") else ", from the last recorded step"
    yield Line(scene.task, text + found, Tone.PLAIN if calm else Tone.BAD)


def _model_call_started(scene: _Scene, fact: agent.ModelCallStarted) -> Iterator[Line]:
    reserved = f", reserves {wording.money(fact.reservation.usd_micros)}" if fact.reservation.usd_micros else ""
    yield Line(scene.task, wording.plain(f"turn {fact.key.turn}: asks {fact.model}{reserved}"), Tone.DETAIL)
    for number in fact.messages:
        yield Line(scene.task, f"turn {fact.key.turn}: reads message {number}")


def _model_call_succeeded(scene: _Scene, fact: agent.ModelCallSucceeded) -> Iterator[Line]:
    answer = fact.answer
    text = f"turn {fact.key.turn}: {effects.answer_in_words(answer)}"
    yield Line(scene.task, text, Tone.PLAIN, answer.duration_micros, answer.cost_usd_micros)


def _model_call_failed(scene: _Scene, fact: agent.ModelCallFailed) -> Iterator[Line]:
    text = f"turn {fact.key.turn}: model call {_failed(fact.failure.failure)}"
    yield Line(scene.task, text, Tone.BAD, 0, fact.failure.cost_usd_micros)


def _tool_call_started(scene: _Scene, fact: agent.ToolCallStarted) -> Iterator[Line]:
    yield Line(scene.task, f"calls {scene.call(fact.key)}", Tone.DETAIL)


def _tool_call_succeeded(scene: _Scene, fact: agent.ToolCallSucceeded) -> Iterator[Line]:
    changed = " (files changed)" if fact.output.HasField("snapshot") else ""
    yield Line(scene.task, f"{scene.call(fact.key)}{changed}", Tone.PLAIN, fact.output.duration_micros)


def _tool_call_failed(scene: _Scene, fact: agent.ToolCallFailed) -> Iterator[Line]:
    failure = fact.failure
    is_known = scene.is_out_of_time(scene.task) and failure.reason == "cancelled"
    text = f"{scene.call(fact.key)}: {wording.plain(failure.reason)}: {wording.one_line(effects.text_of(failure.text))}"
    yield Line(scene.task, text, Tone.DETAIL if is_known else Tone.BAD, failure.duration_micros)


def _effect_put_in_doubt(scene: _Scene, fact: agent.EffectPutInDoubt) -> Iterator[Line]:
    yield Line(scene.task, f"outcome not known: {scene.call(fact.key)}", Tone.BAD)


def _effect_reconciled(scene: _Scene, fact: agent.EffectReconciled) -> Iterator[Line]:
    yield Line(scene.task, f"{_RESOLUTIONS[fact.resolution]}: {scene.call(fact.key)}")


def _late_outcome_recorded(scene: _Scene, fact: agent.LateOutcomeRecorded) -> Iterator[Line]:
    who = wording.plain(f"{fact.executor_id} (generation {fact.generation})")
    yield Line(scene.task, f"{who} says too late what came of it: {scene.call(fact.key)}; kept, and decides nothing")


def _agent_succeeded(scene: _Scene, fact: agent.AgentSucceeded) -> Iterator[Line]:
    yield Line(scene.task, f"ends: {wording.one_line(fact.result.summary)}", Tone.DETAIL)


def _agent_failed(scene: _Scene, fact: agent.AgentFailed) -> Iterator[Line]:
    yield Line(scene.task, f"ends: {_failed(fact.failure)}", Tone.DETAIL)


def _agent_cancelled(scene: _Scene, _: agent.AgentCancelled) -> Iterator[Line]:
    yield Line(scene.task, "stops", Tone.DETAIL)


def _workspace_prepared(scene: _Scene, fact: workspace.WorkspacePrepared) -> Iterator[Line]:
    yield Line(scene.task, f"has a workspace, from {wording.short_id(fact.base_commit)}", Tone.DETAIL)


def _workspace_removed(scene: _Scene, _: workspace.WorkspaceRemoved) -> Iterator[Line]:
    yield Line(scene.task, "gives its workspace back", Tone.DETAIL)


def _change_committed(_: _Scene, fact: workspace.ChangeCommitted) -> Iterator[Line]:
    yield Line(task_of(fact.workspace_id), f"commits {wording.short_id(fact.commit)} ({wording.diff_stat(fact.stat)})")


def _change_delivered(_: _Scene, fact: workspace.ChangeDelivered) -> Iterator[Line]:
    yield Line(RUN, "brings the result home" + _brought(fact.change))


def _project_registered(scene: _Scene, fact: project.ProjectRegistered) -> Iterator[Line]:
    yield Line(scene.id, wording.plain(f"registered: {fact.path}"))


def _ended(task: str, text: str, tone: Tone, result: run.TaskResult) -> Line:
    return Line(task, text, tone, result.duration_micros, result.cost_usd_micros)


def _work(result: run.TaskResult) -> str:
    if not result.turns:
        return ""
    calls = wording.counted(result.tool_calls, "tool call")
    used = wording.count(wording.tokens(result.usage))
    return f" after {wording.counted(result.turns, 'turn')}, {calls}, {used} tokens"


def _failed(failure: Failure) -> str:
    return wording.plain(f"failed: {failure.reason}: {failure.message}")


def _brought(change: workspace.Change, after: str = ": ") -> str:
    if not change.branch:
        return f"{after}nothing changed"
    return wording.plain(f"{after}branch {change.branch}, {wording.diff_stat(change.stat)}")


_RESOLUTIONS = {
    agent.EffectReconciled.RESOLUTION_UNSPECIFIED: "settled",
    agent.EffectReconciled.RESOLUTION_RUN_AGAIN: "runs again",
    agent.EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN: "files put back, runs again",
    agent.EffectReconciled.RESOLUTION_TOLD_UNKNOWN: "the model is told that nobody knows",
    agent.EffectReconciled.RESOLUTION_ASKED: "a person is asked what is to be done",
}
_TELLERS: dict[type[Message], Callable[[_Scene, Any], Iterator[Line]]] = {
    run.RunStarted: _run_started,
    run.TaskClaimed: _task_claimed,
    run.TaskClaimLapsed: _task_claim_lapsed,
    run.TaskSucceeded: _task_succeeded,
    run.TaskFailed: _task_failed,
    run.TaskCancelled: _task_cancelled,
    run.RunSucceeded: _run_succeeded,
    run.RunFailed: _run_failed,
    run.RunCancelled: _run_cancelled,
    agent.AgentStarted: _agent_started,
    agent.AgentTakenOver: _agent_taken_over,
    agent.ModelCallStarted: _model_call_started,
    agent.ModelCallSucceeded: _model_call_succeeded,
    agent.ModelCallFailed: _model_call_failed,
    agent.ToolCallStarted: _tool_call_started,
    agent.ToolCallSucceeded: _tool_call_succeeded,
    agent.ToolCallFailed: _tool_call_failed,
    agent.EffectPutInDoubt: _effect_put_in_doubt,
    agent.EffectReconciled: _effect_reconciled,
    agent.LateOutcomeRecorded: _late_outcome_recorded,
    agent.AgentSucceeded: _agent_succeeded,
    agent.AgentFailed: _agent_failed,
    agent.AgentCancelled: _agent_cancelled,
    workspace.WorkspacePrepared: _workspace_prepared,
    workspace.WorkspaceRemoved: _workspace_removed,
    workspace.ChangeCommitted: _change_committed,
    workspace.ChangeDelivered: _change_delivered,
    project.ProjectRegistered: _project_registered,
}
_ELSEWHERE = {**story_money.TELLERS, **story_control.TELLERS, **story_graph.TELLERS}
TOLD = frozenset(_TELLERS) | frozenset(_ELSEWHERE)


def tell_all(entries: Iterable[RecordedEntry]) -> list[Line]:
    """The whole story from its beginning."""
    story, lines = Story(), list[Line]()
    for recorded in entries:
        story, more = tell(story, recorded)
        lines += more
    return lines


def task_of(aggregate_id: str) -> str:
    """Whom the entries of an aggregate are about."""
    return wording.plain(aggregate_id.partition("_")[2]) or RUN
