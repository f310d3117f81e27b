"""What is read about gates and costs. Each answer comes from one snapshot of the projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from crewlog.gateway import schema
from crewlog.gateway.queries import Queries
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.budget_service_pb2 import CostRow, CostTable
from crewlog.v1.run_pb2 import GateView

COST_ROWS_MAX = 20_000
# Every zone is off UTC by whole quarters of an hour, since 1972 at the latest.
_QUARTER_MICROS = 15 * 60 * 1_000_000
_COLUMNS = {
    "project": "coalesce(run.project_id, '')",
    "run": "cost.run_id",
    "task": "cost.task_id",
    "role": "cost.role",
    "model": "cost.model",
    "credential": "cost.credential",
    "day": "day_of(cost.at / 900000000, ?)",
}
_SUMS = """
coalesce(sum(usd), 0), coalesce(sum(lost), 0), coalesce(sum(saved), 0), coalesce(sum(input), 0),
coalesce(sum(output), 0), coalesce(sum(cache_read), 0), coalesce(sum(cache_write), 0), count(*)
"""
_FAMILY = """
with recursive family (run_id) as (
    select ? union select run.run_id from run join family on run.parent = family.run_id
) select run_id from family
"""
_FROM = "from cost left join run on run.run_id = cost.run_id"


@dataclass(frozen=True, slots=True)
class GateFilter:
    """Those of a run are also those of its child runs, and of theirs."""

    run_id: str = ""
    with_closed: bool = False


Place: TypeAlias = tuple[int, str, str]
"""When a gate was opened, its run, and its id."""


@dataclass(frozen=True, slots=True)
class CostFilter:
    """0 and empty strings do not limit; `until` is the first moment that does not belong to it."""

    run_id: str = ""
    project_id: str = ""
    since: int = 0
    until: int = 0


def gates(queries: Queries, wanted: GateFilter, after: Place, limit: int) -> list[GateView]:
    """In the order in which they were opened, from the first one after a place."""
    conditions, values = ["(opened, run_id, gate_id) > (?, ?, ?)"], list[object](after)
    if not wanted.with_closed:
        conditions.append("is_open")
    if wanted.run_id:
        conditions.append(f"run_id in ({_FAMILY})")
        values.append(wanted.run_id)
    query = f"select view from gate where {' and '.join(conditions)} order by opened, run_id, gate_id limit ?"
    with queries.snapshot() as connection:
        rows = connection.execute(query, (*values, limit)).fetchall()
    return [GateView.FromString(view) for (view,) in rows]


def costs(queries: Queries, by: Sequence[str], zone: str, wanted: CostFilter) -> CostTable:
    """One row for each value of `by` that there is, in their order, COST_ROWS_MAX + 1 at most; and the sum of all."""
    where, values = _condition(wanted)
    keys = ", ".join(_COLUMNS[key] for key in by)
    zones = [zone or "UTC"] * ("day" in by)
    grouped = f"select {keys}, {_SUMS} {_FROM} {where} group by {_places(len(by))} order by {_places(len(by))} limit ?"
    with queries.snapshot() as connection:
        connection.create_function("day_of", 2, day_of, deterministic=True)
        (total,) = connection.execute(f"select {_SUMS} {_FROM} {where}", values).fetchall()
        rows = connection.execute(grouped, (*zones, *values, COST_ROWS_MAX + 1)).fetchall() if by else []
        revision = schema.number(connection, "revision")
    found = [_row(row[: len(by)], row[len(by) :]) for row in rows]
    return CostTable(rows=found, total=_row((), total), revision=revision)


@lru_cache(maxsize=65_536)
def day_of(quarter: int, zone: str) -> str:
    """The date of a quarter of an hour since 1970, as it is written in the zone."""
    moment = datetime.fromtimestamp(quarter * _QUARTER_MICROS / 1e6, UTC)
    return moment.astimezone(ZoneInfo(zone)).date().isoformat()


def _condition(wanted: CostFilter) -> tuple[str, list[object]]:
    asked = (
        ("cost.run_id = ?", wanted.run_id),
        ("run.project_id = ?", wanted.project_id),
        ("cost.at >= ?", wanted.since),
        ("cost.at < ?", wanted.until),
    )
    given = [(condition, value) for condition, value in asked if value]
    where = f"where {' and '.join(condition for condition, _ in given)}" if given else ""
    return where, [value for _, value in given]


def _places(count: int) -> str:
    return ", ".join(str(place + 1) for place in range(count))


def _row(keys: Sequence[str], sums: Sequence[Any]) -> CostRow:
    usd, lost, saved, input_tokens, output_tokens, cache_read, cache_write, calls = sums
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )
    return CostRow(
        keys=keys,
        usd_micros=usd,
        lost_usd_micros=lost,
        saved_usd_micros=saved,
        usage=usage,
        model_calls=calls,
    )
