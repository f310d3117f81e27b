"""What clients read of a run: a view is made from the state, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from itertools import accumulate, takewhile
from typing import Literal, TypeAlias, get_args

from crewlog.domain import names
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import ENDED, RETRY, TASK, WAIT, Gate, Run, Task, is_over, is_stopping
from crewlog.domain.workflow.graph import map_of
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.run_pb2 import GateStatus, GateView, ParkCause, RunStatus, RunView, TaskResult, TaskStatus, TaskView

ITEMS_SHOWN_MAX = 1_000
RESULTS_BYTES_MAX = 32 * 1024 * 1024
"""Of all tasks of a view: one that no call can carry would show nothing at all."""
ITEM_CHARACTERS_MAX = 200
GATES_SHOWN_MAX = 100
GATES_BYTES_MAX = 4 * 1024 * 1024
"""Beside the results, and in each of the runs of a list."""
_Word: TypeAlias = Literal["output", "structured_json", "summary"]
_WORDS: tuple[_Word, ...] = get_args(_Word)
_NOT_PARKED = ParkCause.PARK_CAUSE_UNSPECIFIED


def view(run: Run, *, revision: int = 0, trace_id: str = "", with_tasks: bool = True) -> RunView:
    """The run with its tasks as they flow: in the order in which they began or were left out, then those to come."""
    started = run.started
    tasks, left_out = _tasks(run) if with_tasks else ([], 0)
    shown = _few_gates(run)
    return RunView(
        run_id=started.run_id,
        project_id=started.project_id,
        workflow=started.workflow.name,
        input=started.input.inline.decode(errors="replace"),
        status=status(run),
        model=started.model,
        base_commit=started.base_commit,
        budget=run.limit.limit(),
        spent_usd_micros=run.spent.usd_micros,
        allotted_usd_micros=run.allotted.usd_micros,
        usage=usage(run),
        tasks=tasks,
        tasks_left_out=left_out,
        change=run.change,
        failure=run.failure,
        started_at_unix_micros=started.at_unix_micros,
        ended_at_unix_micros=run.ended_at_unix_micros,
        revision=revision,
        requested_by=started.requested_by,
        trace_id=trace_id,
        gates=shown,
        gates_left_out=len(run.gates) - len(shown),
        budget_ids=started.budget_ids,
        lost_usd_micros=sum(result.lost_usd_micros for result in _results(run)),
        saved_usd_micros=sum(result.saved_usd_micros for result in _results(run)),
        paused=run.paused if status(run) == RunStatus.RUN_STATUS_PAUSED else None,
        limits=started.limits if started.HasField("limits") else None,
        workflow_version=started.workflow.version,
        priority=started.priority,
        parent=started.parent if started.HasField("parent") else None,
    )


def gates(run: Run) -> list[GateView]:
    """In the order in which they were opened."""
    waiting = _waited_for(run)
    return [_gate(run, gate, waiting) for gate in sorted(run.gates.values(), key=_opened)]


def changed_gates(before: Run, run: Run) -> list[GateView]:
    """Those whose view is not what it was."""
    waited, waiting = _waited_for(before), _waited_for(run)
    changed = waited ^ waiting
    gates = (
        gate
        for gate_id, gate in run.gates.items()
        if gate is not before.gates.get(gate_id) or gate.opened.task_id in changed
    )
    return [_gate(run, gate, waiting) for gate in gates]


def _few_gates(run: Run) -> list[GateView]:
    """Those that are open and the latest of the others, as many as fit."""
    waiting = _waited_for(run)
    ordered = sorted(run.gates.values(), key=_opened, reverse=True)
    ordered.sort(key=lambda gate: not _is_open(gate, waiting))
    views = [_gate(run, gate, waiting) for gate in ordered[:GATES_SHOWN_MAX]]
    sizes = accumulate(gate.ByteSize() for gate in views)
    count = sum(1 for _ in takewhile(lambda size: size <= GATES_BYTES_MAX, sizes))
    return sorted(views[:count], key=lambda gate: (gate.opened_at_unix_micros, gate.gate_id))


def _is_open(gate: Gate, waiting: Collection[str]) -> bool:
    return gate.status == GateStatus.GATE_STATUS_OPEN and gate.opened.task_id in waiting


def _waited_for(run: Run) -> frozenset[str]:
    """The tasks that somebody may still be asked about."""
    return frozenset() if is_over(run) else frozenset(run.parked)


def status(run: Run) -> RunStatus.ValueType:
    """Paused is a run that would go on if it were resumed: not one that is being stopped, or is over."""
    is_paused = run.paused is not None and run.status == RunStatus.RUN_STATUS_RUNNING and not is_stopping(run)
    return RunStatus.RUN_STATUS_PAUSED if is_paused else run.status


def usage(run: Run) -> Usage:
    """What every task that has ended consumed."""
    used = [result.usage for result in _results(run)]
    return Usage(
        input_tokens=sum(u.input_tokens for u in used),
        output_tokens=sum(u.output_tokens for u in used),
        cache_read_tokens=sum(u.cache_read_tokens for u in used),
        cache_write_tokens=sum(u.cache_write_tokens for u in used),
    )


def _results(run: Run) -> list[TaskResult]:
    return [task.result for task in run.tasks.values() if task.result is not None]


def _opened(gate: Gate) -> tuple[int, str]:
    """Maps have an order of their own in every process; a view has one."""
    return gate.opened.at_unix_micros, gate.opened.gate_id


def _begun(task: Task, order: Mapping[str, int]) -> tuple[int, int, int, str]:
    """What was left out stands where that was decided. Of those at the same time, items of a map stand by number."""
    at = task.started_at_unix_micros or task.ended_at_unix_micros
    place = order.get(task.node_id, order.get(map_of(task.node_id), 0))
    return at, place, len(task.task_id), task.task_id


def _tasks(run: Run) -> tuple[list[TaskView], int]:
    """The tasks that are shown, and how many are not."""
    order = run.graph.order
    known = sorted(run.tasks.values(), key=lambda task: _begun(task, order))
    shown = _few_items(run, known) if len(known) > ITEMS_SHOWN_MAX else known
    to_come = (node_id for node_id in order if names.task_id(node_id, run.visits[node_id]) not in run.tasks)
    results = _few_words([task.result for task in shown])
    views = [_task(run, task, result) for task, result in zip(shown, results, strict=True)]
    return views + [_waiting(run, node_id) for node_id in to_come], len(known) - len(shown)


def _few_words(results: list[TaskResult | None]) -> list[TaskResult | None]:
    """Where they are too large together, those that are larger than an equal part lose their words: first all but the
    summary, then that too. What they have cost stays."""
    if sum(result.ByteSize() for result in results if result is not None) <= RESULTS_BYTES_MAX:
        return results
    room = RESULTS_BYTES_MAX // len(results)
    for field in _WORDS:
        results = [_without(field, result, room) for result in results]
    return results


def _without(field: _Word, result: TaskResult | None, room: int) -> TaskResult | None:
    if result is None or result.ByteSize() <= room:
        return result
    less = TaskResult()
    less.CopyFrom(result)
    less.ClearField(field)
    return less


def _few_items(run: Run, tasks: list[Task]) -> list[Task]:
    """Of the items of maps those first that somebody may want to look at: they have not ended, or not well."""
    items = [task for task in tasks if run.graph.is_item(task.node_id)]
    calm = (TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_CANCELLED)
    items.sort(key=lambda task: task.status in calm)
    hidden = {task.task_id for task in items[ITEMS_SHOWN_MAX:]}
    return [task for task in tasks if task.task_id not in hidden]


def _task(run: Run, task: Task, result: TaskResult | None) -> TaskView:
    return TaskView(
        task_id=task.task_id,
        node_id=task.node_id,
        visit=task.visit,
        status=task.status,
        role=_role(run, task.node_id),
        executor_id=task.executor_id,
        generation=task.generation,
        agent_id=names.agent_id(run.started.run_id, task.task_id),
        parked_on=task.parked_on,
        park_cause=task.park_cause if task.status == TaskStatus.TASK_STATUS_PARKED else _NOT_PARKED,
        messages=len(run.messages.get(task.task_id, ())),
        is_cancel_requested=task.cancel_requested is not None,
        allotment=task.allotment.limit(),
        result=result,
        failure=task.failure,
        started_at_unix_micros=task.started_at_unix_micros,
        ended_at_unix_micros=task.ended_at_unix_micros,
        kind=run_state.kind(run_state.node_of(run, task)) if run.graph.knows(task.node_id) else "",
        parent_task_id=run_state.owner_of(run, task),
        child_run_id=task.child_run_id,
        items=run.expansions[task.task_id].count if task.task_id in run.expansions else 0,
        items_ended=_items_ended(run, task),
        due_at_unix_micros=_due_at(run, task),
        based_on=task.based_on,
        skipped_why=task.skipped_why,
        signal=task.signal if task.status == TaskStatus.TASK_STATUS_PARKED else "",
        item=_item(run, task),
    )


def _items_ended(run: Run, task: Task) -> int:
    """Also those that were stopped with their map, which it did not wait for."""
    expansion = run.expansions.get(task.task_id)
    if expansion is None or task.status not in ENDED:
        return expansion.ended if expansion is not None else 0
    parts = (part for part in run_state.parts_of(run, task) if part.map_task == task.task_id)
    return max(expansion.ended, sum(part.status in ENDED for part in parts))


def _item(run: Run, task: Task) -> str:
    """Of a list, what it says; an item of a number of times says nothing."""
    expansion = run.expansions.get(task.map_task)
    if expansion is None or expansion.items is None:
        return ""
    text = expansion.items[run_state.index_of(task.node_id)]
    return str(json.loads(text) if text.startswith('"') else text)[:ITEM_CHARACTERS_MAX]


def _due_at(run: Run, task: Task) -> int:
    due = (run.due.get(kind + task.task_id, 0) for kind in (TASK, WAIT, RETRY))
    return min((at for at in due if at), default=0)


def _waiting(run: Run, node_id: str) -> TaskView:
    ready = node_id in run.ready
    visit = run.visits[node_id]
    task_id = names.task_id(node_id, visit)
    return TaskView(
        task_id=task_id,
        node_id=node_id,
        visit=visit,
        status=TaskStatus.TASK_STATUS_READY if ready else TaskStatus.TASK_STATUS_WAITING,
        role=_role(run, node_id),
        messages=len(run.messages.get(task_id, ())),
        kind=run_state.kind(run_state.node(run, node_id)),
    )


def _role(run: Run, node_id: str) -> str:
    if not run.graph.knows(node_id):
        return ""  # it was planned, and the plan was made anew
    return run_state.node(run, node_id).agent.role.name


def _gate(run: Run, gate: Gate, waiting: Collection[str]) -> GateView:
    opened = gate.opened
    is_left = gate.status == GateStatus.GATE_STATUS_OPEN and not _is_open(gate, waiting)
    return GateView(
        run_id=run.started.run_id,
        gate_id=opened.gate_id,
        kind=opened.kind,
        status=GateStatus.GATE_STATUS_CLOSED if is_left else gate.status,
        task_id=opened.task_id,
        question=opened.question,
        choices=opened.choices,
        budget_id=opened.budget_id,
        wanted=opened.wanted,
        choice=gate.choice,
        text=gate.text,
        default_choice=opened.default_choice,
        answered_by=gate.answered_by,
        opened_at_unix_micros=opened.at_unix_micros,
        expires_at_unix_micros=opened.expires_at_unix_micros,
        text_to_edit=opened.text.inline.decode(errors="replace"),
    )
