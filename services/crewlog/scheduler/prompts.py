"""What an agent is asked to do: the input of the run, what its node adds, and what the tasks before it handed over.

Outputs of agents are quoted as they are. Nothing in them is interpreted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from crewlog.domain import names
from crewlog.domain.run import context as run_context
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run, Task

OUTPUT_CHARACTERS_MAX = 48_000
PARTS_MAX = 200
HANDED_OVER_CHARACTERS_MAX = 2_000_000
"""By all tasks before it together: no model reads more."""
INDENTED_CHARACTERS_MAX = 10_000
"""A larger value stands there as it was handed over, without line breaks: to make them takes long."""


def compose(run: Run, task: Task) -> str:
    """The first message of the task's conversation."""
    return "\n\n".join(_parts(run, task))


def _parts(run: Run, task: Task) -> Iterator[str]:
    yield f"The task:\n\n{run.started.input.inline.decode(errors='replace').strip()}"
    yield f"The work of this run began at commit {run.started.base_commit}."
    added = run_context.rendered(run, run_state.node_of(run, task).agent.prompt, task.node_id).strip()
    if added:
        yield added
    if run.graph.is_item(task.node_id):
        yield _item(run, task)
    if task.node_id in run.spawned:
        yield "You do a part of the work of another agent, which reads what you say last."
    if task.visit > 1:
        yield _visit(run, task)
        yield from _earlier(run, task)
    for task_id in task.based_on:
        yield handed_over(run, run.tasks[task_id], HANDED_OVER_CHARACTERS_MAX // len(task.based_on))


def _item(run: Run, task: Task) -> str:
    expansion = run.expansions[run_state.map_task_id(run, task.node_id)]
    index, item = run_state.index_of(task.node_id), run_context.item_of(run, task.node_id)
    if expansion.items is None:
        return f"You are number {index + 1} of {expansion.count}, and each of you does the whole."
    text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, indent=1)
    return f"Your part is number {index + 1} of {expansion.count}; others do the rest at the same time:\n\n{text}"


def _visit(run: Run, task: Task) -> str:
    if run.feedback.get(task.node_id) in task.based_on:
        return f"This is visit {task.visit}: the work was sent back to you. The files are as they were left."
    before = run.tasks.get(names.task_id(task.node_id, task.visit - 1))
    if before is not None and not run_state.is_settled(before):
        why = before.failure.message or before.failure.reason if before.failure is not None else "it was stopped"
        return f"This is visit {task.visit}: the one before has not succeeded ({why}), and its files are not yours."
    return f"This is visit {task.visit}: the work before you was sent back, and has been done again."


def _earlier(run: Run, task: Task) -> Iterator[str]:
    """What had led to the node before, which a revisit still has to know."""
    for way in run.graph.incoming.get(task.node_id, ()):
        known = run_context.latest(run, way.source)
        if known is not None and known.result is not None and known.task_id not in task.based_on:
            yield handed_over(run, known)


def handed_over(run: Run, task: Task, room: int = HANDED_OVER_CHARACTERS_MAX) -> str:
    """What a task says to those that come after it, as it is; of what is longer than its room, the beginning."""
    text = _cut(_said(run, task), room)
    about = f"{_failure(task)}{_files(run, task)}"
    return f"What {task.node_id!r} handed over:{about}\n\n<output of={task.node_id!r}>\n{text}\n</output>"


def _failure(task: Task) -> str:
    return f" It has not succeeded: {task.failure.message}." if task.failure is not None else ""


def _files(run: Run, task: Task) -> str:
    """So that changes which are not among one's own files can be looked at."""
    commits = [commit for commit in task.commits if commit != run.started.base_commit]
    return f" Its files are commit {commits[0]}." if len(commits) == 1 else ""


def _said(run: Run, task: Task) -> str:
    parts = run_state.parts_of(run, task) if task.task_id in run.expansions else []
    if not parts:
        return _own(run, task)
    room, more = OUTPUT_CHARACTERS_MAX // len(parts), len(parts) - PARTS_MAX
    said = [
        f"{part.node_id}:{_failure(part)}{_files(run, part)}\n{_cut(_own(run, part), room)}"
        for part in parts[:PARTS_MAX]
    ]
    return "\n\n".join([*said, f"[... {more} more are left out here ...]"] if more > 0 else said)


def _cut(text: str, room: int) -> str:
    left_out = len(text) - room
    return text if left_out <= 0 else f"{text[:room]}\n[... {left_out} characters are left out here ...]"


def _own(run: Run, task: Task) -> str:
    return "\n\n".join(filter(None, (run_context.output_of(task).strip(), _value(run, task))))


def _value(run: Run, task: Task) -> str:
    stored = task.result.structured_json if task.result is not None else ""
    if len(stored) > INDENTED_CHARACTERS_MAX:
        return stored
    value = run_context.result_of(run, task)
    return "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
