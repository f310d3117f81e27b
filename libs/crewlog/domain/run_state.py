"""The state of a run: what can be read from it. What its events mean is in crewlog.domain.run_events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.workflow import Graph
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import (
    GateOpened,
    GateStatus,
    Node,
    RunStarted,
    RunStatus,
    TaskResult,
    TaskStatus,
)
from crewlog.v1.workspace_pb2 import Change
from immutables import Map

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
    allotment: Amounts = ZERO
    growths: int = 0
    parked_on: str = ""
    wanted: Amounts = ZERO
    has_to_stop: bool = False
    result: TaskResult | None = None
    failure: Failure | None = None
    commits: tuple[str, ...] = ()
    started_at_unix_micros: int = 0
    ended_at_unix_micros: int = 0


@dataclass(frozen=True, slots=True)
class Gate:
    """A question that only a person may answer; `choice` is empty until somebody has."""

    opened: GateOpened
    status: GateStatus.ValueType = GateStatus.GATE_STATUS_OPEN
    choice: str = ""
    answered_by: str = ""


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
    parked: tuple[str, ...] = ()
    gates: Map[str, Gate] = field(default_factory=Map)
    limit: Amounts = ZERO
    spent: Amounts = ZERO
    allotted: Amounts = ZERO
    warned_percent: int = 0
    requests: tuple[str, ...] = ()
    failure: Failure | None = None
    change: Change | None = None
    ended_at_unix_micros: int = 0


INITIAL = Run()


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
    waits = bool(run.parked) and not is_stopping(run)
    return active and not run.open and not claimable(run) and not waits


def is_current(run: Run, task: Task) -> bool:
    """Whether the task is the visit that its node is at."""
    return task.visit == run.visits[task.node_id]


def next_task(run: Run, node_id: str) -> Task:
    """The task that a claim of the node would be for."""
    task_id = names.task_id(node_id, run.visits[node_id])
    return run.tasks.get(task_id) or Task(task_id, node_id, run.visits[node_id], based_on(run, node_id))


def base_commits(run: Run, task: Task) -> tuple[str, ...]:
    """The commits that the files of the task start from."""
    return inherited(run, task.based_on) or (run.started.base_commit,)


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


def based_on(run: Run, node_id: str) -> tuple[str, ...]:
    feedback = run.feedback.get(node_id)
    if feedback is not None:
        return (feedback,)
    return tuple(names.task_id(d, run.visits[d]) for d in run.graph.nodes[node_id].depends_on)


def inherited(run: Run, based_on: Iterable[str]) -> tuple[str, ...]:
    commits = {commit: None for task_id in based_on for commit in run.tasks[task_id].commits}
    return tuple(commits)
