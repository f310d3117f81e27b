"""The money of a run: shares, allotments, tasks that wait for more, and the gates that ask for it.

What a task may spend is taken from the run when it is claimed, and may grow while it is worked on. No event adds an
allotment above what is left of the limit. A limit that is lowered takes back what is not there any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.budget import check_raised, check_units
from crewlog.domain.errors import BudgetExceeded, WrongState
from crewlog.domain.run.events import evolve
from crewlog.domain.run.money_events import held
from crewlog.domain.run.state import ENDED, GATE, Run, Task, current, is_over, is_stopping, is_to_stop, node_of, spends
from crewlog.domain.workflow.graph import map_of
from crewlog.v1 import budget_pb2
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import OnExhausted
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    AllotmentShrunk,
    GateAnswered,
    GateExpired,
    GateKind,
    GateOpened,
    GateStatus,
    GrowAllotment,
    LowerRunBudget,
    RaiseRunBudget,
    RunBudgetWarned,
    RunLimitLowered,
    RunLimitRaised,
    ShrinkAllotment,
    StartRun,
    TaskCancelled,
    TaskFailed,
    TaskParked,
    TaskStatus,
    TaskSucceeded,
    TaskUnparked,
    UnparkTask,
)
from google.protobuf.message import Message

Command: TypeAlias = GrowAllotment | ShrinkAllotment | UnparkTask | RaiseRunBudget | LowerRunBudget

WARN_PERCENT = 80
GATE_SECONDS_DEFAULT = 7 * 24 * 3_600
RAISE, STOP = "raise", "stop"
RUN_BUDGET_PREFIX, NODE_BUDGET_PREFIX = "run_", "node_"
SPENDERS_COUNTED_MAX = 64


def decide(run: Run, command: Command) -> list[Message]:
    """Raises InvalidCommand, NotFound, Conflict, WrongState or BudgetExceeded."""
    match command:
        case GrowAllotment():
            return _grow(run, command)
        case ShrinkAllotment():
            return _shrink(run, command)
        case UnparkTask():
            return _unpark(run, command)
        case RaiseRunBudget():
            return _raise(run, command)
        case LowerRunBudget():
            return _lower(run, command)
        case _:
            assert_never(command)


def budget_ids(command: StartRun) -> list[str]:
    """Every budget that may stand above the run, from the root down."""
    named = [f"named_{name}" for name in command.budgets]
    return ["tenant", f"project_{command.project_id}", *dict.fromkeys(named)]


def own_budget(run: Run) -> str:
    return RUN_BUDGET_PREFIX + run.started.run_id


def is_part(run: Run) -> bool:
    """Whether the run is a task of another one."""
    return bool(run.started.parent.run_id)


def is_given(run: Run, budget_id: str) -> bool:
    """Whether the budget is a part of that of the parent: crewlog.domain.run.child_money says what that means."""
    return is_part(run) and budget_id == own_budget(run)


def left(run: Run) -> Amounts:
    """What is neither spent nor allotted, in the units that the run limits."""
    return amounts.left(run.limit, run.spent + run.allotted)


def node_budget(node_id: str) -> str:
    """What stands in the place of a budget's id where a node may not cost more: nobody can raise that while it runs."""
    return NODE_BUDGET_PREFIX + node_id


def below_cap(run: Run, task: Task) -> Amounts:
    """By how much the task may grow before it has what its node may cost at most; what it has shared out counts."""
    cap = Amounts.of(node_of(run, task).budget)
    shared = amounts.total(run.spawned[child].allotment for child in run.children.get(task.task_id, ()))
    free = (cap - task.allotment - shared).at_least_zero()
    return Amounts(*(getattr(free, unit) if getattr(cap, unit) else amounts.AMOUNT_MAX for unit in amounts.UNITS))


def share(run: Run, node_id: str) -> Amounts:
    """An equal part of what is left for every node that is ready to spend, and no more than the node may cost."""
    node = run.graph.node(node_id)
    if not spends(node):
        return ZERO
    if node_id in run.spawned:
        return run.spawned[node_id].allotment
    limited, wish = amounts.limited_units(run.limit), Amounts.of(node.budget)
    own = amounts.share(left(run), _spenders(run, node_id)) if limited else ZERO
    if not wish:
        return own
    wished = (getattr(wish, unit) or getattr(own, unit) for unit in amounts.UNITS)
    return Amounts(
        *(min(w, getattr(own, u)) if u in limited else w for u, w in zip(amounts.UNITS, wished, strict=True))
    )


def _spenders(run: Run, node_id: str) -> int:
    """Counted one by one where they are few; where they are many, all that waits is taken for one."""
    waiting = (*run.ready, *run.pending)
    if len(waiting) > SPENDERS_COUNTED_MAX:
        return len(waiting)
    return sum(spends(run.graph.node(each)) for each in waiting) + (node_id not in waiting)


def first_allotment(run: Run, node_id: str, given: Amounts) -> Amounts | None:
    """The share, and where budgets above have given less, that; None where a unit has nothing left."""
    if not spends(run.graph.node(node_id)):
        return ZERO
    own = share(run, node_id)
    if any(getattr(own, unit) <= 0 for unit in amounts.limited_units(run.limit)):
        return None
    return Amounts(*(_smaller(getattr(own, unit), getattr(given, unit)) for unit in amounts.UNITS))


def waits(run: Run) -> bool:
    """Whether a task that nothing is left for waits for more, instead of ending."""
    return run.started.on_exhausted in (OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT)


def parked(run: Run, task: Task, budget_id: str, at: int) -> list[Message]:
    """A task that waits for money before it has begun."""
    parked = TaskParked(
        task_id=task.task_id, node_id=task.node_id, visit=task.visit, budget_id=budget_id, at_unix_micros=at
    )
    return [parked, *budget_gate(run, task, budget_id, ZERO, at)]


def no_money() -> Failure:
    return Failure(
        reason="budget_exhausted",
        message="what the task would cost does not fit into what is left of its budgets",
        what_to_do="raise the budget and start the run again; what was done is on its branch",
    )


def warnings(before: Run, after: Run, at: int) -> list[Message]:
    """A warning when what is spent reaches the declared share of the limit."""
    percent = amounts.percent_of(after.limit, after.spent)
    if percent < WARN_PERCENT or before.warned_percent >= WARN_PERCENT:
        return []
    return [RunBudgetWarned(percent=WARN_PERCENT, at_unix_micros=at)]


def charged(run: Run, task: Task) -> Amounts | None:
    """What a task that has ended counts for above the run; None as long as that may become more. What a child has
    spent of its parent's share counts for the parent."""
    total = _total(run, task)
    if total is None or task.node_id not in run.spawned:
        return total
    return (total - _of_share(run, task, total)).at_least_zero()


def _total(run: Run, task: Task) -> Amounts | None:
    """With what its children have spent of their shares; None as long as one of them is at work."""
    if task.status not in ENDED:
        return None
    total = Amounts.of(task.result.spent) if task.result is not None else ZERO
    for node_id in run.children.get(task.task_id, ()):
        child = current(run, node_id)
        part = _total(run, child) if child is not None else None
        if child is None or part is None:
            return None
        total += _of_share(run, child, part)
    return total


def _of_share(run: Run, child: Task, total: Amounts) -> Amounts:
    share = run.spawned[child.node_id].allotment
    return total.at_most(share) if share else total


def given_up(run: Run, at: int) -> list[Message]:
    """Tasks that wait when the run ends, and that nobody has begun to work on."""
    return [_cancelled(task, at) for task in run.tasks.values() if task.status not in ENDED]


def needless_gates(run: Run, events: Sequence[Message], at: int) -> list[Message]:
    """The questions of tasks that have ended without an answer: nobody needs one any more."""
    ended = {event.task_id for event in events if isinstance(event, (TaskSucceeded, TaskFailed, TaskCancelled))}
    if not ended:
        return []
    open_gates = (run.gates[key.removeprefix(GATE)].opened for key in run.due if key.startswith(GATE))
    needless = {opened.gate_id: opened.task_id for opened in open_gates if opened.task_id in ended}
    return [
        GateExpired(gate_id=gate_id, needless_because=f"{task_id} has ended", at_unix_micros=at)
        for gate_id, task_id in sorted(needless.items())
    ]


def outdated(run: Run, source: Task, to: str, at: int) -> list[Message]:
    """Tasks that wait or have waited, that nobody has worked on, and whose nodes are visited again."""
    again = {to, *run.graph.descendants(to)}
    waiting = [run.tasks[task_id] for task_id in run.parked if task_id not in run.child_runs]
    queued = (current(run, node_id) for node_id in (*run.ready, *run.pending))
    waiting += [task for task in queued if task is not None and task.status == TaskStatus.TASK_STATUS_READY]
    return [
        _cancelled(task, at)
        for task in waiting
        if not task.generation
        and task.task_id != source.task_id
        and (task.node_id in again or map_of(task.node_id) in again)
    ]


def _cancelled(task: Task, at: int) -> TaskCancelled:
    return TaskCancelled(task_id=task.task_id, result=task.result, at_unix_micros=at)


def _grow(run: Run, command: GrowAllotment) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None or not _may_grow(run, task, command):
        raise WrongState(f"task {command.task_id!r} is not worked on under generation {command.generation}")
    if command.number <= task.growths:
        return []
    amounts.check("by", command.by)
    by = amounts.only_limited(task.allotment, Amounts.of(command.by))
    if not by:
        return []
    if not amounts.fits(run.limit, run.spent + run.allotted + by):
        raise BudgetExceeded(f"run {command.run_id!r} has not so much left", what_to_do="raise its budget")
    if (by - below_cap(run, task)).at_least_zero():
        raise BudgetExceeded(f"node {task.node_id!r} may not cost so much", what_to_do="give it a larger `budget`")
    at = command.at_unix_micros
    grown = AllotmentGrown(task_id=task.task_id, number=command.number, by=by.message(), at_unix_micros=at)
    return [*_settled_gates(run, task.task_id, "", at), grown] if task.task_id in run.child_runs else [grown]


def _may_grow(run: Run, task: Task, command: GrowAllotment) -> bool:
    if task.task_id in run.child_runs:
        return not is_stopping(run) and not is_to_stop(task)
    return task.status == TaskStatus.TASK_STATUS_CLAIMED and task.generation == command.generation


def _shrink(run: Run, command: ShrinkAllotment) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None or task.task_id not in run.open or command.request_id in run.requests:
        return []
    return [shrunk(task, Amounts.of(command.by), command.request_id, command.at_unix_micros)]


def shrunk(task: Task, by: Amounts, request_id: str, at: int) -> AllotmentShrunk:
    """A limited unit keeps at least 1: 0 would mean that it is not limited."""
    smaller = (
        max(1, getattr(task.allotment, u) - getattr(by, u)) if getattr(task.allotment, u) else 0 for u in amounts.UNITS
    )
    allotment = Amounts(*smaller).limit()
    return AllotmentShrunk(task_id=task.task_id, allotment=allotment, request_id=request_id, at_unix_micros=at)


def budget_gate(run: Run, task: Task, budget_id: str, wanted: Amounts, at: int) -> list[Message]:
    """The question whether more may be spent, where the run is to ask; of a child run its parent does."""
    if is_given(run, budget_id) or run.started.on_exhausted != OnExhausted.ON_EXHAUSTED_ASK:
        return []
    seconds = run.started.gate_seconds or GATE_SECONDS_DEFAULT
    return [
        GateOpened(
            gate_id=f"{task.task_id}-{len(run.gates) + 1}",
            kind=GateKind.GATE_KIND_BUDGET,
            task_id=task.task_id,
            question=f"{task.task_id} needs more than {budget_id} has left: raise it, or stop with what is done?",
            choices=[RAISE, STOP],
            budget_id=budget_id,
            wanted=wanted.message(),
            expires_at_unix_micros=at + seconds * 1_000_000,
            default_choice=STOP,
            at_unix_micros=at,
        )
    ]


def _unpark(run: Run, command: UnparkTask) -> list[Message]:
    if command.task_id not in run.parked:
        return []
    at = command.at_unix_micros
    unparked = TaskUnparked(task_id=command.task_id, has_to_stop=command.has_to_stop, at_unix_micros=at)
    return [*_settled_gates(run, command.task_id, "", at), unparked]


def _raise(run: Run, command: RaiseRunBudget) -> list[Message]:
    if command.request_id and command.request_id in run.requests:
        return []
    _check_may_change(run)
    at = command.at_unix_micros
    return [limit_raised(run, command.by, command.request_id, at), *all_unparked(run, "", at)]


def limit_raised(run: Run, by: budget_pb2.Amounts, request_id: str, at: int) -> RunLimitRaised:
    """Raises InvalidCommand where the limit cannot be raised by so much."""
    _check_by(run, by)
    check_raised(run.limit, Amounts.of(by))
    return RunLimitRaised(by=by, request_id=request_id, at_unix_micros=at)


def all_unparked(run: Run, answered_by: str, at: int) -> list[Message]:
    """Everything that waits for the run's own budget goes on, in the order in which it began to wait."""
    events: list[Message] = []
    for task_id in run.parked:
        if run.tasks[task_id].parked_on == own_budget(run):
            events += _settled_gates(run, task_id, answered_by, at)
            events.append(TaskUnparked(task_id=task_id, at_unix_micros=at))
    return events


def _settled_gates(run: Run, task_id: str, answered_by: str, at: int) -> list[Message]:
    return [
        GateAnswered(gate_id=gate_id, choice=RAISE, answered_by=answered_by, at_unix_micros=at)
        for gate_id, gate in run.gates.items()
        if gate.opened.task_id == task_id and gate.status == GateStatus.GATE_STATUS_OPEN
    ]


def _lower(run: Run, command: LowerRunBudget) -> list[Message]:
    if command.request_id and command.request_id in run.requests:
        return []
    _check_may_change(run)
    _check_by(run, command.by)
    at = command.at_unix_micros
    lowered = RunLimitLowered(by=command.by, request_id=command.request_id, at_unix_micros=at)
    after = evolve(run, lowered)
    return [lowered, *taken_back(after, at), *warnings(run, after, at)]


def taken_back(run: Run, at: int) -> list[Message]:
    """What tasks hold above the limit is taken from them, from each the same part of what it holds."""
    excess = amounts.over(run.limit, run.spent + run.allotted)
    holders = [task for task in run.tasks.values() if task.allotment and task.status not in ENDED]
    if not excess:
        return []
    return [shrunk(task, amounts.proportion(excess, held(run, task), run.allotted), "", at) for task in holders]


def _check_may_change(run: Run) -> None:
    if is_over(run):
        raise WrongState(f"run {run.started.run_id!r} is over")
    check_own(run)


def _check_by(run: Run, by: budget_pb2.Amounts) -> None:
    amounts.check("by", by, needs_one=True)
    check_units(run.limit, Amounts.of(by))


def check_own(run: Run) -> None:
    """The limit of a child run is no one's to change: it follows what its parent gives."""
    if is_part(run):
        top = run.started.parent.root_run_id or run.started.parent.run_id
        raise WrongState(
            f"the budget of run {run.started.run_id!r} is a part of that of run {run.started.parent.run_id!r}",
            what_to_do=f"change the budget {RUN_BUDGET_PREFIX}{top}: what the child run needs comes from there",
        )


def _smaller(own: int, given: int) -> int:
    """0 stands for no limit on either side."""
    return min(own, given) if own and given else own or given
