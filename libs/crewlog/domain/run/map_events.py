"""What it means for a map that its list is known, that one of its items has ended, and that it is taken up again."""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.domain import names
from crewlog.domain.replacing import replace
from crewlog.domain.run.graph_events import activated, begin, next_visit, with_deadline
from crewlog.domain.run.money_events import held
from crewlog.domain.run.state import Expansion, Run, Task, current, is_to_stop, map_task_id
from crewlog.v1.run_pb2 import Handling, MapExpanded, ParkCause, TaskStatus


def on_expanded(run: Run, event: MapExpanded) -> Run:
    run = begin(run, event, ParkCause.PARK_CAUSE_MAP)
    items = tuple(event.items_json) if event.items_json else None
    expansion = Expansion(event.node_id, event.visit, event.items, event.at_once_max, items)
    return more_items(run, event.task_id, expansion, event.at_unix_micros)


def more_items(run: Run, task_id: str, expansion: Expansion, at: int) -> Run:
    """As many items of the map are begun as may be at once; when nothing is left, the map itself has to be ended."""
    is_over = is_failing(run, expansion) or is_to_stop(run.tasks[task_id])
    room = 0 if is_over else expansion.at_once_max - expansion.open
    again, new = expansion.again[:room], max(0, min(room - len(expansion.again), expansion.count - expansion.begun))
    first = [names.item_node_id(expansion.node_id, expansion.begun + number) for number in range(new)]
    expansion = replace(
        expansion,
        begun=expansion.begun + new,
        open=expansion.open + len(again) + new,
        again=expansion.again[len(again) :],
    )
    run = replace(run, expansions=run.expansions.set(task_id, expansion))
    run = _begun_again(run, again, at) if again else run
    run = _in_next_visit(run, first, at) if first else run
    return run if expansion.open else replace(run, pending=(*run.pending, expansion.node_id))


def _begun_again(run: Run, node_ids: Sequence[str], at: int) -> Run:
    """A child run that has failed goes on; anything else is visited anew."""
    anew = list[str]()
    for node_id in node_ids:
        task = current(run, node_id)
        if task is not None and task.child_run_id:
            run = reopened(run, task, at)
        else:
            anew.append(node_id)
    return _in_next_visit(run, anew, at)


def _in_next_visit(run: Run, node_ids: Sequence[str], at: int) -> Run:
    visits = run.visits
    for node_id in node_ids:
        visits = visits.set(node_id, next_visit(run, node_id))
    return activated(replace(run, visits=visits), node_ids, at)


def reopened(run: Run, task: Task, at: int) -> Run:
    """A map, or a child run, goes on where it was when its run ended."""
    again = replace(
        task,
        status=TaskStatus.TASK_STATUS_PARKED,
        failure=None,
        cancel_requested=None,
        timed_out=None,
        handling=Handling.HANDLING_UNSPECIFIED,
        ended_at_unix_micros=0,
        taken_up=run.retries,
    )
    run = replace(run, tasks=run.tasks.set(task.task_id, again), parked=(*run.parked, task.task_id))
    run = with_deadline(run, again, at)
    if not task.child_run_id:
        return run
    child_runs = run.child_runs.set(task.task_id, task.child_run_id)
    return replace(run, child_runs=child_runs, allotted=run.allotted + held(run, again))


def is_failing(run: Run, expansion: Expansion) -> bool:
    return expansion.failed > run.graph.nodes[expansion.node_id].map.failures_max


def item_ended(run: Run, task: Task, at: int, *, is_failed: bool) -> Run:
    """An item of a map is done with; of one that is not there any more nobody waits."""
    task_id = map_task_id(run, task.node_id)
    expansion = run.expansions.get(task_id)
    if expansion is None or run.tasks[task_id].status != TaskStatus.TASK_STATUS_PARKED:
        return run
    one_less = replace(expansion, open=expansion.open - 1, failed=expansion.failed + is_failed)
    return more_items(run, task_id, one_less, at)
