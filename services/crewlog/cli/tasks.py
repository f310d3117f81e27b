"""The tasks of a run as people see them: a map is one line, whatever it has of items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from crewlog.cli import printed, wording
from crewlog.v1.run_pb2 import ParkCause, TaskStatus, TaskView

_AT_WORK = TaskStatus.TASK_STATUS_CLAIMED
_PARKED = TaskStatus.TASK_STATUS_PARKED
_DONE, _FAILED, _CANCELLED = "done", "failed", "cancelled"
_STANDINGS = {
    TaskStatus.TASK_STATUS_SUCCEEDED: _DONE,
    _AT_WORK: "at work",
    _PARKED: "waiting",
    TaskStatus.TASK_STATUS_FAILED: _FAILED,
    TaskStatus.TASK_STATUS_TIMED_OUT: _FAILED,
    TaskStatus.TASK_STATUS_CANCELLED: _CANCELLED,
}
"""How items stand that have begun."""
_NOT_BEGUN = (TaskStatus.TASK_STATUS_WAITING, TaskStatus.TASK_STATUS_READY)
_MAP_FAILED = "map_failed"
"""Its message says what became of the items."""


def items_of(tasks: Iterable[TaskView]) -> dict[str, list[TaskView]]:
    """The items of each map, by its task."""
    tasks = list(tasks)
    found: dict[str, list[TaskView]] = {task.task_id: [] for task in tasks if task.kind == "map"}
    for task in tasks:
        if task.parent_task_id in found:
            found[task.parent_task_id].append(task)
    return found


def without_items(tasks: Sequence[TaskView]) -> list[TaskView]:
    """What the items of a map have taken stands with the map."""
    items = items_of(tasks)
    return [_with_sums(task, items[task.task_id]) if task.task_id in items else task for task in _outer(tasks, items)]


def progress(task: TaskView, items: Iterable[TaskView]) -> str:
    """How far a map has come, such as `3 of 12 done, 4 at work, 1 failed`."""
    if not task.items:
        return ""
    latest = {item.node_id: item for item in sorted(items, key=lambda item: item.visit)}.values()
    counts = Counter(_standing(item) for item in latest)
    beside = [f"{counts[name]} {name}" for name in dict.fromkeys(_STANDINGS.values()) if counts[name] and name != _DONE]
    left_out = max(0, task.items_ended - counts[_DONE] - counts[_FAILED] - counts[_CANCELLED])
    return ", ".join([f"{counts[_DONE] + left_out} of {task.items} done", *beside])


def status(task: TaskView, run_ended_at: int) -> str:
    """What has not begun when its run is over does not wait any more."""
    if run_ended_at and task.status in _NOT_BEGUN:
        return "not begun"
    return wording.task_status(task.status)


def _standing(item: TaskView) -> str:
    """What is done by another run is at work for as long as that is."""
    if item.status == _PARKED and item.park_cause == ParkCause.PARK_CAUSE_CHILD_RUN:
        return _STANDINGS[_AT_WORK]
    return _STANDINGS.get(item.status, "")


def not_begun(tasks: Sequence[TaskView]) -> list[str]:
    """Items are tasks once they have begun: how many have not, by map."""
    items = items_of(tasks)
    counts = {
        task.task_id: (task.items - len({item.node_id for item in items[task.task_id]}), task.items)
        for task in tasks
        if task.task_id in items
    }
    return [
        f"{task_id}: {left} of {whole} items have not begun" for task_id, (left, whole) in counts.items() if left > 0
    ]


def what_came_of_it(task: TaskView, question: str = "", items: Iterable[TaskView] = ()) -> str:
    """Which item it is, and the result or what is in the way of it."""
    far = "" if task.failure.reason == _MAP_FAILED else progress(task, items)
    child, state = f"run {task.child_run_id}" if task.child_run_id else "", _state(task, question)
    item = wording.one_line(task.item, wording.ITEM_CHARACTERS)
    parts = (item, far, "" if state.startswith(f"{child}:") else child, state)
    return ": ".join(part for part in parts if part)


def _state(task: TaskView, question: str) -> str:
    if task.status == TaskStatus.TASK_STATUS_SKIPPED:
        return task.skipped_why
    if task.status == _PARKED:
        return f"{_waits(task, question)}{_due(task, ', until ')}".removeprefix(", ")
    if task.status == _AT_WORK:
        return _due(task, "times out at ")
    said = task.failure.message or task.result.summary or (task.result.structured_json if task.kind == "wait" else "")
    return f"(cut, of {size}) {said}" if (size := printed.cut_from(task)) else said


def _waits(task: TaskView, question: str) -> str:
    if question:
        return f"asks: {question}"
    if task.park_cause in (ParkCause.PARK_CAUSE_MAP, ParkCause.PARK_CAUSE_CHILD_RUN):
        return ""  # how far it is says more
    if task.parked_on:
        return f"waits: what it needs does not fit into what {task.parked_on} has left"
    return f"waits for the signal {task.signal}" if task.signal else wording.park_cause(task.park_cause)


def _due(task: TaskView, words: str) -> str:
    return words + wording.date_and_time(task.due_at_unix_micros) if task.due_at_unix_micros else ""


def _outer(tasks: Iterable[TaskView], items: Mapping[str, Sequence[TaskView]]) -> list[TaskView]:
    return [task for task in tasks if task.parent_task_id not in items]


def _with_sums(task: TaskView, items: Sequence[TaskView]) -> TaskView:
    whole = TaskView()
    whole.CopyFrom(task)
    for result in (item.result for item in items):
        whole.result.turns += result.turns
        whole.result.tool_calls += result.tool_calls
        whole.result.cost_usd_micros += result.cost_usd_micros
        whole.result.usage.input_tokens += wording.tokens(result.usage)
    return whole
