"""Patterns of file names: `*` and `?` within a name, `**` over directories, `[abc]`, `{a,b}`. Matching is linear.

Only the standard library is used: the search worker imports this.
"""

from __future__ import annotations

import fnmatch
import re

from crewlog.tools.answers import DENIED, FAILED, NotDone, shown
from crewlog.tools.limits import PATTERN_ALTERNATIVES_MAX, PATTERN_CHARACTERS_MAX

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


class PathPattern:
    """What a pattern chooses. Raises NotDone for one that can never match, and says why."""

    def __init__(self, pattern: str) -> None:
        _check(pattern)
        self._alternatives = [_segments(alternative) for alternative in _expanded(pattern)]
        self.named = frozenset(name for alternative in self._alternatives for name in alternative)
        self._compiled = [[_compiled(segment) for segment in segments] for segments in self._alternatives]

    def matches(self, parts: tuple[str, ...]) -> bool:
        return any(_matches(segments, parts) for segments in self._compiled)


def name_pattern(pattern: str) -> PathPattern:
    """A pattern without a slash means files of that name anywhere."""
    return PathPattern(pattern if "/" in pattern else f"**/{pattern}")


def _check(pattern: str) -> None:
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise NotDone(DENIED, f"the pattern has more than {PATTERN_CHARACTERS_MAX} characters")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        what = "patterns are relative to the root of the workspace, without '..'"
        raise NotDone(DENIED, f"{shown(pattern)}: {what}")


def _expanded(pattern: str) -> list[str]:
    done: list[str] = []
    open_ones = [pattern]
    while open_ones:
        one = open_ones.pop()
        braces = _BRACES.search(one)
        if braces is None:
            done.append(one)
            continue
        open_ones.extend(one[: braces.start()] + choice + one[braces.end() :] for choice in braces[1].split(","))
        if len(done) + len(open_ones) > PATTERN_ALTERNATIVES_MAX:
            raise NotDone(FAILED, f"the braces of {shown(pattern)} mean more than {PATTERN_ALTERNATIVES_MAX} patterns")
    return done


def _segments(pattern: str) -> list[str]:
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    return [*segments, "**", "*"] if pattern.endswith("/") else segments


def _compiled(segment: str) -> re.Pattern[str] | None:
    return None if segment == "**" else re.compile(fnmatch.translate(segment))


def _matches(segments: list[re.Pattern[str] | None], parts: tuple[str, ...]) -> bool:
    """Keeps the set of places in the pattern that can be reached, so that no pattern takes exponential time."""
    reached = _past_stars({0}, segments)
    for part in parts:
        reached = _past_stars({after for at in reached for after in _step(segments, at, part)}, segments)
    return len(segments) in reached


def _step(segments: list[re.Pattern[str] | None], at: int, part: str) -> list[int]:
    if at == len(segments):
        return []
    segment = segments[at]
    if segment is None:
        return [at]
    return [at + 1] if segment.match(part) else []


def _past_stars(reached: set[int], segments: list[re.Pattern[str] | None]) -> set[int]:
    passed = set(reached)
    for at in sorted(reached):
        while at < len(segments) and segments[at] is None:
            at += 1
            passed.add(at)
    return passed
