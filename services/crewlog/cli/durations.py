"""Durations as people give them: whole seconds, or with a unit: `90`, `90s`, `30m`, `2h`, `1d`."""

from __future__ import annotations

import re

from crewlog.domain.errors import InvalidCommand

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
SECONDS_MAX = 2**31 - 1
_DURATION = re.compile(r"(\d{1,9})\s*([smhd]?)", re.ASCII)


def any_seconds(text: str | float) -> float:
    """Also none, and parts of one: what a command of its own may take. Raises ValueError."""
    try:
        whole = float(text)
    except ValueError:
        try:
            return seconds(str(text), "--timeout")
        except InvalidCommand as refusal:
            raise ValueError(f"{refusal.message}; {refusal.what_to_do}") from None
    if not 0 <= whole <= SECONDS_MAX:
        raise ValueError(f"{str(text)[:40]!r} is less than 0, or too much")
    return whole


def seconds(text: str, name: str) -> int:
    """An empty text is 0, which stands for the default. Raises InvalidCommand for what is no duration."""
    if not text:
        return 0
    found = _DURATION.fullmatch(text.strip())
    whole = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= whole <= SECONDS_MAX:
        raise InvalidCommand(
            f"{name} {text[:40]!r} is no duration",
            what_to_do="give one of at least a second, such as 90, 90s, 30m, 2h or 1d",
        )
    return whole
