"""The state of a run: what its events mean, and what can be read from that. The rules are in crewlog.domain.run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.workflow import Graph
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import (
    EdgeTaken,
    Node,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunStarted,
    RunStatus,
    RunSucceeded,
    TaskCancelled,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskResult,
    TaskStatus,
    TaskSucceeded,
)
from crewlog.v1.workspace_pb2 import Change
from immutables import Map

Event: TypeAlias = (
    RunStarted
    | TaskClaimed
    | TaskClaimLapsed
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | EdgeTaken
    | RunCancelRequested
    | RunSucceeded
    | RunFailed
    | RunCancelled
)

_OVER = (RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)
ENDED = (TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED, TaskStatus.TASK_STATUS_CANCELLED)


@dataclass(frozen=True, slots=True)
class Task:
    """A visit of a node that was claimed at least once. `based_on` are the tasks whose files and output it has."""

    task_id: str
    node_id: str
    visit: int
    based_on: tuple[str, ...] = ()
    status: TaskStatus.ValueType = TaskStatus.TASK_STATUS_READY
    executor_id: str = ""
    generation: int = 0
    allotment_usd_micros: int = 0
    result: TaskResult | None = None
    failure: Failure | None = None
    commits: tuple[str, ...] = ()
    started_at_unix_micros: int = 0
    ended_at_unix_micros: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What the events of a run mean. `ready` are nodes in the order in which they became so."""

    status: RunStatus.ValueType = RunStatus.RUN_STATUS_UNSPECIFIED
    started: RunStarted = field(default_factory=RunStarted)
    graph: Graph = field(default_factory=Graph)
    tasks: Map[str, Task] = field(default_factory=Map)
    visits: Map[str, int] = field(default_factory=Map)
    unmet: Map[str, int] = field(default_factory=Map)
    feedback: Map[str, str] = field(default_factory=Map)
    ready: tuple[str, ...] = ()
    open: Map[str, int] = field(default_factory=Map)
    spent_usd_micros: int = 0
    allotted_usd_micros: int = 0
    failure: Failure | None = None
    change: Change | None = None
    ended_at_unix_micros: int = 0


INITIAL = Run()


def evolve(run: Run, event: Event) -> Run:
    """What an event means."""
    match event:
        case RunStarted():
            return _on_started(event)
        case TaskClaimed():
            return _on_claimed(run, event)
        case TaskClaimLapsed():
            return _on_lapsed(run, event)
        case TaskSucceeded():
            return _on_succeeded(run, event)
        case TaskFailed():
            return replace(
                _on_ended(run, event, TaskStatus.TASK_STATUS_FAILED, event.failure),
                failure=run.failure or event.failure,
            )
        case TaskCancelled():
            return _on_ended(run, event, TaskStatus.TASK_STATUS_CANCELLED, None)
        case EdgeTaken():
            return _on_edge_taken(run, event)
        case RunCancelRequested():
            return replace(run, status=RunStatus.RUN_STATUS_CANCELLING)
        case RunSucceeded():
            return _on_over(run, RunStatus.RUN_STATUS_SUCCEEDED, event, None)
        case RunFailed():
            return _on_over(run, RunStatus.RUN_STATUS_FAILED, event, event.failure)
        case RunCancelled():
            return _on_over(run, RunStatus.RUN_STATUS_CANCELLED, event, None)
        case _:
            assert_never(event)


def is_over(run: Run) -> bool:
    return run.status in _OVER


def claimable(run: Run) -> tuple[str, ...]:
    """The nodes that an executor may take now, oldest first."""
    return run.ready if run.status == RunStatus.RUN_STATUS_RUNNING and run.failure is None else ()


def is_stopping(run: Run) -> bool:
    """Whether tasks that are still being worked on have to stop."""
    return run.status == RunStatus.RUN_STATUS_CANCELLING or run.failure is not None


def is_finishing(run: Run) -> bool:
    """Whether nothing is left but to bring the change home and to close the run."""
    active = run.status in (RunStatus.RUN_STATUS_RUNNING, RunStatus.RUN_STATUS_CANCELLING)
    return active and not run.open and not claimable(run)


def next_task(run: Run, node_id: str) -> Task:
    """The task that a claim of the node would be for."""
    task_id = names.task_id(node_id, run.visits[node_id])
    return run.tasks.get(task_id) or Task(task_id, node_id, run.visits[node_id], _based_on(run, node_id))


def base_commits(run: Run, task: Task) -> tuple[str, ...]:
    """The commits that the files of the task start from."""
    return _inherited(run, task.based_on) or (run.started.base_commit,)


def tips(run: Run) -> tuple[str, ...]:
    """The commits that hold everything that was done, without those that others are based on."""
    ended = [task for task in run.tasks.values() if task.commits and task.status in ENDED]
    inner = {name for task in ended for name in task.based_on}
    commits = {commit: None for task in ended if task.task_id not in inner for commit in task.commits}
    return tuple(sorted(commits.keys() - {run.started.base_commit}))


def node_of(run: Run, task: Task) -> Node:
    return run.graph.nodes[task.node_id]


def open_tasks(run: Run) -> Sequence[Task]:
    """The tasks that an executor holds now."""
    return [run.tasks[task_id] for task_id in run.open]


def _on_started(event: RunStarted) -> Run:
    graph = Graph.of(event.workflow)
    return Run(
        status=RunStatus.RUN_STATUS_RUNNING,
        started=event,
        graph=graph,
        visits=Map((node_id, 1) for node_id in graph.nodes),
        unmet=Map((node_id, len(node.depends_on)) for node_id, node in graph.nodes.items()),
        ready=tuple(graph.roots),
    )


def _on_claimed(run: Run, event: TaskClaimed) -> Run:
    known = run.tasks.get(event.task_id)
    task = known or Task(event.task_id, event.node_id, event.visit, _based_on(run, event.node_id))
    claimed = replace(
        task,
        status=TaskStatus.TASK_STATUS_CLAIMED,
        executor_id=event.executor_id,
        generation=event.generation,
        allotment_usd_micros=event.allotment_usd_micros,
        started_at_unix_micros=task.started_at_unix_micros or event.at_unix_micros,
    )
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, claimed),
        ready=_without(run.ready, task.node_id),
        open=run.open.set(task.task_id, event.generation),
        allotted_usd_micros=run.allotted_usd_micros + (0 if known else event.allotment_usd_micros),
    )


def _on_lapsed(run: Run, event: TaskClaimLapsed) -> Run:
    task = run.tasks[event.task_id]
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, replace(task, status=TaskStatus.TASK_STATUS_READY, executor_id="")),
        ready=(task.node_id, *run.ready),
        open=run.open.delete(task.task_id),
    )


def _on_succeeded(run: Run, event: TaskSucceeded) -> Run:
    ended = _on_ended(run, event, TaskStatus.TASK_STATUS_SUCCEEDED, None)
    task = ended.tasks[event.task_id]
    if task.visit != run.visits[task.node_id]:
        return ended
    unmet, ready = ended.unmet, list(ended.ready)
    for dependent in run.graph.dependents(task.node_id):
        left = unmet[dependent] - 1
        unmet = unmet.set(dependent, left)
        if left == 0:
            ready.append(dependent)
    return replace(ended, unmet=unmet, ready=tuple(ready))


def _on_ended(
    run: Run,
    event: TaskSucceeded | TaskFailed | TaskCancelled,
    status: TaskStatus.ValueType,
    failure: Failure | None,
) -> Run:
    task = run.tasks.get(event.task_id) or next_task(run, event.task_id.rpartition("-")[0])
    ended = replace(
        task,
        status=status,
        result=event.result,
        failure=failure,
        commits=(event.result.commit,) if event.result.commit else _inherited(run, task.based_on),
        ended_at_unix_micros=event.at_unix_micros,
    )
    claimed = task.generation > 0
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, ended),
        ready=_without(run.ready, task.node_id),
        open=run.open.delete(task.task_id) if task.task_id in run.open else run.open,
        spent_usd_micros=run.spent_usd_micros + event.result.cost_usd_micros,
        allotted_usd_micros=run.allotted_usd_micros - (task.allotment_usd_micros if claimed else 0),
    )


def _on_edge_taken(run: Run, event: EdgeTaken) -> Run:
    """`to` and all that depends on it go into their next visit."""
    again = {event.to_node_id, *run.graph.descendants(event.to_node_id)}
    visits, unmet = run.visits, run.unmet
    for node_id in again:
        visits = visits.set(node_id, visits[node_id] + 1)
        depends_on = run.graph.nodes[node_id].depends_on
        unmet = unmet.set(node_id, sum(other in again or not _is_done(run, other) for other in depends_on))
    unmet = unmet.set(event.to_node_id, 0)
    return replace(
        run,
        visits=visits,
        unmet=unmet,
        feedback=run.feedback.set(event.to_node_id, event.from_task_id),
        ready=(*(node_id for node_id in run.ready if node_id not in again), event.to_node_id),
    )


def _on_over(
    run: Run,
    status: RunStatus.ValueType,
    event: RunSucceeded | RunFailed | RunCancelled,
    failure: Failure | None,
) -> Run:
    change = event.change if event.HasField("change") else None
    return replace(
        run, status=status, change=change, failure=failure, ready=(), ended_at_unix_micros=event.at_unix_micros
    )


def _is_done(run: Run, node_id: str) -> bool:
    task = run.tasks.get(names.task_id(node_id, run.visits[node_id]))
    return task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED


def _based_on(run: Run, node_id: str) -> tuple[str, ...]:
    feedback = run.feedback.get(node_id)
    if feedback is not None:
        return (feedback,)
    return tuple(names.task_id(d, run.visits[d]) for d in run.graph.nodes[node_id].depends_on)


def _inherited(run: Run, based_on: Iterable[str]) -> tuple[str, ...]:
    commits = {commit: None for task_id in based_on for commit in run.tasks[task_id].commits}
    return tuple(commits)


def _without(ready: tuple[str, ...], node_id: str) -> tuple[str, ...]:
    if ready and ready[0] == node_id:
        return ready[1:]
    return tuple(other for other in ready if other != node_id)
