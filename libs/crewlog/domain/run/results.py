"""What a run that is a task of another one has come to: the end of that task. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from crewlog.domain.errors import Refused
from crewlog.domain.kept import Kept
from crewlog.domain.run import context as run_context
from crewlog.domain.run import view as run_view
from crewlog.domain.run.state import Run, Task, current
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import EndTask, RunStatus, TaskFailure, TaskResult, TaskStatus

OUTPUT_BYTES_MAX = 60_000
SUMMARY_CHARACTERS_MAX = 2_000
STRUCTURED_BYTES_MAX = 64 * 1024


def end_of(child: Run, at: int) -> EndTask:
    """What the parent has to record for a child run that is over."""
    parent, result = child.started.parent, _result(child)
    has_failed = child.status == RunStatus.RUN_STATUS_FAILED
    return EndTask(
        run_id=parent.run_id,
        task_id=parent.task_id,
        succeeded=result if child.status == RunStatus.RUN_STATUS_SUCCEEDED else None,
        failed=TaskFailure(failure=_failure(child), result=result) if has_failed else None,
        cancelled=result if child.status == RunStatus.RUN_STATUS_CANCELLED else None,
        at_unix_micros=at,
    )


def not_started(refusal: Refused) -> Failure:
    return Failure(reason="child_run_refused", message=refusal.message, what_to_do=refusal.what_to_do)


def _failure(child: Run) -> Failure:
    failure = child.failure or Failure(reason="child_run_failed", message="it has failed")
    return Failure(
        reason=failure.reason,
        message=f"run {child.started.run_id}: {failure.message}",
        what_to_do=failure.what_to_do,
        retryable=failure.retryable,
    )


def _result(child: Run) -> TaskResult:
    view = run_view.view(child, with_tasks=False)
    last = _last(child)
    output = _output(last)
    shown = output.end(OUTPUT_BYTES_MAX)
    return TaskResult(
        output=Body(inline=shown.text.encode()),
        output_cut_from_bytes=shown.cut_from_bytes,
        summary=output.text[:SUMMARY_CHARACTERS_MAX],
        structured_json=_structured(child, last),
        commit=child.change.commit if child.change is not None else "",
        usage=view.usage,
        cost_usd_micros=child.spent.usd_micros,
        spent=child.spent.message(),
        lost_usd_micros=view.lost_usd_micros,
        saved_usd_micros=view.saved_usd_micros,
        duration_micros=max(0, child.ended_at_unix_micros - child.started.at_unix_micros),
    )


def _last(child: Run) -> list[Task]:
    """Those that nothing comes after, in the order in which they were written."""
    ends = (current(child, node_id) for node_id in child.graph.nodes if not child.graph.forward[node_id])
    return [task for task in ends if task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED]


def _output(last: Sequence[Task]) -> Kept:
    """Of all of them, one after the other."""
    texts = [text for task in last if (text := run_context.output_of(task).strip())]
    results = [task.result for task in last if task.result is not None]
    sizes = [result.output_cut_from_bytes or len(result.output.inline) for result in results]
    is_cut = any(result.output_cut_from_bytes for result in results)
    return Kept("\n\n".join(texts), sum(sizes) if is_cut else 0)


def _structured(child: Run, last: list[Task]) -> str:
    """The value of the only one, or the values of all by their nodes; empty where there is none, or too much."""
    values: dict[str, Any] = {task.node_id: run_context.result_of(child, task) for task in last}
    if not any(value is not None for value in values.values()):
        return ""
    return bounded(next(iter(values.values())) if len(values) == 1 else values)


def bounded(value: Any) -> str:
    """As JSON; empty where that is too much."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text.encode()) <= STRUCTURED_BYTES_MAX else ""
