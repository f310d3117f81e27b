"""What tasks have printed: of failed commands the last lines, of a task that is named all that the log has."""

from __future__ import annotations

import json
from collections.abc import Sequence

from crewlog.cli import effects, wording
from crewlog.v1.run_pb2 import TaskStatus, TaskView

LINES_SHOWN_MAX = 10
LINE_CHARACTERS_MAX = 200
TASKS_SHOWN_MAX = 5
_FAILED = (TaskStatus.TASK_STATUS_FAILED, TaskStatus.TASK_STATUS_TIMED_OUT)


def by_failed(run_id: str, tasks: Sequence[TaskView]) -> list[str]:
    """The last lines of each of the latest commands that have failed, and which command shows all of them."""
    latest = {task.node_id: task for task in sorted(tasks, key=lambda task: task.visit)}
    failed = [task for task in tasks if latest[task.node_id] is task and _has_printed(task)]
    return [line for task in failed[-TASKS_SHOWN_MAX:] for line in ("", *_of_command(run_id, task))]


def whole(task: TaskView) -> str:
    """All that the log has of it."""
    body = task.result.output
    if body.WhichOneof("content") == "inline":
        return wording.plain(effects.text_of(body)).strip("\n")
    return wording.plain(_of_result(task.result.structured_json) or task.result.summary).strip("\n")


def cut_from(task: TaskView) -> str:
    """How much there was of an output of which some is left out; empty for one that is whole."""
    size = task.result.output_cut_from_bytes
    return f"{size:,} bytes" if size else ""


def _has_printed(task: TaskView) -> bool:
    """A command that has failed. Of one that was cut off the last line only says that it was."""
    if task.kind != "command" or task.status not in _FAILED:
        return False
    is_cut_off = task.status == TaskStatus.TASK_STATUS_TIMED_OUT and not task.result.structured_json
    shown = whole(task)
    return "\n" in shown if is_cut_off else bool(shown)


def _of_command(run_id: str, task: TaskView) -> list[str]:
    lines = whole(task).split("\n")
    what = f"{task.task_id} has printed"
    if len(lines) > LINES_SHOWN_MAX:
        kept = f"what is kept of {cut_from(task)}" if cut_from(task) else "all of it"
        what += f", at the end (`crewlog show {run_id} --task {task.task_id}` shows {kept})"
    return [f"{what}:", *(f"  {line[:LINE_CHARACTERS_MAX]}".rstrip() for line in lines[-LINES_SHOWN_MAX:])]


def _of_result(structured_json: str) -> str:
    try:
        value = json.loads(structured_json or "null")
    except ValueError:
        return ""
    return str(value.get("output", "")) if isinstance(value, dict) else ""
