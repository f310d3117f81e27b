"""`crewlog budget`: limits above the runs, and the runs' own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crewlog.cli import costing, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, table, write_line, write_message, write_messages
from crewlog.domain import amounts
from crewlog.v1.budget_pb2 import Amounts, BudgetView, Limit, LowerBudget, Period, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2 import GetBudget, ListBudgets

PAGE_SIZE = 200
BAR_CHARACTERS = 16
RUN_PREFIX = "run_"
TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a budget is set to; `period` is empty, `day`, `week` or `month`."""

    budget_id: str
    limit: Limit
    period: str = ""
    zone: str = ""
    parent: str = ""
    warn: Sequence[int] = ()


async def set_budget(gateway: Gateway, settings: Settings) -> int:
    command = SetBudget(
        budget_id=budget_id(settings.budget_id),
        parent_id=budget_id(settings.parent) if settings.parent else "",
        limit=settings.limit,
        period=Period.Value(f"PERIOD_{settings.period.upper()}" if settings.period else "PERIOD_UNSPECIFIED"),
        time_zone=settings.zone,
        warn_percents=settings.warn,
    )
    await gateway.budgets.Set(command)
    say(f"budget {command.budget_id}: at most {in_words(settings.limit)}{_each(command.period)}")
    return 0


async def raise_budget(gateway: Gateway, name: str, by: Amounts) -> int:
    wanted = RaiseBudget(budget_id=budget_id(name), by=by, request_id=secrets.token_hex(8))
    await gateway.budgets.Raise(wanted)
    say(f"budget {wanted.budget_id} raised by {in_words(by)}; what waits for it goes on")
    return 0


async def lower_budget(gateway: Gateway, name: str, by: Amounts) -> int:
    wanted = LowerBudget(budget_id=budget_id(name), by=by, request_id=secrets.token_hex(8))
    await gateway.budgets.Lower(wanted)
    say(f"budget {wanted.budget_id} lowered by {in_words(by)}")
    return 0


async def show(gateway: Gateway, output: Output, name: str) -> int:
    view = await gateway.budgets.Get(GetBudget(budget_id=budget_id(name)))
    if output is Output.TABLE:
        for title, value in facts(view):
            write_line(f"{title:<10}{value}")
    else:
        write_message(view, output)
    return 0


async def write_list(gateway: Gateway, output: Output) -> int:
    found, token = list[BudgetView](), ""
    while True:
        page = await gateway.budgets.List(ListBudgets(page_size=PAGE_SIZE, page_token=token))
        found += page.budgets
        token = page.next_page_token
        if not token:
            break
    if output is Output.TABLE:
        write_line("\n".join(tree(found)))
    else:
        write_messages(found, output)
    return 0


def budget_id(name: str) -> str:
    """`run:ID`, `project:ID` and `named:NAME` are understood as well: everything that is printed has a `_`."""
    kind, colon, rest = name.partition(":")
    return f"{kind}_{rest}" if colon else name


def in_words(limit: Limit | Amounts) -> str:
    """`$20.00, 100 model calls`: only what is there."""
    parts = [wording.money(limit.usd_micros)] if limit.usd_micros else []
    parts += [f"{wording.count(limit.input_tokens)} input tokens"] if limit.input_tokens else []
    parts += [f"{wording.count(limit.output_tokens)} output tokens"] if limit.output_tokens else []
    parts += [wording.counted(limit.model_calls, "model call")] if limit.model_calls else []
    return ", ".join(parts) or "nothing"


def tree(views: Sequence[BudgetView]) -> list[str]:
    """Each below its parent, with how much of it is used."""
    if not views:
        return ["no budget is set: runs are limited by their own alone"]
    headings = ("budget", "limit", "used", "", "period", "waiting")
    return table(headings, [_row(view, depth) for view, depth in _in_order(views)])


def facts(view: BudgetView) -> Iterator[tuple[str, str]]:
    percent = used_percent(view)
    yield "budget", view.budget_id
    if view.parent_id:
        yield "below", view.parent_id
    yield "limit", in_words(view.limit) + _each(view.period)
    yield "used", f"{percent} %  {costing.bar(percent, 100, BAR_CHARACTERS)}".rstrip()
    yield "spent", in_words(view.spent)
    to = f", to {wording.counted(view.open_allotments, 'task')}" if view.allotted.ByteSize() else ""
    yield "allotted", in_words(view.allotted) + to
    if view.is_overdrawn:
        yield "overdrawn", "more is spent than the limit: nothing more is allotted"
    if view.bounds.end_unix_micros:
        yield "until", f"{wording.date_and_time(view.bounds.end_unix_micros)}  (days of {view.time_zone or 'UTC'})"
    if view.warn_percents:
        yield "warns at", ", ".join(f"{share} %" for share in view.warn_percents)
    if view.waiting_run_ids:
        yield "waiting", ", ".join(view.waiting_run_ids)


def used_percent(view: BudgetView) -> int:
    """What is spent or held, of the unit of which the most is used."""
    used = amounts.Amounts.of(view.spent) + amounts.Amounts.of(view.allotted)
    return amounts.percent_of(amounts.Amounts.of(view.limit), used)


def _row(view: BudgetView, depth: int) -> tuple[str, ...]:
    percent = used_percent(view)
    return (
        "  " * depth + view.budget_id,
        in_words(view.limit),
        f"{percent} %" + (" overdrawn" if view.is_overdrawn else ""),
        costing.bar(percent, 100, BAR_CHARACTERS),
        _period(view),
        ", ".join(view.waiting_run_ids),
    )


def _in_order(views: Sequence[BudgetView]) -> Iterator[tuple[BudgetView, int]]:
    """Parents before children, whatever the order they came in; one whose parent is not set is a root."""
    known = {view.budget_id for view in views}
    children: dict[str, list[BudgetView]] = {}
    for view in views:
        above = view.parent_id or (TENANT if view.budget_id != TENANT else "")
        children.setdefault(above if above in known else "", []).append(view)

    def below(above: str, depth: int) -> Iterator[tuple[BudgetView, int]]:
        for view in children.pop(above, []):
            yield view, depth
            yield from below(view.budget_id, depth + 1)

    yield from below("", 0)


def _period(view: BudgetView) -> str:
    zone = f" ({view.time_zone})" if view.time_zone else ""
    return _period_name(view.period) + zone if view.period else ""


def _each(period: Period.ValueType) -> str:
    return f" each {_period_name(period)}" if period else ""


def _period_name(period: Period.ValueType) -> str:
    return Period.Name(period).removeprefix("PERIOD_").lower()
