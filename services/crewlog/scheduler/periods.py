"""Days, weeks and months in a named time zone, as moments. Pure: the time comes in."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from crewlog.v1.budget_pb2 import Period, PeriodBounds

_MICROS = 1_000_000


def bounds(period: Period.ValueType, time_zone: str, now_unix_micros: int) -> PeriodBounds | None:
    """The period that the moment is in; None for a budget without periods.

    A day begins at midnight of the zone, also where that day has 23 or 25 hours. Raises ZoneInfoNotFoundError.
    """
    if period == Period.PERIOD_UNSPECIFIED:
        return None
    now = datetime.fromtimestamp(now_unix_micros / _MICROS, ZoneInfo(time_zone or "UTC"))
    start = _start(period, now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0))
    return PeriodBounds(start_unix_micros=_micros(start), end_unix_micros=_micros(_next(period, start)))


def _start(period: Period.ValueType, midnight: datetime) -> datetime:
    if period == Period.PERIOD_WEEK:
        return midnight - timedelta(days=midnight.weekday())
    return midnight.replace(day=1) if period == Period.PERIOD_MONTH else midnight


def _next(period: Period.ValueType, start: datetime) -> datetime:
    if period == Period.PERIOD_MONTH:
        return (start.replace(day=28) + timedelta(days=4)).replace(day=1)
    return start + timedelta(days=7 if period == Period.PERIOD_WEEK else 1)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * _MICROS
