"""Durations as people give them: whole seconds, or with a unit: `90`, `90s`, `30m`, `2h`, `1d`."""

from __future__ import annotations

import re

from crewlog.domain.errors import InvalidCommand

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
SECONDS_MAX = 2**31 - 1
_DURATION = re.compile(r"(\d{1,9})\s*([smhd]?)", re.ASCII)


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
