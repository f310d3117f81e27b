"""What is stopped by itself while the run goes on: a task, the items of a map, and what nobody waits for any more."""

from __future__ import annotations

from crewlog.domain import names
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run.events import evolve, fold_all
from crewlog.domain.run.map_events import is_failing
from crewlog.domain.run.state import Expansion, Run, Task, current, is_stopping, next_task
from crewlog.v1.run_pb2 import Handling, TaskCancelled, TaskCancelRequested, TaskSkipped, TaskTimedOut
from google.protobuf.message import Message


def overtaken(before: Run, run: Run, at: int) -> list[Message]:
    """Those that nodes of executors do not wait for any more, since their turn has come."""
    if not run.graph.overtaking or is_stopping(run):
        return []
    going = [node_id for node_id in run.ready if node_id in run.graph.overtaking and node_id not in before.ready]
    events: list[Message] = []
    for node_id in going:
        more = left_behind(run, node_id, at)
        events += more
        run = fold_all(run, more)
    return events


def left_behind(run: Run, node_id: str, at: int) -> list[Message]:
    """Who is not waited for any more is stopped."""
    join = run.graph.node(node_id).join
    if join.keep_rest or node_id not in run.graph.nodes or not run.graph.is_early(node_id):
        return []
    arrived = {number for number, _ in run.arrivals.get(node_id, ())}
    late = [way.source for way in run.graph.incoming[node_id] if way.number not in arrived]
    return dropped(run, late, {node_id}, f"{node_id} has enough", at)


def dropped(run: Run, node_ids: list[str], needless: set[str], why: str, at: int) -> list[Message]:
    """Stops nodes, and those before them, that lead to nothing else than what does not need them."""
    events: list[Message] = []
    waiting, seen = list(node_ids), set[str]()
    while waiting:
        node_id = waiting.pop()
        leads_to = {way.target for way in run.graph.forward[node_id]}
        if node_id in seen or not leads_to <= needless | seen:
            continue
        seen.add(node_id)
        events += _dropped(run, node_id, why, at)
        waiting += [way.source for way in run.graph.incoming[node_id]]
    return events


def _dropped(run: Run, node_id: str, why: str, at: int) -> list[Message]:
    task = current(run, node_id)
    if task is not None:
        return stop(
            run, task, TaskCancelRequested(task_id=task.task_id, reason=why, is_needless=True, at_unix_micros=at)
        )
    if node_id not in run.ready and node_id not in run.pending:
        return []  # it is left out when those before it are
    task_id, visit = names.task_id(node_id, run.visits[node_id]), run.visits[node_id]
    return [TaskSkipped(task_id=task_id, node_id=node_id, visit=visit, why=why, at_unix_micros=at)]


def is_needed(run: Run, node_id: str) -> bool:
    """Whether something waits for the node: not where all that it leads to comes to joins that have enough."""
    waiting, seen = [node_id], {node_id}
    while waiting:
        targets = {way.target for way in run.graph.forward[waiting.pop()]}
        if not targets:
            return True
        further = {each for each in targets - seen if not _has_enough(run, each)}
        waiting += further
        seen |= further
    return False


def _has_enough(run: Run, node_id: str) -> bool:
    """Whether the node does not wait for the rest of those before it."""
    return run.graph.is_early(node_id) and len(run.arrivals.get(node_id, ())) >= run.graph.needed(node_id)


def stop(run: Run, task: Task, asked: TaskCancelRequested | TaskTimedOut) -> list[Message]:
    """Whoever works on the task is told; where nobody does, it has ended."""
    if task.ended_at_unix_micros or task.cancel_requested is not None:
        return []
    if task.generation or task.task_id in run.child_runs:
        return [asked]
    at = asked.at_unix_micros
    if task.task_id in run.expansions:
        return [asked, *stopped_items(run, task, at)]
    after = evolve(run, asked)
    task = after.tasks[task.task_id]
    return [asked, *run_ends.events_of(after, task, run_ends.stopped(task, None, at))]


def failed_maps(before: Run, run: Run, at: int) -> list[Message]:
    """A map that has failed for good does not go on with the rest of its items, however the last one has failed."""
    if run.expansions is before.expansions:
        return []
    return [
        event
        for task_id, expansion in run.expansions.items()
        if expansion.failed > before.expansions.get(task_id, expansion).failed and is_failing(run, expansion)
        for event in stopped_items(run, run.tasks[task_id], at)
    ]


def stopped_items(run: Run, task: Task, at: int) -> list[Message]:
    expansion = run.expansions[task.task_id]
    events: list[Message] = []
    for node_id in _open_items(run, expansion):
        item = next_task(run, node_id)
        if item.cancel_requested is not None:
            continue
        events.append(
            TaskCancelRequested(task_id=item.task_id, reason=f"{task.task_id} goes no further", at_unix_micros=at)
        )
        if not item.generation and item.task_id not in run.child_runs:
            tolerated = Handling.HANDLING_TOLERATED
            events.append(TaskCancelled(task_id=item.task_id, at_unix_micros=at, handling=tolerated))
    return events


def _open_items(run: Run, expansion: Expansion) -> list[str]:
    node_ids = (names.item_node_id(expansion.node_id, index) for index in range(expansion.begun))
    found = ((node_id, current(run, node_id)) for node_id in node_ids)
    return [node_id for node_id, item in found if item is None or not item.ended_at_unix_micros]
