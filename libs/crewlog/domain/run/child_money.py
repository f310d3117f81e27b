"""The money of a run that is a task of another one: a part of its parent's, which grows while the parent has some left.

The parent's log is the truth. The allotment of the task changes there first, and each of its changes has a number; then
the limit of the child run becomes what the allotment is, under that number. What nothing is left for in a child run
waits there, whatever its policy is: whether it goes on, is asked about or stops is for the run at the top to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.run import money as run_money
from crewlog.domain.run.events import evolve, fold_all
from crewlog.domain.run.money_events import held
from crewlog.domain.run.state import Gate, Run, Task, is_over, is_stopping, is_to_stop
from crewlog.v1.budget_pb2 import OnExhausted
from crewlog.v1.run_pb2 import (
    AskForAllotment,
    FitRunLimit,
    GateKind,
    GateStatus,
    GrowAllotment,
    RunLimitLowered,
    RunLimitRaised,
    UnparkTask,
)
from google.protobuf.message import Message

Command: TypeAlias = FitRunLimit | AskForAllotment
Step: TypeAlias = tuple[str, FitRunLimit | AskForAllotment | GrowAllotment | UnparkTask]
"""A command, and the run that it is for."""


def decide(run: Run, command: Command) -> list[Message]:
    """Refuses nothing: what is not needed any more changes nothing."""
    match command:
        case FitRunLimit():
            return _fit(run, command)
        case AskForAllotment():
            return _ask(run, command)
        case _:
            assert_never(command)


def next_step(chain: Sequence[Run], chunk: Amounts, at: int) -> Step | None:
    """What has to be done now about what waits in a child run, so that it goes on, is asked about, or stops. `chain` is
    the child run, and then whose task each one is, up to the top."""
    child = chain[0]
    if child.paused is not None:
        return None
    outstanding = _outstanding(chain, at)
    if outstanding is not None:
        return outstanding
    run_id, first = child.started.run_id, _fitting(child)
    if first is not None:
        return run_id, UnparkTask(run_id=run_id, task_id=first.task_id, at_unix_micros=at)
    if not waiting(child):
        return None
    wanted = need(child)
    return supply(chain, wanted, chunk, at) or _in_need(chain, wanted, at)


def supply(chain: Sequence[Run], wanted: Amounts, chunk: Amounts, at: int) -> Step | None:
    """What brings the child run nearer to so much more than it has; None where its parents have nothing for it."""
    outstanding = _outstanding(chain, at)
    if outstanding is not None:
        return outstanding
    for child, parent in pairwise(chain):
        task = _task_in(parent, child)
        if task is None or not wanted:
            return None
        grown = _growth(parent, task, wanted, chunk, at)
        if grown is not None:
            return parent.started.run_id, grown
        wanted = missing(parent, wanted)
    return None


def follow(run: Run, task: Task, child: Run, at: int) -> FitRunLimit | None:
    """What has to be told to the child run so that its limit is what its task's allotment is."""
    run_id, number = run.started.run_id, task.changes
    if number <= child.followed or is_over(child):
        return None
    return FitRunLimit(
        run_id=child.started.run_id,
        allotment=task.allotment.limit(),
        number=number,
        request_id=f"{run_id}:{task.task_id}:{number}",
        at_unix_micros=at,
    )


def _outstanding(chain: Sequence[Run], at: int) -> Step | None:
    """A change that somebody has begun, and that its child run has not followed."""
    for child, parent in pairwise(chain):
        task = _task_in(parent, child)
        command = follow(parent, task, child, at) if task is not None else None
        if command is not None:
            return command.run_id, command
    return None


def _in_need(chain: Sequence[Run], wanted: Amounts, at: int) -> Step | None:
    """Nobody has anything left: the run at the top says what becomes of what waits."""
    child, top = chain[0], chain[-1]
    if any(is_stopping(run) for run in chain):
        return None
    if _is_refused(chain, wanted):
        run_id, task_id = child.started.run_id, waiting(child)[0].task_id
        return run_id, UnparkTask(run_id=run_id, task_id=task_id, has_to_stop=True, at_unix_micros=at)
    task = _task_in(top, chain[-2])
    if task is None or top.started.on_exhausted != OnExhausted.ON_EXHAUSTED_ASK or _is_asked(top, task):
        return None
    run_id = top.started.run_id
    return run_id, AskForAllotment(run_id=run_id, task_id=task.task_id, wanted=wanted.message(), at_unix_micros=at)


def _is_refused(chain: Sequence[Run], wanted: Amounts) -> bool:
    """Whether it is of no use to wait: a node may not cost more, or nobody is to wait, or a person has said no."""
    for child, parent in pairwise(chain):
        task = _task_in(parent, child)
        if task is None or (wanted - run_money.below_cap(parent, task)).at_least_zero():
            return True
        wanted = missing(parent, wanted)
    top = chain[-1]
    task = _task_in(top, chain[-2])
    return task is None or not run_money.waits(top) or _has_said_no(top, task)


def _task_in(parent: Run, child: Run) -> Task | None:
    """The task that the child run is, as long as it has not ended."""
    task_id = child.started.parent.task_id
    return parent.tasks[task_id] if task_id in parent.child_runs else None


def _growth(run: Run, task: Task, wanted: Amounts, chunk: Amounts, at: int) -> GrowAllotment | None:
    """More for a child run: a good part where there is one, no less than it needs; None where there is not so much."""
    if is_stopping(run) or is_to_stop(task):
        return None
    room, units = _room(run, task), amounts.limited_units(task.allotment)
    by = Amounts(**{unit: min(getattr(room, unit), max(getattr(wanted, unit), getattr(chunk, unit))) for unit in units})
    if not by or amounts.only_limited(task.allotment, (wanted - by).at_least_zero()):
        return None
    return GrowAllotment(
        run_id=run.started.run_id,
        task_id=task.task_id,
        number=task.growths + 1,
        by=by.message(),
        at_unix_micros=at,
    )


def missing(run: Run, wanted: Amounts) -> Amounts:
    """What the run itself would have to get before it can give so much."""
    return amounts.only_limited(run.limit, (wanted - run_money.left(run)).at_least_zero())


def waiting(run: Run) -> list[Task]:
    """The tasks of a child run that wait for money of its parent."""
    if not run_money.is_part(run) or is_over(run) or is_stopping(run):
        return []
    own = run_money.own_budget(run)
    return [run.tasks[task_id] for task_id in run.parked if run.tasks[task_id].parked_on == own]


def _fitting(run: Run) -> Task | None:
    """One of them that has not begun, when there is enough for all that have not."""
    unbegun = [task for task in waiting(run) if not task.generation]
    return unbegun[0] if unbegun and not _need_to_begin(run) else None


def need(run: Run) -> Amounts:
    """What they need beyond what is left. Who has begun did not get along with that, so it is never nothing."""
    left, units = run_money.left(run), amounts.limited_units(run.limit)
    found = _need_to_begin(run)
    for task in waiting(run):
        short = [unit for unit in units if getattr(task.wanted, unit)] or units
        if task.generation:
            wanted = {unit: max(1, getattr(task.wanted, unit) - getattr(left, unit)) for unit in short}
            found = _largest(found, Amounts(**wanted))
    return found


def to_raise(run: Run) -> str:
    """The budget that a task which nothing is left for waits for; or, where it stops, that a person may raise."""
    top = run.started.parent.root_run_id
    return run_money.own_budget(run) if run_money.waits(run) or not top else run_money.RUN_BUDGET_PREFIX + top


def gone_since(run: Run, at: int) -> list[Message]:
    """A run was taken up again: what its child runs had left may have been spent by others since they ended."""
    events: list[Message] = []
    for task_id in sorted(run.child_runs):
        task = run.tasks[task_id]
        excess = amounts.over(run.limit, run.spent + run.allotted)
        gone = excess.at_most(held(run, task)).at_least_zero()
        if gone:
            events.append(run_money.shrunk(task, gone, "", at))
            run = evolve(run, events[-1])  # type: ignore[arg-type]
    return events


def _need_to_begin(run: Run) -> Amounts:
    """Each that may begin takes a part: there has to be something in it."""
    if all(task.generation for task in waiting(run)):
        return ZERO
    count = len(run.ready) + len(run.pending) + len(waiting(run))
    each = Amounts(**dict.fromkeys(amounts.limited_units(run.limit), count))
    return (each - run_money.left(run)).at_least_zero()


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return one + (other - one).at_least_zero()


def _room(run: Run, task: Task) -> Amounts:
    """By how much the allotment may grow, in each unit that limits it."""
    left, own = run_money.left(run), amounts.limited_units(run.limit)
    below = run_money.below_cap(run, task)
    units = amounts.limited_units(task.allotment)
    return Amounts(**{u: min(getattr(left, u) if u in own else amounts.AMOUNT_MAX, getattr(below, u)) for u in units})


def _has_said_no(run: Run, task: Task) -> bool:
    """What was said before the run was taken up again does not count."""
    gates = [gate for gate in _gates(run, task) if gate.opened.at_unix_micros >= run.went_on_at_unix_micros]
    last = max(gates, key=lambda gate: int(gate.opened.gate_id.rpartition("-")[2]), default=None)
    if last is None:
        return False
    return last.status == GateStatus.GATE_STATUS_EXPIRED or last.choice == run_money.STOP


def _gates(run: Run, task: Task) -> list[Gate]:
    return [
        gate
        for gate in run.gates.values()
        if gate.opened.task_id == task.task_id and gate.opened.kind == GateKind.GATE_KIND_BUDGET
    ]


def _is_asked(run: Run, task: Task) -> bool:
    return any(gate.status == GateStatus.GATE_STATUS_OPEN for gate in _gates(run, task))


def _ask(run: Run, command: AskForAllotment) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None or task.task_id not in run.child_runs or is_over(run) or is_stopping(run) or is_to_stop(task):
        return []
    if _is_asked(run, task) or _has_said_no(run, task):
        return []
    own, wanted = run_money.own_budget(run), Amounts.of(command.wanted)
    return run_money.budget_gate(run, task, own, wanted, command.at_unix_micros)


def _fit(run: Run, command: FitRunLimit) -> list[Message]:
    """One event at least says that the number was followed."""
    if not run_money.is_part(run) or is_over(run) or command.number <= run.followed:
        return []
    limit, at = Amounts.of(command.allotment), command.at_unix_micros
    more, less = (limit - run.limit).at_least_zero(), (run.limit - limit).at_least_zero()
    events: list[Message] = []
    if less:
        events.append(RunLimitLowered(by=less.message(), **_said(command)))
    if more or not less:
        events.append(RunLimitRaised(by=more.message(), **_said(command)))
    after = fold_all(run, events)
    taken = run_money.taken_back(after, at) if less else []
    going = run_money.all_unparked(after, "", at) if more else []
    return [*events, *taken, *run_money.warnings(run, after, at), *going]


def _said(command: FitRunLimit) -> dict[str, Any]:
    return {
        "request_id": command.request_id,
        "number": command.number,
        "at_unix_micros": command.at_unix_micros,
    }
