"""What follows in the graph from the end of a task: another try, a way back, ways on, or the end of the run.

A way is decided once, when its source has ended, and the log says why. A success with nothing but unconditional ways
says nothing more: they are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.replacing import replace
from crewlog.domain.run import children as run_children
from crewlog.domain.run import context as run_context
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import (
    Run,
    Task,
    is_conflict,
    is_current,
    is_stopping,
    node_of,
    visits_left,
)
from crewlog.domain.workflow import planning
from crewlog.domain.workflow.expressions import ExpressionFailed
from crewlog.domain.workflow.graph import Way, map_of
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.node_pb2 import Outcome
from crewlog.v1.run_pb2 import (
    EdgeSkipped,
    EdgeTaken,
    GraphGrown,
    Handling,
    Node,
    TaskCancelled,
    TaskCancelRequested,
    TaskFailed,
    TaskResult,
    TaskRetried,
    TaskStatus,
    TaskSucceeded,
)
from google.protobuf.message import Message

BACK_OFF_SECONDS_MAX = 3_600
VISITED_AGAIN = "its node is visited again"
CONDITION_FAILED, EXPRESSION_FAILED, JOIN_MISSED = "condition_failed", "expression_failed", "join_missed"
MEND_AND_START = "mend it in the workflow's file and start another run: this one keeps the workflow that it began with"


@dataclass(frozen=True, slots=True)
class End:
    """How a task has ended: `failure` is None for a success."""

    outcome: Outcome.ValueType
    result: TaskResult | None
    failure: Failure | None
    at: int

    @property
    def is_success(self) -> bool:
        return self.outcome == Outcome.OUTCOME_SUCCEEDED


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one way: whether it is taken, and why."""

    way: Way
    is_taken: bool
    why: str


def succeeded(result: TaskResult | None, at: int) -> End:
    return End(Outcome.OUTCOME_SUCCEEDED, result, None, at)


def failed(failure: Failure, result: TaskResult | None, at: int) -> End:
    outcome = Outcome.OUTCOME_CONFLICTED if is_conflict(failure) else Outcome.OUTCOME_FAILED
    return End(outcome, result, failure, at)


def stopped(task: Task, result: TaskResult | None, at: int) -> End:
    """Somebody, or the time, has ended it."""
    if task.timed_out is not None:
        return End(Outcome.OUTCOME_TIMED_OUT, result, task.timed_out, at)
    return End(Outcome.OUTCOME_CANCELLED, result, None, at)


def events_of(run: Run, task: Task, end: End) -> list[Message]:
    """Everything that the end leads to at once. While a run is being stopped nothing begins, but what has succeeded is
    not visited again by a retry: where it leads to is decided all the same."""
    if is_stopping(run) and (not end.is_success or task.node_id in run.spawned):
        return [_ended(task, end)]
    children = [] if is_stopping(run) else run_children.given_up(run, task, end.at)
    return [*_events_of(run, task, end), *children]


def unpaid(run: Run, task: Task, budget_id: str, at: int) -> list[Message]:
    """Nothing is left for a task that has not begun: it waits, or a person is asked, or that is its end."""
    waits = run_money.waits(run) or run_money.is_given(run, budget_id)
    if waits and not task.has_to_stop:
        return run_money.parked(run, task, budget_id, at)
    return events_of(run, task, failed(run_money.no_money(), None, at))


def _events_of(run: Run, task: Task, end: End) -> list[Message]:
    if not is_current(run, task):
        return [_part_ended(task, end)]
    if task.node_id in run.spawned:
        return [_part_ended(task, end), *run_children.told(run, task, end.failure, end.result, end.at)]
    end, planned = _with_plan(run, task, end)
    if not end.is_success and _may_retry(run, task, end):
        return [_ended(task, end, Handling.HANDLING_RETRY), _retried(run, task, end.at)]
    if run.graph.is_item(task.node_id):
        return [_part_ended(task, end)]
    return [*planned, *_led_on(run, task, end)]


def _part_ended(task: Task, end: End) -> Message:
    """Not for itself: what the failure of an item or a child means is for the map, or the parent, to say; that of an
    older visit means nothing any more."""
    return _ended(task, end, Handling.HANDLING_UNSPECIFIED if end.is_success else Handling.HANDLING_TOLERATED)


def _with_plan(run: Run, task: Task, end: End) -> tuple[End, list[Message]]:
    """What was planned is there before its planner has ended, so that nothing overtakes it; a plan that is not valid is
    the failure of its planner."""
    node = node_of(run, task)
    if not end.is_success or not node.agent.HasField("planning"):
        return end, []
    result = end.result or TaskResult()
    try:
        nodes = planning.nodes_of(task.node_id, node.agent.planning, result.structured_json)
    except InvalidCommand as refusal:
        failure = Failure(reason="plan_invalid", message=refusal.message, what_to_do=refusal.what_to_do)
        return failed(failure, result, end.at), []
    if len(nodes) > visits_left(run):
        return failed(_too_many(nodes, run), result, end.at), []
    return end, [GraphGrown(task_id=task.task_id, nodes=nodes, at_unix_micros=end.at)]


def _too_many(nodes: Sequence[Node], run: Run) -> Failure:
    return Failure(
        reason="plan_invalid",
        message=f"the plan has {len(nodes)} tasks, and the run may have {max(0, visits_left(run))} visits more",
        what_to_do=f"raise `visits_max` of the workflow: {MEND_AND_START}",
    )


def _led_on(run: Run, task: Task, end: End) -> list[Message]:
    if end.is_success and run.graph.is_plain[task.node_id] and task.node_id not in run.graph.back:
        return [_ended(task, end)]
    try:
        return _by_ways(run, task, end)
    except ExpressionFailed as problem:
        broken = Failure(
            reason=CONDITION_FAILED,
            message=f"a condition of an edge from {task.node_id!r} cannot be worked out: {problem}",
            what_to_do=f"{MEND_AND_START}; what was done so far is on its branch",
        )
        return [_ended(task, failed(broken, end.result, end.at))]


def _by_ways(run: Run, task: Task, end: End) -> list[Message]:
    seen = _as_seen(run, task, end)
    for way in run.graph.back.get(task.node_id, ()):
        why = _applies(seen, task, end, way)
        if not why:
            continue
        if _may_visit(run, way):
            return _sent_back(run, task, end, way, why)
        if end.is_success:
            return _by_forward_ways(run, task, failed(_visits_used_up(way), end.result, end.at))
    return _by_forward_ways(run, task, end)


def _by_forward_ways(run: Run, task: Task, end: End) -> list[Message]:
    verdicts = list(_verdicts(_as_seen(run, task, end), task, end))
    if end.is_success:
        silent = not node_of(run, task).exclusive
        told = [verdict for verdict in verdicts if not (silent and verdict.way.is_plain)]
        return [_ended(task, end), *_told(task, told)]
    handling = _handling(run, task, verdicts)
    if not handling:
        return [_ended(task, end)]
    if handling == Handling.HANDLING_CONTINUE:
        verdicts = list(_as_done(run, task, verdicts))
    return [_ended(task, end, handling), *_told(task, verdicts)]


def _as_done(run: Run, task: Task, verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """What asks for nothing but that the task is done is taken: without a word, or, of several, the first."""
    is_exclusive, is_found = node_of(run, task).exclusive, False
    for verdict in verdicts:
        if not verdict.way.is_plain:
            yield verdict
        elif is_exclusive:
            why = "another edge came first" if is_found else f"{task.task_id} counts as done"
            yield Verdict(verdict.way, not is_found, why)
            is_found = True


def _handling(run: Run, task: Task, verdicts: Sequence[Verdict]) -> Handling.ValueType:
    if task.cancel_requested is not None and task.cancel_requested.is_needless:
        return Handling.HANDLING_TOLERATED
    if any(verdict.is_taken for verdict in verdicts):
        return Handling.HANDLING_EDGE
    if node_of(run, task).continue_on_failure:
        return Handling.HANDLING_CONTINUE
    if verdicts and all(run.graph.is_tolerant(verdict.way.target) for verdict in verdicts):
        return Handling.HANDLING_TOLERATED
    return Handling.HANDLING_UNSPECIFIED


def _verdicts(run: Run, task: Task, end: End) -> Iterator[Verdict]:
    is_exclusive, is_found = node_of(run, task).exclusive, False
    for way in run.graph.forward[task.node_id]:
        why = "" if is_exclusive and is_found else _applies(run, task, end, way)
        is_found = is_found or bool(why)
        yield Verdict(way, bool(why), why or ("another edge came first" if is_exclusive and is_found else _not(way)))


def _applies(run: Run, task: Task, end: End, way: Way) -> str:
    """Why the way applies; empty where it does not. `run` shows the task as ended."""
    if end.outcome not in way.on:
        return ""
    reasons = [f"{task.task_id} {_SAID[end.outcome]}"]
    if way.phrase:
        output = end.result.output.inline if end.result is not None else b""
        if way.phrase.encode() not in output:
            return ""
        reasons.append(f"the output contains {way.phrase!r}")
    if way.when:
        if not run_context.holds(run, way.when, run.tasks[task.task_id]):
            return ""
        reasons.append(way.when)
    return reasons[0] if len(reasons) == 1 else " and ".join(reasons[1:])


_SAID = {
    Outcome.OUTCOME_SUCCEEDED: "succeeded",
    Outcome.OUTCOME_FAILED: "failed",
    Outcome.OUTCOME_TIMED_OUT: "timed out",
    Outcome.OUTCOME_CANCELLED: "was cancelled",
    Outcome.OUTCOME_CONFLICTED: "found a conflict",
}


def _not(way: Way) -> str:
    conditions = [_SAID[outcome] for outcome in sorted(way.on)]
    conditions += [f"the output contains {way.phrase!r}"] if way.phrase else []
    conditions += [way.when] if way.when else []
    return (
        f"not: {' or '.join(conditions[: len(way.on)])}{''.join(f' and {each}' for each in conditions[len(way.on) :])}"
    )


def _as_seen(run: Run, task: Task, end: End) -> Run:
    """With the task as its conditions see it: they are worked out before anything is recorded."""
    status = _STATUSES[end.outcome]
    ended = replace(task, status=status, result=end.result, failure=end.failure, ended_at_unix_micros=end.at)
    return replace(run, tasks=run.tasks.set(task.task_id, ended))


_STATUSES = {
    Outcome.OUTCOME_SUCCEEDED: TaskStatus.TASK_STATUS_SUCCEEDED,
    Outcome.OUTCOME_FAILED: TaskStatus.TASK_STATUS_FAILED,
    Outcome.OUTCOME_CONFLICTED: TaskStatus.TASK_STATUS_FAILED,
    Outcome.OUTCOME_TIMED_OUT: TaskStatus.TASK_STATUS_TIMED_OUT,
    Outcome.OUTCOME_CANCELLED: TaskStatus.TASK_STATUS_CANCELLED,
}


def _sent_back(run: Run, task: Task, end: End, way: Way, why: str) -> list[Message]:
    handling = Handling.HANDLING_UNSPECIFIED if end.is_success else Handling.HANDLING_EDGE
    taken = EdgeTaken(from_task_id=task.task_id, to_node_id=way.target, why=why)
    again = {way.target, *run.graph.descendants(way.target)}
    return [
        _ended(task, end, handling),
        *_abandoned(run, task, again, end.at),
        taken,
        *run_money.outdated(run, task, way.target, end.at),
    ]


def _abandoned(run: Run, task: Task, again: set[str], at: int) -> list[Message]:
    """What has begun a visit that nobody needs any more: it is worked on, or waits for somebody, or lies about. The
    task's own children are stopped when it ends."""
    begun = (run.tasks[task_id] for task_id in (*run.open, *run.child_runs, *run.adrift))
    own = run.children.get(task.task_id, ())
    tasks = (other for other in begun if other.task_id != task.task_id and other.cancel_requested is None)
    return [
        TaskCancelRequested(task_id=other.task_id, reason=VISITED_AGAIN, is_needless=True, at_unix_micros=at)
        for other in tasks
        if (other.node_id in again or map_of(other.node_id) in again) and other.node_id not in own
    ]


def _may_visit(run: Run, way: Way) -> bool:
    own = run.visits[way.target] - run.extra_visits.get(way.target, 0)
    return own < way.visits_max and visits_left(run) > 0


def _visits_used_up(way: Way) -> Failure:
    return Failure(
        reason="visits_exhausted",
        message=f"{way.source!r} still sends the work back after {way.visits_max} visits of {way.target!r}",
        what_to_do=(
            "look at its last output; `crewlog retry` visits it once more, which helps where it may say something else;"
            " or start another run with more `visits_max` or a smaller task. The work so far is on the run's branch"
        ),
    )


def _told(task: Task, verdicts: Sequence[Verdict]) -> list[Message]:
    return [
        EdgeTaken(from_task_id=task.task_id, to_node_id=each.way.target, why=each.why, is_forward=True)
        if each.is_taken
        else EdgeSkipped(from_task_id=task.task_id, to_node_id=each.way.target, why=each.why)
        for each in verdicts
    ]


def _may_retry(run: Run, task: Task, end: End) -> bool:
    policy = node_of(run, task).retry
    if (
        end.outcome == Outcome.OUTCOME_CANCELLED
        or task.cancel_requested is not None  # it has failed before it heard of it
        or _is_for_good(end)
        or run.tries.get(task.node_id, 0) + 1 >= policy.attempts_max
    ):
        return False
    reason = end.failure.reason if end.failure is not None else ""
    return not policy.reasons or reason in policy.reasons


def _is_for_good(end: End) -> bool:
    """Another try would find the same."""
    return end.failure is not None and end.failure.reason in (JOIN_MISSED, EXPRESSION_FAILED)


def _retried(run: Run, task: Task, at: int) -> TaskRetried:
    policy, number = node_of(run, task).retry, run.tries.get(task.node_id, 0) + 1
    longest = policy.back_off_seconds_max or BACK_OFF_SECONDS_MAX
    seconds = min(longest, policy.back_off_seconds << min(number - 1, 20))
    not_before = at + seconds * 1_000_000
    return TaskRetried(task_id=task.task_id, number=number, not_before_unix_micros=not_before, at_unix_micros=at)


def _ended(
    task: Task, end: End, handling: Handling.ValueType = Handling.HANDLING_UNSPECIFIED
) -> TaskSucceeded | TaskFailed | TaskCancelled:
    task_id, at = task.task_id, end.at
    if end.is_success:
        return TaskSucceeded(task_id=task_id, result=end.result, at_unix_micros=at)
    if end.outcome in (Outcome.OUTCOME_TIMED_OUT, Outcome.OUTCOME_CANCELLED):
        return TaskCancelled(task_id=task_id, result=end.result, at_unix_micros=at, handling=handling)
    return TaskFailed(task_id=task_id, failure=end.failure, result=end.result, at_unix_micros=at, handling=handling)
