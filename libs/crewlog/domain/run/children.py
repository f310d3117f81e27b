"""Agents that give work to others: children of a task, with a part of its money, that live no longer than it does.

What becomes of a child is told to its parent as a message. A parent that waits for its children holds no executor.
"""

from __future__ import annotations

from collections.abc import Iterator

from crewlog.domain import names
from crewlog.domain.amounts import Amounts, limited_units
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, NotFound, StaleClaim, WrongState
from crewlog.domain.run.state import ENDED, Run, Spawned, Task, current, is_stopping, is_to_stop, node_of, visits_left
from crewlog.domain.workflow.templates import escaped
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    AgentNode,
    ChildSpawned,
    Handling,
    MessageMode,
    MessageSent,
    ParkCause,
    SpawnChild,
    TaskCancelled,
    TaskCancelRequested,
    TaskResult,
    TaskStatus,
    TaskUnparked,
)
from google.protobuf.message import Message

CHILDREN_MAX = 64
CHILDREN_DEFAULT = 16
DEPTH_MAX = 3
PROMPT_BYTES_MAX = 64 * 1024


def spawned_by(run: Run, command: SpawnChild) -> Spawned | None:
    """The child that this very call has made before."""
    node_ids = run.children.get(command.task_id, ())
    known = (run.spawned[node_id] for node_id in node_ids)
    return next((each for each in known if (each.turn, each.index) == (command.turn, command.index)), None)


def spawn(run: Run, command: SpawnChild) -> list[Message]:
    """Raises InvalidCommand, NotFound, StaleClaim, WrongState or BudgetExceeded."""
    if spawned_by(run, command) is not None:
        return []
    parent = run.tasks.get(command.task_id)
    if parent is None:
        raise NotFound(f"run {command.run_id!r} has no task {command.task_id!r}")
    _check_may_spawn(run, parent, command)
    node = node_of(run, parent).agent
    role = next((role for role in node.children if role.name == command.role), None)
    if role is None:
        why = f"has to be one of {', '.join(role.name for role in node.children) or 'no role: it may not spawn'}"
        raise InvalidCommand(f"role {command.role[:80]!r} {why}", violations={"role": why})
    number = len(run.children.get(parent.task_id, ())) + 1
    share = Amounts.of(command.share)
    return [
        ChildSpawned(
            task_id=parent.task_id,
            number=number,
            node_id=_free_node_id(run, parent, number),
            node=AgentNode(
                role=role, prompt=escaped(command.prompt), children=node.children, children_max=node.children_max
            ),
            allotment=share.limit() if share else None,
            snapshot=command.snapshot if command.HasField("snapshot") else None,
            turn=command.turn,
            index=command.index,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def _free_node_id(run: Run, parent: Task, number: int) -> str:
    """A later visit of the same node numbers its children anew."""
    suffix = number if parent.visit == 1 else f"{parent.visit}x{number}"
    return f"{names.child_node_id(parent.node_id, 0)[:-1]}{suffix}"


def _check_may_spawn(run: Run, parent: Task, command: SpawnChild) -> None:
    if parent.status != TaskStatus.TASK_STATUS_CLAIMED or parent.generation != command.generation:
        raise StaleClaim(f"task {command.task_id!r} is not worked on under generation {command.generation}")
    if is_stopping(run) or is_to_stop(parent):
        raise WrongState(f"task {command.task_id!r} is being stopped")
    if not command.prompt.strip() or len(command.prompt.encode()) > PROMPT_BYTES_MAX:
        why = f"has to be 1 to {PROMPT_BYTES_MAX} bytes long"
        raise InvalidCommand(f"prompt {why}", violations={"prompt": why})
    children_max = min(CHILDREN_MAX, node_of(run, parent).agent.children_max or CHILDREN_DEFAULT)
    if len(run.children.get(parent.task_id, ())) >= children_max:
        raise WrongState(f"task {command.task_id!r} has {children_max} children: it may have no more")
    if visits_left(run) <= 0:
        raise WrongState("the run has had as many visits as its workflow allows: there is no room for children")
    if depth_of(run, parent) >= DEPTH_MAX:
        raise WrongState(f"task {command.task_id!r} is {DEPTH_MAX} deep: its children may have none")
    share = Amounts.of(command.share)
    if (share and not parent.allotment) or (parent.allotment - share) != (parent.allotment - share).at_least_zero():
        raise BudgetExceeded(f"task {command.task_id!r} has not so much to give")
    missing = [unit for unit in limited_units(parent.allotment) if not getattr(share, unit)]
    if missing:
        raise BudgetExceeded(f"a child needs a share of all that limits its parent, also of {missing[0]}")


def depth_of(run: Run, task: Task) -> int:
    """How many parents are above the task."""
    depth, spawned = 0, run.spawned.get(task.node_id)
    while spawned is not None:
        depth, spawned = depth + 1, run.spawned.get(names.node_of(spawned.parent))
    return depth


def told(run: Run, child: Task, failure: Failure | None, result: TaskResult | None, at: int) -> list[Message]:
    """The parent hears what has become of its child; it goes on when it has waited for the last of them."""
    parent = run.tasks[run.spawned[child.node_id].parent]
    if parent.status in ENDED:
        return []
    sent = run.messages.get(parent.task_id, ())
    message = MessageSent(
        message_id=f"child-{child.task_id}",
        task_id=parent.task_id,
        number=len(sent) + 1,
        mode=MessageMode.MESSAGE_MODE_STEER,
        text=Body(inline=_report(child, failure, result).encode()),
        sent_by=child.task_id,
        at_unix_micros=at,
    )
    waits = parent.status == TaskStatus.TASK_STATUS_PARKED and parent.park_cause == ParkCause.PARK_CAUSE_CHILDREN
    if not waits or any(other != child.task_id for other in at_work(run, parent)):
        return [message]
    return [message, TaskUnparked(task_id=parent.task_id, at_unix_micros=at)]


def at_work(run: Run, parent: Task) -> Iterator[str]:
    """The children that have not ended."""
    for node_id in run.children.get(parent.task_id, ()):
        task = current(run, node_id)
        if task is None or task.status not in ENDED:
            yield names.task_id(node_id, run.visits[node_id])


def given_up(run: Run, parent: Task, at: int) -> list[Message]:
    """Children do not outlive the task that they work for."""
    events: list[Message] = []
    for task_id in at_work(run, parent) if parent.task_id in run.children else ():
        task = run.tasks.get(task_id)
        if task is not None and task.cancel_requested is not None:
            continue
        asked = TaskCancelRequested(task_id=task_id, reason=f"{parent.task_id} has ended", at_unix_micros=at)
        tolerated = Handling.HANDLING_TOLERATED
        begun = task is not None and task.generation
        events += [asked] if begun else [asked, TaskCancelled(task_id=task_id, at_unix_micros=at, handling=tolerated)]
    return events


def _report(child: Task, failure: Failure | None, result: TaskResult | None) -> str:
    output = result.output.inline.decode(errors="replace").strip() if result is not None else ""
    if failure is not None or result is None:
        said = f"{failure.reason}: {failure.message}" if failure is not None else "it was cancelled"
        return f"{child.node_id} has not succeeded ({said}). What it said last:\n\n{output or '(nothing)'}"
    return f"{child.node_id} has succeeded. Its result:\n\n{result.structured_json or output or '(nothing)'}"
