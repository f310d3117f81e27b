"""What is told about the graph: which way it goes and why, what fans out, waits, merges and is added; and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crewlog.cli import budgeting, wording
from crewlog.cli.lines import RUN, Line, Tone
from crewlog.v1 import admission_pb2 as admission
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1 import run_pb2 as run
from google.protobuf.message import Message

Teller = Callable[[str, Any], Iterator[Line]]
TEXT_CHARACTERS = 160


def _edge_taken(_: str, fact: run.EdgeTaken) -> Iterator[Line]:
    to, why = wording.plain(fact.to_node_id), wording.one_line(fact.why, TEXT_CHARACTERS)
    if fact.is_forward:
        yield Line(fact.from_task_id, f"leads on to {to}: {why}", Tone.DETAIL)
    else:
        yield Line(fact.from_task_id, f"sends the work back to {to}: {why}", Tone.BAD)


def _edge_skipped(_: str, fact: run.EdgeSkipped) -> Iterator[Line]:
    why = wording.one_line(fact.why, TEXT_CHARACTERS)
    yield Line(fact.from_task_id, f"does not lead to {wording.plain(fact.to_node_id)}: {why}", Tone.DETAIL)


def _task_skipped(_: str, fact: run.TaskSkipped) -> Iterator[Line]:
    yield Line(fact.task_id, f"left out: {wording.one_line(fact.why, TEXT_CHARACTERS)}", Tone.DETAIL)


def _task_timed_out(_: str, fact: run.TaskTimedOut) -> Iterator[Line]:
    yield Line(fact.task_id, wording.plain(f"timed out: {fact.failure.reason}: {fact.failure.message}"), Tone.BAD)


def _task_retried(_: str, fact: run.TaskRetried) -> Iterator[Line]:
    seconds = max(0, fact.not_before_unix_micros - fact.at_unix_micros) / 1e6
    when = f" in {seconds:.0f} s" if seconds >= 1 else ""
    yield Line(fact.task_id, f"is tried again{when}, for the {_ordinal(fact.number)} time")


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _wait_started(_: str, fact: run.WaitStarted) -> Iterator[Line]:
    what = f" for the signal {fact.signal}" if fact.signal else ""
    until = f" until {wording.date_and_time(fact.due_at_unix_micros)}" if fact.due_at_unix_micros else ""
    yield Line(fact.task_id, wording.plain(f"waits{what}{until}"))


def _signal_received(_: str, fact: run.SignalReceived) -> Iterator[Line]:
    by = f" from {fact.by}" if fact.by else ""
    yield Line(RUN, wording.plain(f"signal {fact.name}{by}"), Tone.GOOD)


def _map_expanded(_: str, fact: run.MapExpanded) -> Iterator[Line]:
    at_once = f", {fact.at_once_max} at once" if 0 < fact.at_once_max < fact.items else ""
    yield Line(fact.task_id, f"fans out to {wording.counted(fact.items, 'item')}{at_once}")


def _merge_requested(_: str, fact: run.MergeRequested) -> Iterator[Line]:
    yield Line(fact.task_id, f"merges {wording.counted(len(fact.commits), 'commit')}", Tone.DETAIL)


def _child_run_requested(_: str, fact: run.ChildRunRequested) -> Iterator[Line]:
    yield Line(fact.task_id, wording.plain(f"is done by run {fact.child_run_id}"))


def _graph_grown(_: str, fact: run.GraphGrown) -> Iterator[Line]:
    names = ", ".join(node.node_id for node in fact.nodes)
    planned = wording.counted(len(fact.nodes), "task")
    yield Line(fact.task_id, wording.plain(f"has planned {planned}: {wording.one_line(names, TEXT_CHARACTERS)}"))


def _child_spawned(_: str, fact: run.ChildSpawned) -> Iterator[Line]:
    share = f", with {budgeting.in_words(fact.allotment)}" if fact.allotment.ByteSize() else ""
    yield Line(fact.task_id, wording.plain(f"gives work to {fact.node_id} ({fact.node.role.name}){share}"))


def _allotment_shared(who: str, fact: agent.AllotmentShared) -> Iterator[Line]:
    yield Line(who, f"gives {budgeting.in_words(fact.share)} to a child", Tone.DETAIL)


def _admission_limit_set(_: str, fact: admission.AdmissionLimitSet) -> Iterator[Line]:
    of = f"{wording.admission_dimension(fact.dimension)} {fact.name}"
    at_most = (
        "as many tasks at once as there is room for" if fact.tasks_max < 0 else f"at most {fact.tasks_max} at once"
    )
    yield Line(RUN, wording.plain(f"limit of {of}: {at_most}"))


TELLERS: Mapping[type[Message], Teller] = {
    run.EdgeTaken: _edge_taken,
    run.EdgeSkipped: _edge_skipped,
    run.TaskSkipped: _task_skipped,
    run.TaskTimedOut: _task_timed_out,
    run.TaskRetried: _task_retried,
    run.WaitStarted: _wait_started,
    run.SignalReceived: _signal_received,
    run.MapExpanded: _map_expanded,
    run.MergeRequested: _merge_requested,
    run.ChildRunRequested: _child_run_requested,
    run.GraphGrown: _graph_grown,
    run.ChildSpawned: _child_spawned,
    agent.AllotmentShared: _allotment_shared,
    admission.AdmissionLimitSet: _admission_limit_set,
}
