"""What expressions and templates of a workflow see of a run. Outputs of agents are values here, and nothing but that.

run    id, project, workflow, input
tasks  of each node that is named, its latest visit that has ended; where the task has begun: that had ended before
task   in the condition of an edge: where it comes from
item   in the body of a map, with its index
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from crewlog.domain import names
from crewlog.domain.run.state import ENDED, Run, Task, current, index_of, kind, map_task_id, parts_of
from crewlog.domain.workflow.expression_functions import CutText
from crewlog.domain.workflow.expressions import Expression, compile_expression
from crewlog.domain.workflow.templates import Template
from crewlog.v1.run_pb2 import TaskStatus

_CUT_FROM_BYTES = "_cut_from_bytes"
OUTCOMES = {
    TaskStatus.TASK_STATUS_SUCCEEDED: "succeeded",
    TaskStatus.TASK_STATUS_FAILED: "failed",
    TaskStatus.TASK_STATUS_CANCELLED: "cancelled",
    TaskStatus.TASK_STATUS_TIMED_OUT: "timed_out",
    TaskStatus.TASK_STATUS_SKIPPED: "skipped",
}


def evaluated(run: Run, text: str, node_id: str = "", source: Task | None = None) -> Any:
    """The value of an expression. Raises ExpressionFailed."""
    expression = compile_expression(text)
    return expression.value(_context(run, expression, node_id, source))


def holds(run: Run, text: str, source: Task) -> bool:
    """Whether the condition of a way from this task holds. Raises ExpressionFailed."""
    expression = compile_expression(text)
    return expression.holds(_context(run, expression, source.node_id, source))


def rendered(run: Run, text: str, node_id: str) -> str:
    """The text with the values of its expressions. Raises ExpressionFailed."""
    if "{{" not in text:
        return text
    template = Template.of(text)
    return template.render(_context(run, template, node_id, None))


def check_rendered(run: Run, node_id: str) -> None:
    """Whether every template of a node that an executor performs has a value. Raises ExpressionFailed."""
    node = run.graph.node(node_id)
    for text in (node.agent.prompt, *node.command.argv):
        rendered(run, text, node_id)


def _context(run: Run, needs: Expression | Template, node_id: str, source: Task | None) -> Mapping[str, Any]:
    known = current(run, node_id) if source is None else None
    began_at = known.started_at_unix_micros if known is not None else 0
    context: dict[str, Any] = {"run": _run(run), "tasks": _tasks(run, needs.tasks, began_at)}
    if source is not None:
        context["task"] = value_of(run, source)
    if node_id and run.graph.is_item(node_id):
        context["index"] = index_of(node_id)
        context["item"] = item_of(run, node_id)
    return context


def _run(run: Run) -> dict[str, Any]:
    started = run.started
    return {
        "id": started.run_id,
        "project": started.project_id,
        "workflow": started.workflow.name,
        "input": started.input.inline.decode(errors="replace"),
    }


def _tasks(run: Run, node_ids: Iterable[str], began_at: int) -> dict[str, Any]:
    """A task that goes into other hands is still about the same."""
    ended = ((node_id, latest(run, node_id, began_at)) for node_id in node_ids)
    return {node_id: value_of(run, task) for node_id, task in ended if task is not None}


def latest(run: Run, node_id: str, until: int = 0) -> Task | None:
    """The last visit that has ended, even where the node is about to be visited again; `until`: by then."""
    for visit in range(run.visits.get(node_id, 0), 0, -1):
        task = run.tasks.get(names.task_id(node_id, visit))
        if task is not None and task.status in ENDED and (not until or task.ended_at_unix_micros <= until):
            return task
    return None


def item_of(run: Run, node_id: str) -> Any:
    """What the item of a map is about."""
    expansion, index = run.expansions[map_task_id(run, node_id)], index_of(node_id)
    return index if expansion.items is None else _value(expansion.items[index])


def value_of(run: Run, task: Task) -> dict[str, Any]:
    cut_from_bytes = task.result.output_cut_from_bytes if task.result is not None else 0
    value: dict[str, Any] = {
        "outcome": OUTCOMES[task.status],
        "output": output_of(task),
        "output_cut_from_bytes": cut_from_bytes,
        "result": result_of(run, task),
        "visit": task.visit,
        "commit": task.commits[-1] if task.commits else "",
        "cost_usd": task.result.cost_usd_micros / 1e6 if task.result is not None else 0.0,
    }
    if task.failure is not None:
        value["failure"] = {"reason": task.failure.reason, "message": task.failure.message}
    return value


def output_of(task: Task) -> str:
    """Where some of it is left out, expressions know that."""
    if task.result is None:
        return ""
    return CutText.of(task.result.output.inline.decode(errors="replace"), task.result.output_cut_from_bytes)


def result_of(run: Run, task: Task) -> Any:
    """The structured result; of a map, what came of each item, in their order."""
    if task.task_id in run.expansions and kind(run.graph.node(task.node_id)) == "map":
        return [_result_of_item(run, part) for part in parts_of(run, task)]
    return _value(task.result.structured_json) if task.result is not None and task.result.structured_json else None


def _value(text: str) -> Any:
    """With the texts in it that say of themselves, as the results of commands do, that some of them is left out."""
    return json.loads(text, object_hook=_with_cut_texts if f'{_CUT_FROM_BYTES}"' in text else None)


def _with_cut_texts(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _cut(text, fields.get(f"{name}{_CUT_FROM_BYTES}")) for name, text in fields.items()}


def _cut(value: Any, cut_from_bytes: Any) -> Any:
    is_cut = isinstance(value, str) and isinstance(cut_from_bytes, int)
    return CutText.of(value, cut_from_bytes) if is_cut else value


def _result_of_item(run: Run, item: Task) -> Any:
    if item.status != TaskStatus.TASK_STATUS_SUCCEEDED:
        return None
    value = result_of(run, item)
    return output_of(item) if value is None else value
