"""The state of a run: what can be read from it. What its events mean is in crewlog.domain.run.events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crewlog.domain import enums, names
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.workflow.graph import EXECUTOR_KINDS, RUN_VISITS_MAX, Graph, map_of
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import (
    GateOpened,
    GateStatus,
    Handling,
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
from crewlog.v1.workspace_pb2 import Change, Snapshot
from immutables import Map

enums.as_attributes(GateStatus, Handling, ParkCause, RunStatus, TaskStatus)
_OVER = (RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)
CLAIMS_MAX = 10
MERGE_CONFLICT = "merge_conflict"
GATE, TASK, WAIT, RETRY = "gate:", "task:", "wait:", "retry:"
"""What a time in `Run.due` belongs to."""
REQUESTS_KEPT_MAX = 1_000
ENDED = frozenset(
    {
        TaskStatus.TASK_STATUS_SUCCEEDED,
        TaskStatus.TASK_STATUS_FAILED,
        TaskStatus.TASK_STATUS_CANCELLED,
        TaskStatus.TASK_STATUS_SKIPPED,
        TaskStatus.TASK_STATUS_TIMED_OUT,
    }
)
_NOBODY_ASKED = Handling.HANDLING_UNSPECIFIED


@dataclass(frozen=True)
class Task:
    """A visit of a node that has begun, or that was decided to be left out. `based_on` are the tasks whose output it
    has, `files_from` those whose files it has where these are not the same; `lapses` counts the claims that an executor
    has lost; `handling` is why its failure does not fail the run; `timed_out` says that it has taken too long; with the
    retry of the run that has the number `taken_up` its child run is to go on."""

    task_id: str
    node_id: str
    visit: int
    based_on: tuple[str, ...] = ()
    files_from: tuple[str, ...] | None = None
    status: TaskStatus.ValueType = TaskStatus.TASK_STATUS_READY
    executor_id: str = ""
    generation: int = 0
    allotment: Amounts = ZERO
    growths: int = 0
    changes: int = 0
    lapses: int = 0
    parked_on: str = ""
    park_cause: ParkCause.ValueType = ParkCause.PARK_CAUSE_UNSPECIFIED
    cancel_requested: TaskCancelRequested | None = None
    wanted: Amounts = ZERO
    has_to_stop: bool = False
    result: TaskResult | None = None
    failure: Failure | None = None
    commits: tuple[str, ...] = ()
    handling: Handling.ValueType = _NOBODY_ASKED
    timed_out: Failure | None = None
    skipped_why: str = ""
    child_run_id: str = ""
    child_input: str = ""
    base_commit: str = ""
    merging: tuple[str, ...] = ()
    with_conflicts: bool = False
    taken_up: int = 0
    signal: str = ""
    map_task: str = ""
    started_at_unix_micros: int = 0
    ended_at_unix_micros: int = 0


@dataclass(frozen=True, slots=True)
class Expansion:
    """The items of a map. `items` is each as JSON, None where they are just numbers; the first `begun` of them have
    been given out, `open` are at work or about to be, `again` are nodes of some that have to be done once more."""

    node_id: str
    visit: int
    count: int
    at_once_max: int
    items: tuple[str, ...] | None = None
    begun: int = 0
    open: int = 0
    failed: int = 0
    again: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        return self.begun - self.open - len(self.again)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child of an agent: its place, and what it was given."""

    parent: str
    node_id: str
    turn: int
    index: int
    allotment: Amounts
    snapshot: Snapshot | None


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
    """What the events of a run mean. `ready` are nodes that an executor may take, in the order in which they became so;
    `pending` are those about which the run itself has something to decide; `adrift` are the tasks that have begun, have
    not ended, and that nobody holds. Of each node: `unmet` ways that lead to it are not decided yet, and `arrivals` are
    those that were taken, by number, with the tasks that they come from; `lost` counts those whose source was left out.
    `due` is what happens by itself, and when."""

    status: RunStatus.ValueType = RunStatus.RUN_STATUS_UNSPECIFIED
    started: RunStarted = field(default_factory=RunStarted)
    graph: Graph = field(default_factory=Graph)
    tasks: Map[str, Task] = field(default_factory=Map)
    visits: Map[str, int] = field(default_factory=Map)
    unmet: Map[str, int] = field(default_factory=Map)
    feedback: Map[str, str] = field(default_factory=Map)
    ready: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    arrivals: Map[str, tuple[tuple[int, str], ...]] = field(default_factory=Map)
    lost: Map[str, int] = field(default_factory=Map)
    visited: int = 0
    tries: Map[str, int] = field(default_factory=Map)
    due: Map[str, int] = field(default_factory=Map)
    expansions: Map[str, Expansion] = field(default_factory=Map)
    child_runs: Map[str, str] = field(default_factory=Map)
    merging: tuple[str, ...] = ()
    spawned: Map[str, Spawned] = field(default_factory=Map)
    children: Map[str, tuple[str, ...]] = field(default_factory=Map)
    signals: Map[str, str] = field(default_factory=Map)
    open: Map[str, int] = field(default_factory=Map)
    parked: tuple[str, ...] = ()
    adrift: tuple[str, ...] = ()
    waiting_since: Map[str, int] = field(default_factory=Map)
    paused: RunPaused | None = None
    cancel_requested: RunCancelRequested | None = None
    cancelling: tuple[str, ...] = ()
    messages: Map[str, tuple[MessageSent, ...]] = field(default_factory=Map)
    returned: Map[str, bool] = field(default_factory=Map)
    retries: int = 0
    extra_visits: Map[str, int] = field(default_factory=Map)
    went_on_at_unix_micros: int = 0
    gates: Map[str, Gate] = field(default_factory=Map)
    limit: Amounts = ZERO
    spent: Amounts = ZERO
    allotted: Amounts = ZERO
    warned_percent: int = 0
    followed: int = 0
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
    closing = {task.node_id for task in closable(run)} if run.adrift else None
    return tuple(node_id for node_id in run.ready if node_id not in closing) if closing else run.ready


def closable(run: Run) -> list[Task]:
    """The tasks that have begun, that nobody holds, and that nobody shall take again but to end them."""
    if is_over(run):
        return []
    tasks = (run.tasks[task_id] for task_id in run.adrift)
    return [task for task in tasks if is_stopping(run) or _is_unwanted(run, task)]


def _is_unwanted(run: Run, task: Task) -> bool:
    return is_to_stop(task) or task.lapses >= CLAIMS_MAX or not is_current(run, task)


def is_to_stop(task: Task) -> bool:
    """Whether somebody, or the time, wants this task to end by itself."""
    return task.cancel_requested is not None or task.timed_out is not None


def is_stopping(run: Run) -> bool:
    """Whether tasks that are still being worked on have to stop."""
    return run.status == RunStatus.RUN_STATUS_CANCELLING or run.failure is not None


def is_finishing(run: Run) -> bool:
    """Whether nothing is left but to bring the change home and to close the run."""
    active = run.status in (RunStatus.RUN_STATUS_RUNNING, RunStatus.RUN_STATUS_CANCELLING)
    if not active or run.open or run.child_runs or closable(run):
        return False
    return is_stopping(run) or not (run.ready or run.pending or run.parked or run.paused is not None)


def visits_left(run: Run) -> int:
    return (run.started.workflow.visits_max or RUN_VISITS_MAX) - run.visited


def is_current(run: Run, task: Task) -> bool:
    """Whether the task is the visit that its node is at; of an item, also its map."""
    is_latest = task.visit == run.visits.get(task.node_id)
    return is_latest and (not task.map_task or task.map_task == map_task_id(run, task.node_id))


def is_settled(task: Task | None) -> bool:
    """Whether the graph has gone on from the task, so that nothing of it is left to do."""
    if task is None or task.status not in ENDED:
        return False
    done = (TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_SKIPPED)
    return task.status in done or task.handling not in (_NOBODY_ASKED, Handling.HANDLING_RETRY)


def current(run: Run, node_id: str) -> Task | None:
    """The visit that the node is at, once it has begun."""
    visit = run.visits.get(node_id)
    return run.tasks.get(names.task_id(node_id, visit)) if visit is not None else None


def next_task(run: Run, node_id: str) -> Task:
    """The task that a claim of the node would be for."""
    task_id = names.task_id(node_id, run.visits[node_id])
    return run.tasks.get(task_id) or new_task(run, task_id, node_id, run.visits[node_id])


def new_task(run: Run, task_id: str, node_id: str, visit: int) -> Task:
    """A visit that begins now; an item belongs to the visit that its map is at."""
    map_task = map_task_id(run, node_id) if run.graph.is_item(node_id) else ""
    return Task(task_id, node_id, visit, based_on(run, node_id), map_task=map_task)


def files_of(task: Task) -> tuple[str, ...]:
    """The tasks whose files it starts from."""
    return task.based_on if task.files_from is None else task.files_from


def base_commits(run: Run, task: Task) -> tuple[str, ...]:
    """The commits that the files of the task start from."""
    parent = run.spawned.get(task.node_id)
    return inherited(run, files_of(run.tasks[parent.parent] if parent else task)) or (run.started.base_commit,)


def tips(run: Run) -> tuple[str, ...]:
    """The commits that a run comes to: those of the tasks that nothing has come after."""
    ended = [task for task in run.tasks.values() if task.status in ENDED and _counts(run, task)]
    inner = {name for task in ended for name in task.based_on}
    commits = {commit: None for task in ended if _is_tip(run, task, inner) for commit in task.commits}
    return tuple(sorted(commits.keys() - {run.started.base_commit}))


def _is_tip(run: Run, task: Task, inner: set[str]) -> bool:
    """What items and children have done is part of the task that they belong to."""
    owner = owner_of(run, task)
    return task.task_id not in inner and (not owner or not is_settled(run.tasks.get(owner)))


def _counts(run: Run, task: Task) -> bool:
    return is_current(run, task) or task.status == TaskStatus.TASK_STATUS_SUCCEEDED


def owner_of(run: Run, task: Task) -> str:
    """The map whose item the task is, or the task whose agent has spawned it; else empty."""
    spawned = run.spawned.get(task.node_id)
    if spawned is not None:
        return spawned.parent
    return task.map_task


def map_task_id(run: Run, item_node_id: str) -> str:
    """The visit of the map that the item belongs to now."""
    node_id = map_of(item_node_id)
    return names.task_id(node_id, run.visits[node_id])


def index_of(item_node_id: str) -> int:
    """The place of an item in its map, from 0."""
    return int(item_node_id.rpartition("_")[2])


def parts_of(run: Run, task: Task) -> list[Task]:
    """The items of a map that have begun, in their order; or the children of an agent."""
    expansion = run.expansions.get(task.task_id)
    if expansion is None:
        node_ids = list(run.children.get(task.task_id, ()))
    else:
        node_ids = [names.item_node_id(task.node_id, index) for index in range(expansion.begun)]
    return [found for node_id in node_ids if (found := current(run, node_id)) is not None]


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
    return run.graph.node(task.node_id)


def node(run: Run, node_id: str) -> Node:
    return run.graph.node(node_id)


def kind(node: Node) -> str:
    return node.WhichOneof("kind") or "noop"


def is_performed(node: Node) -> bool:
    """Whether an executor performs it; else the run does."""
    return kind(node) in EXECUTOR_KINDS


def spends(node: Node) -> bool:
    """Whether its tasks get money."""
    return kind(node) in ("agent", "workflow")


def open_tasks(run: Run) -> Sequence[Task]:
    """The tasks that an executor holds now."""
    return [run.tasks[task_id] for task_id in run.open]


def based_on(run: Run, node_id: str) -> tuple[str, ...]:
    """The tasks whose output a visit of the node would have, in the order in which the edges were written."""
    if run.graph.is_item(node_id):
        owner = run.tasks.get(map_task_id(run, node_id))
        return owner.based_on if owner is not None else ()
    feedback = run.feedback.get(node_id)
    if feedback is not None:
        return (feedback,)
    return tuple(dict.fromkeys(task_id for _, task_id in sorted(run.arrivals.get(node_id, ()))))


def inherited(run: Run, task_ids: Iterable[str]) -> tuple[str, ...]:
    commits = {commit: None for task_id in task_ids for commit in run.tasks[task_id].commits}
    return tuple(commit for commit in commits if commit != run.started.base_commit)


def is_after_conflict(run: Run, task: Task) -> bool:
    """Whether the task was led to by a conflict of those files that it starts from."""
    return any(
        run.tasks[task_id].status == TaskStatus.TASK_STATUS_FAILED and is_conflict(run.tasks[task_id].failure)
        for task_id in task.based_on
    )


def is_conflict(failure: Failure | None) -> bool:
    return failure is not None and failure.reason == MERGE_CONFLICT
