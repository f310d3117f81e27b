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
    MessageSent,
    Node,
    ParkCause,
    RunCancelRequested,
    RunPaused,
    RunStarted,
    RunStatus,
    TaskCancelRequested,
    TaskResult,
    TaskStatus,
)
from crewlog.v1.workspace_pb2 import Change
from immutables import Map

_OVER = (RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)
CLAIMS_MAX = 10
REQUESTS_KEPT_MAX = 1_000
ENDED = (TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED, TaskStatus.TASK_STATUS_CANCELLED)


@dataclass(frozen=True)
class Task:
    """A visit of a node that was claimed at least once. `based_on` are the tasks whose files and output it has;
    `lapses` counts the claims that an executor has lost."""

    task_id: str
    node_id: str
    visit: int
    based_on: tuple[str, ...] = ()
    status: TaskStatus.ValueType = TaskStatus.TASK_STATUS_READY
    executor_id: str = ""
    generation: int = 0
    allotment: Amounts = ZERO
    growths: int = 0
    lapses: int = 0
    parked_on: str = ""
    park_cause: ParkCause.ValueType = ParkCause.PARK_CAUSE_UNSPECIFIED
    cancel_requested: TaskCancelRequested | None = None
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
    text: str = ""
    answered_by: str = ""


@dataclass(frozen=True)
class Run:
    """What the events of a run mean. `ready` are nodes in the order in which they became so; `adrift` are the tasks
    that have begun, have not ended, and that nobody holds."""

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
    adrift: tuple[str, ...] = ()
    waiting_since: Map[str, int] = field(default_factory=Map)
    paused: RunPaused | None = None
    cancel_requested: RunCancelRequested | None = None
    cancelling: tuple[str, ...] = ()
    messages: Map[str, tuple[MessageSent, ...]] = field(default_factory=Map)
    retries: int = 0
    extra_visits: Map[str, int] = field(default_factory=Map)
    went_on_at_unix_micros: int = 0
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
    if run.status != RunStatus.RUN_STATUS_RUNNING or run.failure is not None or run.paused is not None:
        return ()
    closing = {task.node_id for task in closable(run)}
    return tuple(node_id for node_id in run.ready if node_id not in closing) if closing else run.ready


def closable(run: Run) -> list[Task]:
    """The tasks that have begun, that nobody holds, and that nobody shall take again but to end them."""
    if is_over(run):
        return []
    tasks = (run.tasks[task_id] for task_id in run.adrift)
    return [task for task in tasks if is_stopping(run) or _is_unwanted(run, task)]


def _is_unwanted(run: Run, task: Task) -> bool:
    return task.cancel_requested is not None or task.lapses >= CLAIMS_MAX or not is_current(run, task)


def is_stopping(run: Run) -> bool:
    """Whether tasks that are still being worked on have to stop."""
    return run.status == RunStatus.RUN_STATUS_CANCELLING or run.failure is not None


def is_finishing(run: Run) -> bool:
    """Whether nothing is left but to bring the change home and to close the run."""
    active = run.status in (RunStatus.RUN_STATUS_RUNNING, RunStatus.RUN_STATUS_CANCELLING)
    waits = (bool(run.parked) or run.paused is not None) and not is_stopping(run)
    return active and not run.open and not claimable(run) and not closable(run) and not waits


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
    """The commits that hold everything that was done, without those that others are based on, or have replaced."""
    ended = [task for task in run.tasks.values() if task.commits and task.status in ENDED and _counts(run, task)]
    inner = {name for task in ended for name in task.based_on}
    commits = {commit: None for task in ended if task.task_id not in inner for commit in task.commits}
    return tuple(sorted(commits.keys() - {run.started.base_commit}))


def _counts(run: Run, task: Task) -> bool:
    return is_current(run, task) or task.status == TaskStatus.TASK_STATUS_SUCCEEDED


def visit_of(task_id: str) -> int:
    """From 1; 0 where the id names none."""
    visit = task_id.rpartition("-")[2]
    return int(visit) if visit.isdecimal() else 0


def run_due_at(run: Run, seconds_default: int) -> int:
    """When the run has taken too long; a retry gives it its time anew."""
    seconds = run.started.limits.duration_seconds_max or seconds_default
    return (run.went_on_at_unix_micros if run.retries else run.started.at_unix_micros) + seconds * 1_000_000


def waits_since(run: Run, node_id: str) -> int:
    """Since when the node could have been taken; a pause does not count."""
    return max(run.waiting_since.get(node_id, 0), run.went_on_at_unix_micros, run.started.at_unix_micros)


def with_request(run: Run, request_id: str) -> tuple[str, ...]:
    """The ids of the latest requests of clients, by which a repeated one is recognised."""
    return (*run.requests, request_id)[-REQUESTS_KEPT_MAX:] if request_id else run.requests


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
