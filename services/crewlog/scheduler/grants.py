"""What an executor is told when it gets a task. Made from the state in which the claim is recorded."""

from __future__ import annotations

from collections.abc import Callable

from crewlog.domain import names
from crewlog.domain.run import context as run_context
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Gate, Run, Task
from crewlog.scheduler import prompts
from crewlog.telemetry import traces
from crewlog.v1.run_pb2 import GateKind, GateStatus, MessageSent, Node
from crewlog.v1.scheduler_pb2 import GateOutcome, Grant, TaskMessage

ClaimSigner = Callable[[str, str, int], str]
"""(run id, task id, generation) -> claim token."""


def make(run: Run, task: Task, revision: int, sign: ClaimSigner) -> Grant:
    node = _node(run, task)
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
        title=_title(run),
        traceparent=traces.traceparent_of_run(run_id),
    )
    if node.HasField("command") or node.HasField("agent"):
        _add_files(grant, run, task, node)
        grant.claim_token = sign(run_id, task.task_id, task.generation)
    if node.HasField("agent"):
        grant.messages.extend(message(run, task, sent) for sent in run.messages.get(task.task_id, ()))
        grant.gate_outcomes.extend(_gate_outcomes(run, task))
        grant.prompt = prompts.compose(run, task)
    return grant


def _title(run: Run) -> str:
    """The first line of the input, which an agent may have written. It goes into commits, where not all may stand."""
    line = run.started.input.inline.decode(errors="replace").strip().partition("\n")[0]
    return "".join(sign if sign.isprintable() else " " * sign.isspace() for sign in line).strip()


def _node(run: Run, task: Task) -> Node:
    """What has to be done, with every value in its place."""
    node = Node()
    node.CopyFrom(run_state.node_of(run, task))
    node.node_id = task.node_id
    if node.HasField("command"):
        node.command.argv[:] = [run_context.rendered(run, each, task.node_id) for each in node.command.argv]
    return node


def _add_files(grant: Grant, run: Run, task: Task, node: Node) -> None:
    grant.base_commits.extend(run_state.base_commits(run, task))
    grant.base_tree = _base_tree(run, task)
    grant.with_conflicts = node.files.with_conflicts or run_state.is_after_conflict(run, task)
    spawned = run.spawned.get(task.node_id)
    if spawned is not None and spawned.snapshot is not None:
        grant.base_snapshot.CopyFrom(spawned.snapshot)


def message(run: Run, task: Task, sent: MessageSent) -> TaskMessage:
    return TaskMessage(
        run_id=run.started.run_id,
        task_id=task.task_id,
        generation=task.generation,
        message_id=sent.message_id,
        number=sent.number,
        mode=sent.mode,
        text=sent.text,
    )


def _gate_outcomes(run: Run, task: Task) -> list[GateOutcome]:
    """What people have said to the questions of the agent, or what was declared for when nobody does."""
    gates = (gate for gate in run.gates.values() if gate.opened.task_id == task.task_id)
    closed = (GateStatus.GATE_STATUS_ANSWERED, GateStatus.GATE_STATUS_EXPIRED)
    asked = (gate for gate in gates if gate.opened.kind != GateKind.GATE_KIND_BUDGET)
    return [_gate_outcome(gate) for gate in asked if gate.status in closed]


def _gate_outcome(gate: Gate) -> GateOutcome:
    is_expired = gate.status == GateStatus.GATE_STATUS_EXPIRED
    return GateOutcome(
        gate_id=gate.opened.gate_id,
        kind=gate.opened.kind,
        turn=gate.opened.turn,
        index=gate.opened.index,
        answer=gate.opened.default_choice if is_expired else gate.choice or gate.text,
        answered_by=gate.answered_by,
        is_expired=is_expired,
    )


def _base_tree(run: Run, task: Task) -> str:
    """The files as the only predecessor left them, with what git ignores; empty where there is not just one."""
    before = run_state.files_of(task)
    if len(before) != 1 or len(run.tasks[before[0]].commits) > 1:
        return ""
    result = run.tasks[before[0]].result
    return result.snapshot.full_tree if result is not None else ""
