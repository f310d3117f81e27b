"""What an executor is told when it gets a task. Made from the state in which the claim is recorded."""

from __future__ import annotations

from collections.abc import Callable

from crewlog.domain import names, run_state
from crewlog.domain.run_state import Run, Task
from crewlog.scheduler import prompts
from crewlog.telemetry import traces
from crewlog.v1.scheduler_pb2 import Grant

ClaimSigner = Callable[[str, str, int], str]
"""(run id, task id, generation) -> claim token."""


def make(run: Run, task: Task, revision: int, sign: ClaimSigner) -> Grant:
    node = run.graph.nodes[task.node_id]
    run_id = run.started.run_id
    grant = Grant(
        revision=revision,
        run_id=run_id,
        task_id=task.task_id,
        agent_id=names.agent_id(run_id, task.task_id),
        generation=task.generation,
        project_id=run.started.project_id,
        node=node,
        model=node.agent.role.model or run.started.model,
        allotment=task.allotment.limit(),
        has_to_stop=task.has_to_stop,
        title=run.started.input.inline.decode(errors="replace").strip().partition("\n")[0],
        traceparent=traces.traceparent_of_run(run_id),
    )
    if node.HasField("agent"):
        grant.prompt = prompts.compose(run, task)
        grant.base_commits.extend(run_state.base_commits(run, task))
        grant.base_tree = _base_tree(run, task)
        grant.claim_token = sign(run_id, task.task_id, task.generation)
    return grant


def _base_tree(run: Run, task: Task) -> str:
    """The files as the only predecessor left them, with what git ignores; empty where there is not just one."""
    if len(task.based_on) != 1:
        return ""
    result = run.tasks[task.based_on[0]].result
    return result.snapshot.full_tree if result is not None else ""
