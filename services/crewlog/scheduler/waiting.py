"""What every task waits for that has not ended and is not at work: worked out from the run, and from who has what.

Of a run that is asked for by its id, tasks of its child runs are named too, and those that wait for others of the run.
Of all runs the latter are left out: whatever they wait for is named, or is at work.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.admission import Key
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import GATE, RETRY, WAIT, Gate, Run, Task
from crewlog.eventlog.owner import Owner
from crewlog.scheduler.admission import Needs
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.queueing import Place
from crewlog.v1.run_pb2 import GateStatus, ParkCause
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting, WaitingReason, WaitingTask

TASKS_DEFAULT = 200
TASKS_MAX = 1_000
RUNS_PER_SLICE = 64
NAMED_MAX = 5
WORDS_CHARACTERS_MAX = 200

Because = tuple[WaitingReason.ValueType, str]


@dataclass(frozen=True, slots=True)
class Resources:
    """What runs compete for. `places` is who comes before whom, as far as somebody has asked."""

    dispatch: Dispatch
    allotments: Allotments
    places: dict[Place, dict[str, int]] = field(default_factory=dict)

    def ahead(self, place: Place, run_id: str) -> int:
        if place not in self.places:
            order = self.dispatch.queue.in_order(place)
            self.places[place] = {other: number for number, other in enumerate(order)}
        return self.places[place].get(run_id, 0)


class Explainer:
    def __init__(
        self, owner: Owner[Run], open_runs: Callable[[], Iterable[str]], dispatch: Dispatch, allotments: Allotments
    ) -> None:
        self._owner = owner
        self._open_runs = open_runs
        self._dispatch = dispatch
        self._allotments = allotments

    async def explain(self, request: ExplainWaiting) -> Waiting:
        """Raises InvalidCommand or NotFound."""
        tasks_max = _tasks_max(request)
        found: list[WaitingTask] = []
        revision, resources = 0, Resources(self._dispatch, self._allotments)
        run_ids = deque([request.run_id] if request.run_id else sorted(self._open_runs()))
        while run_ids:
            for run_id in [run_ids.popleft() for _ in range(min(RUNS_PER_SLICE, len(run_ids)))]:
                run, run_revision = await self._state(run_id, must_exist=run_id == request.run_id)
                revision = max(revision, run_revision)
                found.extend(tasks_of(run, resources, with_dependencies=run_id == request.run_id))
                # Those of all runs are among them.
                run_ids.extend(run.child_runs.values() if request.run_id else ())
            found = longest(found, tasks_max + 1)
            # Whatever else has to be done comes in between.
            await asyncio.sleep(0)
        return Waiting(tasks=found[:tasks_max], revision=revision, is_cut=len(found) > tasks_max)

    async def _state(self, run_id: str, *, must_exist: bool) -> tuple[Run, int]:
        """A child run may not have begun yet."""
        run, revision = await self._owner.state(run_id)
        if must_exist and not revision:
            raise NotFound(f"there is no run {run_id!r}", what_to_do="see `crewlog runs`")
        return run, revision


def _tasks_max(request: ExplainWaiting) -> int:
    if not 0 <= request.tasks_max <= TASKS_MAX:
        why = f"has to be 0 to {TASKS_MAX}"
        raise InvalidCommand(f"tasks_max {why}", violations={"tasks_max": why})
    return request.tasks_max or TASKS_DEFAULT


def longest(tasks: Iterable[WaitingTask], count: int) -> list[WaitingTask]:
    """The ones that have waited longest, in a definite order."""
    return heapq.nsmallest(count, tasks, key=lambda task: (task.since_unix_micros, task.run_id, task.task_id))


def tasks_of(run: Run, resources: Resources, *, with_dependencies: bool) -> Iterator[WaitingTask]:
    """Of a run that is over, or is being stopped, nothing waits."""
    if not run.started.run_id or run_state.is_over(run) or run_state.is_stopping(run):
        return
    gates = {gate.opened.task_id: gate for gate in run.gates.values() if gate.status == GateStatus.GATE_STATUS_OPEN}
    if run.paused is not None:
        yield from (_paused(run, node_id) for node_id in (*run.ready, *run.pending))
    else:
        yield from (_ready(run, node_id, resources) for node_id in run_state.claimable(run))
    for task_id in run.parked:
        task = run.tasks[task_id]
        yield _parked(run, task, gates.get(task_id))
        yield from _next_item(run, task)
    if with_dependencies:
        yield from _dependent(run)


def _paused(run: Run, node_id: str) -> WaitingTask:
    return WaitingTask(
        run_id=run.started.run_id,
        task_id=names.task_id(node_id, run.visits[node_id]),
        reason=WaitingReason.WAITING_REASON_PAUSED,
        why=_why_paused(run),
        since_unix_micros=run.paused.at_unix_micros if run.paused is not None else 0,
        due_at_unix_micros=run.paused.resumes_at_unix_micros if run.paused is not None else 0,
    )


def _ready(run: Run, node_id: str, resources: Resources) -> WaitingTask:
    run_id, dispatch = run.started.run_id, resources.dispatch
    needs = dispatch.fleet.requirements.of(run, node_id)
    wait = dispatch.queue.wait_of(run_id, needs)
    full = dispatch.fleet.limits.full(needs)
    place = wait.place if wait is not None else Place(needs.labels, full)
    has_room = place.key is None or dispatch.fleet.limits.has_room(place.key)
    reason, why = _because(run, needs, full if has_room else place.key, resources, is_queued=wait is not None)
    return WaitingTask(
        run_id=run_id,
        task_id=names.task_id(node_id, run.visits[node_id]),
        reason=reason,
        why=why,
        since_unix_micros=run_state.waits_since(run, node_id),
        ahead=resources.ahead(place, run_id) if wait is not None else 0,
    )


def _because(run: Run, needs: Needs, full: Key | None, resources: Resources, *, is_queued: bool) -> Because:
    fleet, limits = resources.dispatch.fleet, resources.dispatch.fleet.limits
    if full is not None:
        words = f"{full}: {limits.at_work(full)} of {limits.tasks_max(full)} at work"
        return WaitingReason.WAITING_REASON_LIMIT, words
    slots, with_labels = fleet.slots(needs.labels), ", ".join(sorted(needs.labels))
    if not slots:
        words = f"no executor has the labels {with_labels}" if needs.labels else "there is no executor"
        return WaitingReason.WAITING_REASON_NO_EXECUTOR, words
    budget_id = resources.allotments.awaited_by(run.started.run_id)
    if budget_id and not is_queued:
        return WaitingReason.WAITING_REASON_BUDGET, f"budget {budget_id} has no room until something returns to it"
    if fleet.free(needs.labels):
        return WaitingReason.WAITING_REASON_EXECUTOR, "it is about to be given to an executor"
    of = f" of executors with the labels {with_labels}" if needs.labels else " of executors"
    return WaitingReason.WAITING_REASON_EXECUTOR, f"all {slots} slots{of} are taken"


def _parked(run: Run, task: Task, gate: Gate | None) -> WaitingTask:
    reason, why = _why_parked(run, task, gate)
    waiting = WaitingTask(
        run_id=run.started.run_id,
        task_id=task.task_id,
        reason=reason,
        why=why,
        since_unix_micros=_parked_since(run, task, gate),
        due_at_unix_micros=_due_at(run, task, gate),
    )
    if reason == WaitingReason.WAITING_REASON_PAUSED and run.paused is not None:
        waiting.due_at_unix_micros = run.paused.resumes_at_unix_micros
    return waiting


def _why_parked(run: Run, task: Task, gate: Gate | None) -> Because:
    match task.park_cause:
        case ParkCause.PARK_CAUSE_WAIT if task.signal:
            return WaitingReason.WAITING_REASON_SIGNAL, f"the signal {task.signal}"
        case ParkCause.PARK_CAUSE_WAIT:
            return WaitingReason.WAITING_REASON_TIME, "its time has not come"
        case ParkCause.PARK_CAUSE_RETRY:
            return WaitingReason.WAITING_REASON_TIME, "it has failed, and is tried again"
        case ParkCause.PARK_CAUSE_MERGE:
            return WaitingReason.WAITING_REASON_MERGE, "the files of the tasks before it are being merged"
        case ParkCause.PARK_CAUSE_GATE | ParkCause.PARK_CAUSE_QUESTION:
            return WaitingReason.WAITING_REASON_GATE, _asked(gate)
        case ParkCause.PARK_CAUSE_MAP | ParkCause.PARK_CAUSE_CHILD_RUN | ParkCause.PARK_CAUSE_CHILDREN:
            asks = f"; {_asked(gate)}" if gate is not None else ""
            return WaitingReason.WAITING_REASON_CHILDREN, _children(run, task) + asks
        case ParkCause.PARK_CAUSE_PAUSED | ParkCause.PARK_CAUSE_MODEL | ParkCause.PARK_CAUSE_HANDED_OVER:
            return WaitingReason.WAITING_REASON_PAUSED, _why_paused(run)
        case _:
            asks = f"; {_asked(gate)}" if gate is not None else ""
            return WaitingReason.WAITING_REASON_BUDGET, f"budget {task.parked_on} has no room for it{asks}"


def _why_paused(run: Run) -> str:
    if run.paused is None:
        return "its run has to be resumed"
    why = run.paused.reason or run.paused.failure.message
    return f"the run is paused: {_words(why)}" if why else "the run is paused"


def _asked(gate: Gate | None) -> str:
    return (
        f"gate {gate.opened.gate_id}: {_words(gate.opened.question)}" if gate is not None else "somebody has to answer"
    )


def _children(run: Run, task: Task) -> str:
    expansion = run.expansions.get(task.task_id)
    if expansion is not None:
        return f"{expansion.ended} of {expansion.count} items have ended"
    if task.child_run_id:
        return f"the child run {task.child_run_id}"
    parts = run_state.parts_of(run, task)
    begun = run.children.get(task.task_id, ())
    return f"{sum(bool(part.ended_at_unix_micros) for part in parts)} of {len(begun)} children have ended"


def _next_item(run: Run, task: Task) -> Iterator[WaitingTask]:
    """The first item that is not begun stands for all."""
    expansion = run.expansions.get(task.task_id)
    if expansion is None or expansion.begun == expansion.count:
        return
    node_id = names.item_node_id(task.node_id, expansion.begun)
    others = expansion.count - expansion.begun - 1
    yield WaitingTask(
        run_id=run.started.run_id,
        task_id=names.task_id(node_id, run.visits.get(node_id, 0) + 1),
        reason=WaitingReason.WAITING_REASON_MAP,
        why=f"{task.node_id}: {expansion.open} of {expansion.at_once_max} items at once; {others} more wait behind it",
        since_unix_micros=task.started_at_unix_micros,
        ahead=0,
    )


def _dependent(run: Run) -> Iterator[WaitingTask]:
    known = {*run.ready, *run.pending}
    for node_id, ways in run.graph.incoming.items():
        if node_id in known or run_state.current(run, node_id) is not None:
            continue
        before = [way.source for way in ways if not run_state.is_settled(run_state.current(run, way.source))]
        if before:
            yield WaitingTask(
                run_id=run.started.run_id,
                task_id=names.task_id(node_id, run.visits[node_id]),
                reason=WaitingReason.WAITING_REASON_DEPENDENCIES,
                why=f"waits for {_listed(list(dict.fromkeys(before)))}",
                since_unix_micros=run.started.at_unix_micros,
            )


def _parked_since(run: Run, task: Task, gate: Gate | None) -> int:
    if gate is not None:
        return gate.opened.at_unix_micros
    if run.paused is not None and task.park_cause == ParkCause.PARK_CAUSE_PAUSED:
        return run.paused.at_unix_micros
    return task.started_at_unix_micros or run_state.waits_since(run, task.node_id)


def _due_at(run: Run, task: Task, gate: Gate | None) -> int:
    if gate is not None:
        return run.due.get(GATE + gate.opened.gate_id, gate.opened.expires_at_unix_micros)
    return run.due.get(WAIT + task.task_id) or run.due.get(RETRY + task.task_id) or 0


def _listed(node_ids: Sequence[str]) -> str:
    more = len(node_ids) - NAMED_MAX
    return ", ".join(node_ids[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _words(text: str) -> str:
    return text.strip().partition("\n")[0][:WORDS_CHARACTERS_MAX]
