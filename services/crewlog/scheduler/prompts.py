"""What an agent is asked to do: the input of the run, what its node adds, and what the tasks before it handed over.

Outputs of agents are quoted as they are. Nothing in them is interpreted.
"""

from __future__ import annotations

from collections.abc import Iterator

from crewlog.domain.run_state import Run, Task


def compose(run: Run, task: Task) -> str:
    """The first message of the task's conversation."""
    return "\n\n".join(_parts(run, task))


def _parts(run: Run, task: Task) -> Iterator[str]:
    yield f"The task:\n\n{run.started.input.inline.decode(errors='replace').strip()}"
    yield f"The work of this run began at commit {run.started.base_commit}."
    added = run.graph.nodes[task.node_id].agent.prompt.strip()
    if added:
        yield added
    if task.visit > 1:
        yield _visit(run, task)
        yield from _earlier(run, task)
    for task_id in task.based_on:
        yield _handed_over(run.tasks[task_id])


def _visit(run: Run, task: Task) -> str:
    if run.feedback.get(task.node_id) in task.based_on:
        return f"This is visit {task.visit}: the work was sent back to you. The files are as they were left."
    return f"This is visit {task.visit}: the work before you was sent back, and has been done again."


def _earlier(run: Run, task: Task) -> Iterator[str]:
    """What the task's own dependencies had said, which a revisit still has to know."""
    for node_id in run.graph.nodes[task.node_id].depends_on:
        known = [other for other in run.tasks.values() if other.node_id == node_id and other.result is not None]
        if known and known[-1].task_id not in task.based_on:
            yield _handed_over(max(known, key=lambda other: other.visit))


def _handed_over(task: Task) -> str:
    text = task.result.output.inline.decode(errors="replace").strip() if task.result else ""
    return f"What {task.node_id!r} handed over:\n\n<output of={task.node_id!r}>\n{text}\n</output>"
