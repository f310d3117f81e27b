"""`crewlog cost`: what was spent, by whatever it is asked for, with a bar for each row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from crewlog.cli import wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import table, write_line, write_message
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_service_pb2 import CostRow, CostTable, QueryCost

BAR_CHARACTERS = 24
DAY = "day"
TOTAL = "total"
_CSV_HEADINGS = (
    "usd_micros",
    "lost_usd_micros",
    "saved_usd_micros",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "model_calls",
)
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Wanted:
    """As a person gives it. Dates are days of the zone; `until` is the last one that belongs to it."""

    by: Sequence[str] = field(default_factory=tuple)
    run: str = ""
    project: str = ""
    since: str = ""
    until: str = ""
    zone: str = ""


async def write(gateway: Gateway, wanted: Wanted, output: Output | str) -> int:
    found = await gateway.costs.Query(to_query(wanted))
    if output == Output.TABLE:
        write_line("\n".join(in_words(found, wanted.by)))
    elif output == "csv":
        write_csv(found, wanted.by)
    else:
        write_message(found, Output(output))
    return 0


def to_query(wanted: Wanted) -> QueryCost:
    """Raises InvalidCommand for a date or a zone that is none."""
    zone = _zone(wanted.zone)
    until = _midnight("--until", wanted.until, zone)
    return QueryCost(
        by=wanted.by,
        run_id=wanted.run,
        project_id=wanted.project,
        time_zone=wanted.zone,
        from_unix_micros=_micros(_midnight("--since", wanted.since, zone)),
        to_unix_micros=_micros(until + timedelta(days=1) if until else None),
    )


def in_words(found: CostTable, by: Sequence[str]) -> list[str]:
    """A table with bars: days in their order, anything else with the largest amount first."""
    rows = list(found.rows)
    if by and by[0] != DAY:
        rows.sort(key=lambda row: (-row.usd_micros, list(row.keys)))
    largest = max((row.usd_micros for row in rows), default=0)
    headings = (*by, ">cost", "", ">lost", ">saved", ">tokens", ">cached", ">calls")
    shown = [_cells(row, [wording.plain(key) or "-" for key in row.keys], largest) for row in rows]
    names = [TOTAL, *[""] * (len(by) - 1)] if by else []
    return table(headings, [*shown, _cells(found.total, names, 0)])


def bar(part: int, whole: int, characters: int = BAR_CHARACTERS) -> str:
    """In eighths of a character; what is there at all is seen."""
    if part <= 0 or whole <= 0:
        return ""
    eighths = max(1, min(part, whole) * characters * 8 // whole)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def summary(found: CostTable) -> str:
    """What is worth to be said beside the sum; empty when there is nothing."""
    total = found.total
    parts = [f"{wording.money(total.lost_usd_micros)} of it for lost calls"] if total.lost_usd_micros else []
    parts += [f"{wording.money(total.saved_usd_micros)} saved by the cache"] if total.saved_usd_micros else []
    return ", ".join(parts)


def write_csv(found: CostTable, by: Sequence[str]) -> None:
    """Micro-dollars, so that nothing is rounded; without the sum, so that columns can be added."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*by, *_CSV_HEADINGS))
    for row in found.rows if by else [found.total]:
        writer.writerow((*row.keys, *_numbers(row)))


def _cells(row: CostRow, keys: Sequence[str], largest: int) -> tuple[str, ...]:
    cached = row.usage.cache_read_tokens + row.usage.cache_write_tokens
    return (
        *keys,
        wording.money(row.usd_micros),
        bar(row.usd_micros, largest),
        wording.money(row.lost_usd_micros) if row.lost_usd_micros else "",
        wording.money(row.saved_usd_micros) if row.saved_usd_micros else "",
        wording.count(wording.tokens(row.usage)),
        wording.count(cached) if cached else "",
        str(row.model_calls),
    )


def _numbers(row: CostRow) -> tuple[int, ...]:
    usage = row.usage
    return (
        row.usd_micros,
        row.lost_usd_micros,
        row.saved_usd_micros,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        row.model_calls,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidCommand(f"--zone {name!r} is no time zone", what_to_do="give one such as Europe/Berlin") from None


def _midnight(option: str, text: str, zone: ZoneInfo) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=zone)
    except ValueError:
        raise InvalidCommand(f"{option} {text!r} is no date", what_to_do="give one such as 2026-03-31") from None


def _micros(moment: datetime | None) -> int:
    return int(moment.timestamp()) * 1_000_000 if moment else 0
