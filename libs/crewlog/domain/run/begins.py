"""What the run itself does when it is the turn of a node that no executor performs: it asks, waits, fans out, merges.

Everything here follows from the state, and is decided in the same entry as what has led to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from crewlog.domain import names
from crewlog.domain.amounts import ZERO
from crewlog.domain.replacing import replace
from crewlog.domain.run import context as run_context
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run import money as run_money
from crewlog.domain.run import stopping as run_stopping
from crewlog.domain.run.events import evolve
from crewlog.domain.run.graph_events import has_enough
from crewlog.domain.run.map_events import is_failing
from crewlog.domain.run.results import bounded
from crewlog.domain.run.state import (
    Expansion,
    Run,
    Task,
    current,
    files_of,
    inherited,
    is_after_conflict,
    is_over,
    is_stopping,
    kind,
    next_task,
    visits_left,
)
from crewlog.domain.workflow.expressions import ExpressionFailed
from crewlog.domain.workflow.graph import EXECUTOR_KINDS
from crewlog.domain.workflow.nodes import ITEMS_MAX
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import GateNode, GateNodeKind, JoinMode
from crewlog.v1.run_pb2 import (
    ChildRunRequested,
    GateKind,
    GateOpened,
    MapExpanded,
    MergeRequested,
    Node,
    TaskResult,
    TaskSkipped,
    TaskStatus,
    WaitStarted,
)
from google.protobuf.message import Message

AT_ONCE_DEFAULT = 64
ITEMS_BYTES_MAX = 512 * 1024
FOLLOWING_BYTES_MAX = 1024 * 1024
"""A quarter of an entry, so that what comes last still fits into it."""
GATE_TEXT_CHARACTERS_MAX = 32_000
ITEMS_NAMED_MAX = 5
MAP_FAILED = "map_failed"
_ENDS = {TaskStatus.TASK_STATUS_CANCELLED: "cancelled", TaskStatus.TASK_STATUS_TIMED_OUT: "timed out"}
APPROVE, REJECT = "approve", "reject"


def following(run: Run, at: int) -> list[Message]:
    """What is decided about every node whose turn it is, and what that leads to, until nothing more follows. Where that
    is more than an entry shall hold, the rest is due at once."""
    events: list[Message] = []
    size = 0
    while is_going_on(run) and size < FOLLOWING_BYTES_MAX:
        for event in _next(run, run.pending[0], at):
            events.append(event)
            size += event.ByteSize()
            run = evolve(run, event)  # type: ignore[arg-type]
    return events


def is_going_on(run: Run) -> bool:
    """Whether there are nodes whose turn it is and that no executor performs."""
    return bool(run.pending) and run.paused is None and not is_stopping(run) and not is_over(run)


def _next(run: Run, node_id: str, at: int) -> list[Message]:
    task = next_task(run, node_id)
    if task.task_id in run.expansions:
        return _end_of_map(run, task, at)
    if not run.graph.is_item(node_id) and not has_enough(run, node_id):
        return _left_out(run, task, at)
    events = run_stopping.left_behind(run, node_id, at)
    try:
        return [*events, *_begin(run, task, at)]
    except ExpressionFailed as problem:
        return [*events, *_not_worked_out(run, task, problem, at)]


def _left_out(run: Run, task: Task, at: int) -> list[Message]:
    """Nothing leads to the node, or not as much as its join needs."""
    node_id = task.node_id
    ways, arrived = len(run.graph.incoming[node_id]), len(run.arrivals.get(node_id, ()))
    is_strict = run.graph.nodes[node_id].join.mode != JoinMode.JOIN_MODE_UNSPECIFIED
    if is_strict and run.lost.get(node_id, 0) < ways and run_stopping.is_needed(run, node_id):
        message = f"{node_id!r} needs {run.graph.needed(node_id)} of {ways} before it, and {arrived} have come"
        return _failed(run, task, run_ends.JOIN_MISSED, message + _missing(run, node_id), at)
    why = "nothing waits for it any more" if arrived else "no edge that leads here was taken"
    return [TaskSkipped(task_id=task.task_id, node_id=node_id, visit=task.visit, why=why, at_unix_micros=at)]


def _missing(run: Run, node_id: str) -> str:
    """What became of those that have not come, as far as they have ended."""
    arrived = {number for number, _ in run.arrivals.get(node_id, ())}
    sources = dict.fromkeys(way.source for way in run.graph.incoming[node_id] if way.number not in arrived)
    ended = [task for source in sources if (task := current(run, source)) is not None and task.status in _BECAME]
    said = [f"{task.task_id} {_BECAME[task.status]}" for task in ended[:ITEMS_NAMED_MAX]]
    rest = [f"and {len(ended) - ITEMS_NAMED_MAX} more"] if len(ended) > ITEMS_NAMED_MAX else []
    return ": " + ", ".join([*said, *rest]) if said else ""


_BECAME = {
    TaskStatus.TASK_STATUS_SUCCEEDED: "has led elsewhere",
    TaskStatus.TASK_STATUS_FAILED: "has failed",
    TaskStatus.TASK_STATUS_TIMED_OUT: "has timed out",
    TaskStatus.TASK_STATUS_CANCELLED: "was cancelled",
    TaskStatus.TASK_STATUS_SKIPPED: "was left out",
}


def _begin(run: Run, task: Task, at: int) -> list[Message]:
    node = run.graph.node(task.node_id)
    task = with_files(run, task)
    return _BEGINNINGS[kind(node)](run, task, node, at)


def with_files(run: Run, task: Task) -> Task:
    """The task with the files that its node asks for. Raises ExpressionFailed."""
    files = run.graph.node(task.node_id).files
    if files.none:
        return replace(task, files_from=())
    if not getattr(files, "from"):
        return task
    value = run_context.evaluated(run, getattr(files, "from"), task.node_id)
    node_ids = value if isinstance(value, list) else [value]
    return replace(task, files_from=tuple(_ended_task(run, node_id) for node_id in node_ids))


def _ended_task(run: Run, node_id: Any) -> str:
    task = current(run, node_id) if isinstance(node_id, str) else None
    if task is None or not task.ended_at_unix_micros:
        raise ExpressionFailed(f"`files` names {str(node_id)[:80]!r}, which is no node that has ended")
    return task.task_id


def _gate(run: Run, task: Task, node: Node, at: int) -> list[Message]:
    gate = node.gate
    seconds = gate.expires_seconds or run.started.gate_seconds or run_money.GATE_SECONDS_DEFAULT
    question = run_context.rendered(run, gate.question, task.node_id)[:GATE_TEXT_CHARACTERS_MAX]
    text = run_context.rendered(run, gate.text, task.node_id)[:GATE_TEXT_CHARACTERS_MAX]
    opened = GateOpened(
        gate_id=f"{task.task_id}-{len(run.gates) + 1}",
        kind=_GATE_KINDS[gate.kind],
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        question=question,
        choices=_choices(gate),
        text=Body(inline=text.encode()) if text else None,
        expires_at_unix_micros=at + seconds * 1_000_000,
        default_choice=gate.default_answer,
        at_unix_micros=at,
    )
    return [opened]


_GATE_KINDS = {
    GateNodeKind.GATE_NODE_KIND_UNSPECIFIED: GateKind.GATE_KIND_APPROVAL,
    GateNodeKind.GATE_NODE_KIND_APPROVE: GateKind.GATE_KIND_APPROVAL,
    GateNodeKind.GATE_NODE_KIND_CHOOSE: GateKind.GATE_KIND_CHOICE,
    GateNodeKind.GATE_NODE_KIND_ANSWER: GateKind.GATE_KIND_ANSWER,
    GateNodeKind.GATE_NODE_KIND_EDIT: GateKind.GATE_KIND_EDIT,
}


def _choices(gate: GateNode) -> list[str]:
    is_approval = _GATE_KINDS[gate.kind] == GateKind.GATE_KIND_APPROVAL
    return [APPROVE, REJECT] if is_approval else list(gate.choices)


def _wait(run: Run, task: Task, node: Node, at: int) -> list[Message]:
    wait = node.wait
    started = WaitStarted(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        due_at_unix_micros=at + wait.seconds * 1_000_000 if wait.seconds else 0,
        signal=wait.signal,
        at_unix_micros=at,
    )
    if wait.signal not in run.signals:
        return [started]
    return [started, *arrived(evolve(run, started), task.task_id, run.signals[wait.signal], at)]


def arrived(run: Run, task_id: str, payload_json: str, at: int) -> list[Message]:
    """The signal that the task waits for is there."""
    result = TaskResult(structured_json=payload_json)
    return run_ends.events_of(run, run.tasks[task_id], run_ends.succeeded(result, at))


def _join(run: Run, task: Task, node: Node, at: int) -> list[Message]:
    commits = inherited(run, files_of(task))
    if len(commits) > 1:
        return [_merge(run, task, commits, at)]
    return run_ends.events_of(run, task, run_ends.succeeded(_joined(run, task, commits), at))


def _joined(run: Run, task: Task, commits: tuple[str, ...]) -> TaskResult:
    """The results of those before it, by their nodes, where they are not too many."""
    values = {run.tasks[other].node_id: run_context.result_of(run, run.tasks[other]) for other in task.based_on}
    return TaskResult(commit=commits[0] if commits else run.started.base_commit, structured_json=bounded(values))


def _merge(run: Run, task: Task, commits: tuple[str, ...], at: int) -> MergeRequested:
    node = run.graph.node(task.node_id)
    return MergeRequested(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        commits=commits,
        with_conflicts=node.files.with_conflicts or is_after_conflict(run, task),
        at_unix_micros=at,
    )


def merged(run: Run, task: Task, commit: str, at: int) -> list[Message]:
    """The files of several are one commit now: that was all, or a child run starts from it."""
    node = run.graph.node(task.node_id)
    if not node.HasField("workflow"):
        return run_ends.events_of(run, task, run_ends.succeeded(_joined(run, task, (commit,)), at))
    try:
        return _request(run, task, node, commit, at)
    except ExpressionFailed as problem:
        return _not_worked_out(run, task, problem, at)


def _map(run: Run, task: Task, node: Node, at: int) -> list[Message]:
    items = None
    if node.map.over:
        value = run_context.evaluated(run, node.map.over, task.node_id)
        if not isinstance(value, list):
            raise ExpressionFailed(f"`over` gives {type(value).__name__}, and has to give a list")
        items = [json.dumps(item, ensure_ascii=False) for item in value]
    count = node.map.times if items is None else len(items)
    if count > ITEMS_MAX or count > visits_left(run):
        raise ExpressionFailed(f"{count} items are more than the run may visit")
    if items is not None and sum(len(item.encode()) for item in items) > ITEMS_BYTES_MAX:
        raise ExpressionFailed(f"the items are more than {ITEMS_BYTES_MAX} bytes")
    expanded = MapExpanded(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        items_json=items,
        items=count,
        at_once_max=node.map.at_once_max or AT_ONCE_DEFAULT,
        at_unix_micros=at,
    )
    return [expanded]


def _end_of_map(run: Run, task: Task, at: int) -> list[Message]:
    expansion = run.expansions[task.task_id]
    if task.timed_out is not None or task.cancel_requested is not None:
        return run_ends.events_of(run, task, run_ends.stopped(task, None, at))
    if is_failing(run, expansion):
        return _failed(run, task, MAP_FAILED, _what_became_of(run, expansion), at)
    result = TaskResult(structured_json=bounded(run_context.result_of(run, task)))
    return run_ends.events_of(run, task, run_ends.succeeded(result, at))


def _what_became_of(run: Run, expansion: Expansion) -> str:
    """How many items are done, and how the first of the others have ended: those that were only cancelled come last."""
    node_ids = (names.item_node_id(expansion.node_id, index) for index in range(expansion.begun))
    ended = [item for node_id in node_ids if (item := current(run, node_id)) is not None]
    others = [item for item in ended if item.status != TaskStatus.TASK_STATUS_SUCCEEDED]
    others.sort(key=lambda item: item.status == TaskStatus.TASK_STATUS_CANCELLED)
    told = [f"{item.task_id}: {_ENDS.get(item.status, 'failed')}" for item in others[:ITEMS_NAMED_MAX]]
    told += [f"and {len(others) - len(told)} more"] if len(others) > len(told) else []
    done = f"{len(ended) - len(others)} of {expansion.count} items of {expansion.node_id!r} are done"
    return f"{done}; {', '.join(told)}"


def _workflow(run: Run, task: Task, node: Node, at: int) -> list[Message]:
    commits = inherited(run, files_of(task))
    if len(commits) > 1:
        return [_merge(run, task, commits, at)]
    return _request(run, task, node, commits[0] if commits else run.started.base_commit, at)


def _request(run: Run, task: Task, node: Node, base_commit: str, at: int) -> list[Message]:
    allotment = run_money.first_allotment(run, task.node_id, ZERO)
    if allotment is None:
        return run_ends.unpaid(run, task, run_money.own_budget(run), at)
    text = run_context.rendered(run, node.workflow.input, task.node_id) or _handed_on(run, task)
    requested = ChildRunRequested(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        child_run_id=names.child_run_id(run.started.run_id, task.task_id),
        input=Body(inline=text.encode()),
        allotment=allotment.limit(),
        base_commit=base_commit,
        at_unix_micros=at,
    )
    return [requested]


def _handed_on(run: Run, task: Task) -> str:
    """What the run is for, and what those before the child run have said."""
    parts = [run.started.input.inline.decode(errors="replace").strip()]
    for other in (run.tasks[task_id] for task_id in task.based_on):
        parts.append(f"What {other.node_id!r} handed over:\n\n{run_context.output_of(other).strip()}")
    return "\n\n".join(parts)


def _not_worked_out(run: Run, task: Task, problem: ExpressionFailed, at: int) -> list[Message]:
    return _failed(run, task, run_ends.EXPRESSION_FAILED, f"{task.node_id!r}: {problem}", at)


def _failed(run: Run, task: Task, reason: str, message: str, at: int) -> list[Message]:
    run_id = run.started.run_id
    ways_out = {
        run_ends.EXPRESSION_FAILED: run_ends.MEND_AND_START,
        run_ends.JOIN_MISSED: f"see why (`crewlog show {run_id}`); `on_failure: continue` is for what may fail",
        MAP_FAILED: f"see why (`crewlog show {run_id} --items`), then take it up again (`crewlog retry {run_id}`)",
    }
    what_to_do = ways_out.get(reason, "look at the workflow and at what its nodes gave")
    failure = Failure(reason=reason, message=message, what_to_do=what_to_do)
    return run_ends.events_of(run, task, run_ends.failed(failure, None, at))


_BEGINNINGS: dict[str, Callable[[Run, Task, Node, int], list[Message]]] = {
    "gate": _gate,
    "wait": _wait,
    "join_files": _join,
    "map": _map,
    "workflow": _workflow,
}
assert not EXECUTOR_KINDS & _BEGINNINGS.keys()
