"""What the events of a run mean for its graph: which ways are decided, what goes on, what is left out, what is added.

What costs something here is the number of ways that lead from a task, never the number of tasks that have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.amounts import Amounts
from crewlog.domain.replacing import replace
from crewlog.domain.run.state import (
    RETRY,
    TASK,
    WAIT,
    Run,
    Spawned,
    Task,
    current,
    is_performed,
    is_settled,
    new_task,
    with_request,
)
from crewlog.domain.workflow.graph import Way, map_of
from crewlog.v1.run_pb2 import (
    ChildRunRequested,
    ChildSpawned,
    EdgeSkipped,
    EdgeTaken,
    GraphGrown,
    MapExpanded,
    MergeRequested,
    Node,
    ParkCause,
    SignalReceived,
    TaskRetried,
    TaskSkipped,
    TaskStatus,
    TaskTimedOut,
    WaitStarted,
)
from immutables import Map

Event: TypeAlias = (
    EdgeTaken
    | EdgeSkipped
    | TaskSkipped
    | TaskTimedOut
    | TaskRetried
    | WaitStarted
    | SignalReceived
    | MergeRequested
    | ChildRunRequested
    | GraphGrown
    | ChildSpawned
)
Begun: TypeAlias = WaitStarted | MergeRequested | ChildRunRequested

_WAY_BACK = -1
"""Stands among the arrivals for the number of a way: ways back have none."""


def evolve(run: Run, event: Event) -> Run:
    match event:
        case EdgeTaken():
            return _on_edge(run, event, is_taken=True) if event.is_forward else _on_sent_back(run, event)
        case EdgeSkipped():
            return _on_edge(run, event, is_taken=False)
        case TaskSkipped():
            return _on_skipped(run, event)
        case TaskTimedOut():
            return _on_timed_out(run, event)
        case TaskRetried():
            return _on_retried(run, event)
        case SignalReceived():
            signals = run.signals.set(event.name, event.payload_json)
            return replace(run, signals=signals, requests=with_request(run, event.request_id))
        case GraphGrown():
            return _on_grown(run, event)
        case ChildSpawned():
            return _on_spawned(run, event)
        case _:
            return _on_begun(run, event)


def _on_begun(run: Run, event: Begun) -> Run:
    match event:
        case WaitStarted():
            begun = begin(run, event, ParkCause.PARK_CAUSE_WAIT, signal=event.signal)
            return due_at(begun, WAIT + event.task_id, event.due_at_unix_micros)
        case MergeRequested():
            commits, marked = tuple(event.commits), event.with_conflicts
            merging = begin(run, event, ParkCause.PARK_CAUSE_MERGE, merging=commits, with_conflicts=marked)
            return replace(merging, merging=(*run.merging, event.task_id))
        case ChildRunRequested():
            return _on_child_run(run, event)
        case _:
            assert_never(event)


def begin(run: Run, event: Begun | MapExpanded, cause: ParkCause.ValueType, **fields: Any) -> Run:
    """A task that the run performs itself has begun."""
    return begun(run, event.task_id, event.node_id, event.visit, event.at_unix_micros, cause, **fields)


def begun(run: Run, task_id: str, node_id: str, visit: int, at: int, cause: ParkCause.ValueType, **fields: Any) -> Run:
    known = run.tasks.get(task_id) or new_task(run, task_id, node_id, visit)
    task = replace(
        known,
        status=TaskStatus.TASK_STATUS_PARKED,
        park_cause=cause,
        started_at_unix_micros=known.started_at_unix_micros or at,
        **fields,
    )
    is_parked = known.status == TaskStatus.TASK_STATUS_PARKED
    parked = run.parked if is_parked else (*run.parked, task_id)
    after = replace(run, tasks=run.tasks.set(task_id, task), pending=without(run.pending, node_id), parked=parked)
    return with_deadline(after, task)


def with_deadline(run: Run, task: Task, since: int = 0) -> Run:
    """From its begin on, or since it goes on, a task has the time that its node allows."""
    seconds = run.graph.node(task.node_id).timeout_seconds
    if not seconds or TASK + task.task_id in run.due:
        return run
    return due_at(run, TASK + task.task_id, (since or task.started_at_unix_micros) + seconds * 1_000_000)


def due_at(run: Run, key: str, at: int) -> Run:
    return replace(run, due=run.due.set(key, at)) if at else run


def started(run: Run) -> Run:
    """Every node that nothing leads to may go on."""
    graph, at = run.graph, run.started.at_unix_micros
    run = replace(
        run,
        visits=Map((node_id, 1) for node_id in graph.nodes),
        unmet=Map((node_id, len(ways)) for node_id, ways in graph.incoming.items()),
    )
    return activated(run, graph.roots, at)


def activated(run: Run, node_ids: Sequence[str], at: int) -> Run:
    """They may go on: an executor takes them, or the run decides what becomes of them."""
    if not node_ids:
        return run
    ready, pending, since, visited = list(run.ready), list(run.pending), run.waiting_since, run.visited
    for node_id in node_ids:
        queue = ready if is_performed(run.graph.node(node_id)) and has_enough(run, node_id) else pending
        queue.append(node_id)
        since = since.set(node_id, at)
        visited += 1
    return replace(run, ready=tuple(ready), pending=tuple(pending), waiting_since=since, visited=visited)


def has_enough(run: Run, node_id: str) -> bool:
    """Whether as much has come as its join needs. A node that the work is sent back to has had that before."""
    arrived = run.arrivals.get(node_id, ())
    if not run.graph.incoming.get(node_id) or any(number == _WAY_BACK for number, _ in arrived):
        return True
    return len(arrived) >= run.graph.needed(node_id)


def decided(run: Run, task_id: str, ways: Sequence[tuple[Way, bool]], at: int, *, is_lost: bool = False) -> Run:
    """Of each way whether it was taken; `is_lost`: because the task was left out. What may go on does."""
    if not ways:
        return run
    unmet, arrivals, lost, going = run.unmet, run.arrivals, run.lost, list[str]()
    for way, is_taken in ways:
        target, left = way.target, unmet[way.target] - 1
        unmet = unmet.set(target, left)
        arrived = arrivals.get(target, ())
        if is_taken:
            arrived = (*arrived, (way.number, task_id))
            arrivals = arrivals.set(target, arrived)
        elif is_lost:
            lost = lost.set(target, lost.get(target, 0) + 1)
        if target not in going and _goes_on(run, target, left, len(arrived), is_taken=is_taken):
            going.append(target)
    return activated(replace(run, unmet=unmet, arrivals=arrivals, lost=lost), going, at)


def _goes_on(run: Run, node_id: str, left: int, arrived: int, *, is_taken: bool) -> bool:
    """Whether there is something to do about the node now, and was not before."""
    if not run.graph.is_early(node_id):
        return left == 0
    has_enough = is_taken and arrived >= run.graph.needed(node_id)
    return (has_enough or left == 0) and not _has_begun(run, node_id)


def _has_begun(run: Run, node_id: str) -> bool:
    return current(run, node_id) is not None or node_id in run.ready or node_id in run.pending


def plain_ways(run: Run, node_id: str) -> list[tuple[Way, bool]]:
    """The ways that a success takes without a word in the log."""
    if run.graph.nodes[node_id].exclusive:
        return []
    return [(way, True) for way in run.graph.forward[node_id] if way.is_plain]


def _on_edge(run: Run, event: EdgeTaken | EdgeSkipped, *, is_taken: bool) -> Run:
    task = run.tasks[event.from_task_id]
    ways = (way for way in run.graph.forward[task.node_id] if way.target == event.to_node_id)
    return decided(run, task.task_id, [(next(ways), is_taken)], task.ended_at_unix_micros)


def _on_sent_back(run: Run, event: EdgeTaken) -> Run:
    """`to` and all that comes after it go into their next visit; what was not reached in this one still is in it."""
    to, source = event.to_node_id, run.tasks[event.from_task_id]
    again = {to, *run.graph.descendants(to)}
    visits, tries, feedback = run.visits, run.tries, run.feedback
    for node_id in again:
        visits, tries = visits.set(node_id, next_visit(run, node_id)), tries.set(node_id, 0)
        feedback = feedback.delete(node_id) if node_id in feedback else feedback
    run = replace(
        _with_ways_from_outside(run, to, again, source),
        visits=visits,
        tries=tries,
        feedback=feedback.set(to, source.task_id),
        ready=tuple(node_id for node_id in run.ready if not _is_part(node_id, again)),
        pending=tuple(node_id for node_id in run.pending if not _is_part(node_id, again)),
    )
    return activated(run, (to,), source.ended_at_unix_micros)


def _with_ways_from_outside(run: Run, to: str, again: set[str], source: Task) -> Run:
    """Of the ways into what is visited again, those from elsewhere stay decided; `to` waits for none."""
    unmet, arrivals, lost = run.unmet, run.arrivals, run.lost
    for node_id in again:
        ways = run.graph.incoming[node_id]
        outside = [way for way in ways if way.source not in again and is_settled(current(run, way.source))]
        numbers = {way.number for way in outside}
        unmet = unmet.set(node_id, len(ways) - len(outside))
        arrivals = arrivals.set(node_id, tuple(each for each in arrivals.get(node_id, ()) if each[0] in numbers))
        lost = lost.set(node_id, sum(_is_left_out(run, way.source) for way in outside))
    arrived = ((_WAY_BACK, source.task_id),)
    return replace(run, unmet=unmet.set(to, 0), arrivals=arrivals.set(to, arrived), lost=lost)


def _is_left_out(run: Run, node_id: str) -> bool:
    task = current(run, node_id)
    return task is not None and task.status == TaskStatus.TASK_STATUS_SKIPPED


def _is_part(node_id: str, again: set[str]) -> bool:
    """Of the nodes, or an item of one of them."""
    return node_id in again or map_of(node_id) in again


def _on_skipped(run: Run, event: TaskSkipped) -> Run:
    at = event.at_unix_micros
    task = replace(
        Task(event.task_id, event.node_id, event.visit),
        status=TaskStatus.TASK_STATUS_SKIPPED,
        skipped_why=event.why,
        ended_at_unix_micros=at,
    )
    left_out = replace(
        run,
        tasks=run.tasks.set(task.task_id, task),
        pending=without(run.pending, task.node_id),
        ready=without(run.ready, task.node_id),
    )
    ways = [(way, False) for way in run.graph.forward[task.node_id]]
    return decided(left_out, task.task_id, ways, at, is_lost=True)


def _on_timed_out(run: Run, event: TaskTimedOut) -> Run:
    task = replace(run.tasks[event.task_id], timed_out=event.failure)
    due, cancelling = without_due(run.due, TASK + task.task_id), with_cancelling(run, task.task_id)
    return replace(run, tasks=run.tasks.set(task.task_id, task), due=due, cancelling=cancelling)


def _on_retried(run: Run, event: TaskRetried) -> Run:
    """The next visit waits for its time like a task that waits for money."""
    failed = run.tasks[event.task_id]
    node_id, visit = failed.node_id, failed.visit + 1
    task = replace(
        Task(
            names.task_id(node_id, visit),
            node_id,
            visit,
            failed.based_on,
            failed.files_from,
            map_task=failed.map_task,
        ),
        status=TaskStatus.TASK_STATUS_PARKED,
        park_cause=ParkCause.PARK_CAUSE_RETRY,
    )
    return replace(
        run,
        tasks=run.tasks.set(task.task_id, task),
        visits=run.visits.set(node_id, visit),
        tries=run.tries.set(node_id, event.number),
        extra_visits=run.extra_visits.set(node_id, run.extra_visits.get(node_id, 0) + 1),
        parked=(*run.parked, task.task_id),
        due=run.due.set(RETRY + task.task_id, event.not_before_unix_micros),
    )


def _on_child_run(run: Run, event: ChildRunRequested) -> Run:
    allotment = Amounts.of(event.allotment)
    run = begin(
        run,
        event,
        ParkCause.PARK_CAUSE_CHILD_RUN,
        child_run_id=event.child_run_id,
        child_input=event.input.inline.decode(errors="replace"),
        base_commit=event.base_commit,
        allotment=allotment,
    )
    return replace(
        run,
        child_runs=run.child_runs.set(event.task_id, event.child_run_id),
        merging=without(run.merging, event.task_id),
        allotted=run.allotted + allotment,
    )


def _on_grown(run: Run, event: GraphGrown) -> Run:
    planner = run.tasks[event.task_id].node_id
    graph = run.graph.grown(planner, event.nodes)
    visits, unmet, arrivals = run.visits, run.unmet, run.arrivals
    for node in event.nodes:
        visits = visits.set(node.node_id, next_visit(run, node.node_id))
        unmet = unmet.set(node.node_id, len(graph.incoming[node.node_id]))
        arrivals = arrivals.set(node.node_id, ())
    for target in {way.target for way in graph.forward[planner]} - {node.node_id for node in event.nodes}:
        unmet = unmet.set(target, unmet[target] + len(graph.incoming[target]) - len(run.graph.incoming[target]))
    return replace(run, graph=graph, visits=visits, unmet=unmet, arrivals=arrivals)


def next_visit(run: Run, node_id: str) -> int:
    """The visit that a node goes into: a new one where the one that it is at has begun."""
    visit = run.visits.get(node_id, 0)
    return visit + 1 if visit == 0 or names.task_id(node_id, visit) in run.tasks else visit


def at_least(visits: Map[str, int], task: Task) -> Map[str, int]:
    """Older histories count the visits in which a node was not reached."""
    return visits.set(task.node_id, task.visit) if task.visit > visits.get(task.node_id, 0) else visits


def _on_spawned(run: Run, event: ChildSpawned) -> Run:
    node_id, allotment = event.node_id, Amounts.of(event.allotment)
    parent = run.tasks[event.task_id]
    less = replace(parent, allotment=parent.allotment - allotment)
    snapshot = event.snapshot if event.HasField("snapshot") else None
    spawned = Spawned(event.task_id, node_id, event.turn, event.index, allotment, snapshot)
    labels = run.graph.node(parent.node_id).executor_labels
    run = replace(
        run,
        graph=run.graph.with_child(Node(node_id=node_id, agent=event.node, executor_labels=labels)),
        tasks=run.tasks.set(parent.task_id, less),
        visits=run.visits.set(node_id, 1),
        unmet=run.unmet.set(node_id, 0),
        spawned=run.spawned.set(node_id, spawned),
        children=run.children.set(event.task_id, (*run.children.get(event.task_id, ()), node_id)),
    )
    return activated(run, (node_id,), event.at_unix_micros)


def without_signal(run: Run, name: str) -> Run:
    """A wait has ended with it: the next one waits for another."""
    return replace(run, signals=run.signals.delete(name)) if name in run.signals else run


def with_cancelling(run: Run, task_id: str) -> tuple[str, ...]:
    return run.cancelling if task_id in run.cancelling else (*run.cancelling, task_id)


def without(queue: tuple[str, ...], name: str) -> tuple[str, ...]:
    if queue and queue[0] == name:
        return queue[1:]
    if name not in queue:
        return queue
    return tuple(other for other in queue if other != name)


def without_turn(queue: tuple[str, ...], run: Run, task: Task) -> tuple[str, ...]:
    """Whose turn it is: the end of an older visit takes nothing from the present one."""
    is_older = task.visit < run.visits.get(task.node_id, 0)
    return queue if is_older else without(queue, task.node_id)


def without_parked(run: Run, task: Task) -> tuple[str, ...]:
    return without(run.parked, task.task_id) if task.status == TaskStatus.TASK_STATUS_PARKED else run.parked


def without_due(due: Map[str, int], key: str) -> Map[str, int]:
    return due.delete(key) if key in due else due
