"""A budget above the runs: a tenant's, a project's, or a named one, with what is spent and what is allotted of it.

    unset --set--> SET --(take -> settle)*, raise, lower, set again-->

Nothing is ever allotted above the limit: what is spent and what open allotments hold never exceed it by an entry that
adds to them. A limit may be lowered below both, and a task may have spent more than its allotment; that is recorded,
and until there is room again nothing is allotted. A budget that is not set limits nothing and holds nothing.

A period begins with the first command that comes in it; what was spent before counts no more, open allotments stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, NotFound
from crewlog.v1.budget_pb2 import (
    AllotmentSettled,
    AllotmentTaken,
    BudgetLimitLowered,
    BudgetLimitRaised,
    BudgetOverdrawn,
    BudgetPeriodBegun,
    BudgetSet,
    BudgetView,
    BudgetWarned,
    LowerBudget,
    Period,
    PeriodBounds,
    RaiseBudget,
    SetBudget,
    SettleAllotment,
    TakeAllotment,
)
from google.protobuf.message import Message
from immutables import Map

KIND = "budget"
VERSION = 1
WARN_PERCENTS_DEFAULT = (80,)
WARN_PERCENTS_MAX = 10
REQUESTS_KEPT_MAX = 1_000
SETTLED_KEPT_MAX = 1_000

Command: TypeAlias = SetBudget | RaiseBudget | LowerBudget | TakeAllotment | SettleAllotment
Event: TypeAlias = (
    BudgetSet
    | BudgetLimitRaised
    | BudgetLimitLowered
    | BudgetPeriodBegun
    | AllotmentTaken
    | AllotmentSettled
    | BudgetWarned
    | BudgetOverdrawn
)


@dataclass(frozen=True, slots=True)
class Allotment:
    """What one task holds. `number` counts how often it was made larger; `last` is what that has added."""

    number: int
    amounts: Amounts
    last: Amounts


@dataclass(frozen=True, slots=True)
class Budget:
    budget_id: str = ""
    parent_id: str = ""
    limit: Amounts = ZERO
    period: Period.ValueType = Period.PERIOD_UNSPECIFIED
    time_zone: str = ""
    warn_percents: tuple[int, ...] = ()
    bounds: PeriodBounds | None = None
    spent: Amounts = ZERO
    allotted: Amounts = ZERO
    open: Map[str, Allotment] = field(default_factory=Map)
    warned_percent: int = 0
    is_overdrawn: bool = False
    requests: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()


INITIAL = Budget()


def decide(budget: Budget, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand, NotFound, Conflict or BudgetExceeded."""
    match command:
        case SetBudget():
            return _set(budget, command)
        case RaiseBudget():
            return _raise(budget, command)
        case LowerBudget():
            return _lower(budget, command)
        case TakeAllotment():
            return _take(budget, command)
        case SettleAllotment():
            return _settle(budget, command)
        case _:
            assert_never(command)


def evolve(budget: Budget, event: Event) -> Budget:
    """What an event means."""
    match event:
        case AllotmentTaken():
            return _on_taken(budget, event)
        case AllotmentSettled():
            return _on_settled(budget, event)
        case BudgetSet():
            return _on_set(budget, event)
        case BudgetLimitRaised():
            return _on_limit(budget, budget.limit + Amounts.of(event.by), event.request_id)
        case BudgetLimitLowered():
            return _on_limit(budget, lowered(budget.limit, Amounts.of(event.by)), event.request_id)
        case BudgetPeriodBegun():
            return replace(budget, bounds=event.bounds, spent=ZERO, warned_percent=0, is_overdrawn=False)
        case BudgetWarned():
            return replace(budget, warned_percent=event.percent)
        case BudgetOverdrawn():
            return replace(budget, is_overdrawn=True)
        case _:
            assert_never(event)


def is_set(budget: Budget) -> bool:
    return bool(budget.budget_id)


def in_period(budget: Budget, bounds: PeriodBounds | None) -> Budget:
    """The budget as it will be once the first command of a period has begun it."""
    if bounds is None or budget.bounds is None or bounds.start_unix_micros <= budget.bounds.start_unix_micros:
        return budget
    return evolve(budget, BudgetPeriodBegun(bounds=bounds))


def room(budget: Budget) -> Amounts:
    """What may still be allotted in each unit that the budget limits."""
    return amounts.left(budget.limit, budget.spent + budget.allotted)


def lowered(limit: Amounts, by: Amounts) -> Amounts:
    """A unit that is limited stays limited: nothing can be lowered to 0, which would mean no limit."""
    units = (max(1, getattr(limit, u) - getattr(by, u)) if getattr(limit, u) else 0 for u in amounts.UNITS)
    return Amounts(*units)


def view(budget: Budget, *, revision: int = 0) -> BudgetView:
    return BudgetView(
        budget_id=budget.budget_id,
        parent_id=budget.parent_id,
        limit=budget.limit.limit(),
        period=budget.period,
        time_zone=budget.time_zone,
        bounds=budget.bounds,
        spent=budget.spent.message(),
        allotted=budget.allotted.message(),
        open_allotments=len(budget.open),
        warn_percents=budget.warn_percents,
        is_overdrawn=budget.is_overdrawn,
        revision=revision,
    )


def _set(budget: Budget, command: SetBudget) -> list[Message]:
    amounts.check("limit", command.limit, needs_one=True)
    percents = tuple(command.warn_percents) or WARN_PERCENTS_DEFAULT
    if len(percents) > WARN_PERCENTS_MAX or not all(1 <= percent <= 100 for percent in percents):
        why = f"have to be at most {WARN_PERCENTS_MAX}, each 1 to 100"
        raise InvalidCommand(f"warn_percents {why}", violations={"warn_percents": why})
    wanted = BudgetSet(
        budget_id=command.budget_id,
        parent_id=command.parent_id,
        limit=command.limit,
        period=command.period,
        time_zone=command.time_zone,
        warn_percents=sorted(percents),
        bounds=command.bounds if command.HasField("bounds") else None,
        at_unix_micros=command.at_unix_micros,
    )
    if is_set(budget) and _content(_on_set(budget, wanted)) == _content(budget):
        return []
    return [wanted, *_noticed(evolve(budget, wanted), command.at_unix_micros)]


def _content(budget: Budget) -> tuple[object, ...]:
    return budget.parent_id, budget.limit, budget.period, budget.time_zone, budget.warn_percents


def _raise(budget: Budget, command: RaiseBudget) -> list[Message]:
    if _is_repeated(budget, command):
        return []
    _check_change(budget, command)
    check_raised(budget.limit, Amounts.of(command.by))
    return [BudgetLimitRaised(by=command.by, request_id=command.request_id, at_unix_micros=command.at_unix_micros)]


def _lower(budget: Budget, command: LowerBudget) -> list[Message]:
    if _is_repeated(budget, command):
        return []
    _check_change(budget, command)
    event = BudgetLimitLowered(by=command.by, request_id=command.request_id, at_unix_micros=command.at_unix_micros)
    return [event, *_noticed(evolve(budget, event), command.at_unix_micros)]


def _is_repeated(budget: Budget, command: RaiseBudget | LowerBudget) -> bool:
    return bool(command.request_id) and command.request_id in budget.requests


def _check_change(budget: Budget, command: RaiseBudget | LowerBudget) -> None:
    if not is_set(budget):
        raise NotFound(f"budget {command.budget_id!r} is not set", what_to_do="set it with `crewlog budget set`")
    amounts.check("by", command.by, needs_one=True)
    check_units(budget.limit, Amounts.of(command.by))


def check_units(limit: Amounts, by: Amounts) -> None:
    """A change may name only units that are limited: there is nothing to raise in the others."""
    for unit in amounts.limited_units(by):
        if not getattr(limit, unit):
            why = "is not limited by this budget"
            raise InvalidCommand(f"by.{unit} {why}", violations={f"by.{unit}": why})


def check_raised(limit: Amounts, by: Amounts) -> None:
    """A limit stays one that may be set."""
    for unit in amounts.UNITS:
        if getattr(limit, unit) + getattr(by, unit) > amounts.AMOUNT_MAX:
            why = "would make the limit too large"
            raise InvalidCommand(f"by.{unit} {why}", violations={f"by.{unit}": why})


def _take(budget: Budget, command: TakeAllotment) -> list[Message]:
    """A budget that is not set gives everything and keeps no account of it."""
    known = budget.open.get(command.allotment_id)
    if not is_set(budget) or (known is not None and known.number >= command.number):
        return []
    amounts.check("amounts", command.amounts)
    begun = _period(budget, command)
    budget = _after(budget, begun)
    wanted = amounts.only_limited(budget.limit, Amounts.of(command.amounts))
    if not amounts.fits(budget.limit, budget.spent + budget.allotted + wanted):
        raise BudgetExceeded(
            f"budget {budget.budget_id!r} has no room for the allotment",
            what_to_do=f"raise it with `crewlog budget raise {budget.budget_id}`, or wait until something returns",
        )
    taken = AllotmentTaken(
        allotment_id=command.allotment_id,
        number=command.number,
        amounts=wanted.message(),
        at_unix_micros=command.at_unix_micros,
    )
    return [*begun, taken, *_noticed(evolve(budget, taken), command.at_unix_micros)]


def _settle(budget: Budget, command: SettleAllotment) -> list[Message]:
    if command.allotment_id not in budget.open:
        return []
    amounts.check("spent", command.spent)
    begun = _period(budget, command)
    # A taking that came late has opened it again: what its task spent is counted already.
    spent = ZERO if command.allotment_id in budget.settled else Amounts.of(command.spent)
    settled = AllotmentSettled(
        allotment_id=command.allotment_id, spent=spent.message(), at_unix_micros=command.at_unix_micros
    )
    after = _after(budget, [*begun, settled])
    return [*begun, settled, *_noticed(after, command.at_unix_micros)]


def _period(budget: Budget, command: TakeAllotment | SettleAllotment) -> list[Message]:
    """The first command of a period begins it."""
    if not command.HasField("bounds") or budget.bounds is None:
        return []
    if command.bounds.start_unix_micros <= budget.bounds.start_unix_micros:
        return []
    return [
        BudgetPeriodBegun(bounds=command.bounds, spent=budget.spent.message(), at_unix_micros=command.at_unix_micros)
    ]


def _noticed(budget: Budget, at: int) -> list[Message]:
    """The warnings and the alarm that the state is due."""
    reached = amounts.percent_of(budget.limit, budget.spent + budget.allotted)
    due = max((percent for percent in budget.warn_percents if percent <= reached), default=0)
    events: list[Message] = []
    if due > budget.warned_percent:
        events.append(BudgetWarned(percent=due, at_unix_micros=at))
    over = amounts.over(budget.limit, budget.spent)
    if over and not budget.is_overdrawn:
        events.append(BudgetOverdrawn(over=over.message(), at_unix_micros=at))
    return events


def _after(budget: Budget, events: list[Message]) -> Budget:
    for event in events:
        budget = evolve(budget, event)  # type: ignore[arg-type]
    return budget


def _on_set(budget: Budget, event: BudgetSet) -> Budget:
    same_period = (budget.period, budget.time_zone) == (event.period, event.time_zone)
    bounds = event.bounds if event.HasField("bounds") else None
    changed = replace(
        budget,
        budget_id=event.budget_id,
        parent_id=event.parent_id,
        period=event.period,
        time_zone=event.time_zone,
        warn_percents=tuple(event.warn_percents),
        bounds=budget.bounds if same_period and budget.bounds else bounds,
        warned_percent=0,
    )
    return _on_limit(changed, Amounts.of(event.limit), "")


def _on_limit(budget: Budget, limit: Amounts, request_id: str) -> Budget:
    requests = (*budget.requests, request_id)[-REQUESTS_KEPT_MAX:] if request_id else budget.requests
    return replace(
        budget,
        limit=limit,
        requests=requests,
        is_overdrawn=budget.is_overdrawn and not amounts.fits(limit, budget.spent),
        warned_percent=min(budget.warned_percent, amounts.percent_of(limit, budget.spent + budget.allotted)),
    )


def _on_taken(budget: Budget, event: AllotmentTaken) -> Budget:
    taken = Amounts.of(event.amounts)
    known = budget.open.get(event.allotment_id)
    held = Allotment(event.number, taken + (known.amounts if known else ZERO), taken)
    return replace(budget, open=budget.open.set(event.allotment_id, held), allotted=budget.allotted + taken)


def _on_settled(budget: Budget, event: AllotmentSettled) -> Budget:
    held, spent = budget.open[event.allotment_id], Amounts.of(event.spent)
    return replace(
        budget,
        open=budget.open.delete(event.allotment_id),
        allotted=budget.allotted - held.amounts,
        spent=budget.spent + spent,
        settled=(*budget.settled, event.allotment_id)[-SETTLED_KEPT_MAX:] if spent else budget.settled,
    )
