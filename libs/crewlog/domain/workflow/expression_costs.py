"""What it costs at most to work out an expression: known before its loops begin, because the library copies the lists
that it makes, and nobody can interrupt it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crewlog.domain.workflow.expression_words import Loop, Word, at, calls, variables

VALUES_MAX = 100_000
"""Of what an expression is given, or makes of texts: each value counts as one, and 800 bytes of text as another one."""
VALUES_DEPTH_MAX = 100
COPIES_MAX = 2_000_000
"""Values that are copied on the way: some tenths of a second."""

_BYTES_OF_ONE = 800
_COPIES_OF_A_CHARACTER = 1_000


@dataclass(slots=True)
class Spent:
    """What the expressions of one text have cost together so far: `values` that they made of texts, and `copies`."""

    values: int = 0
    copies: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one expression, whatever it is given."""

    _sums: int
    _commas: int
    _patterns: int
    _loops: int
    _is_wide: bool
    _maps: bool
    _filters: bool

    @classmethod
    def of(cls, found: Sequence[Word], lists: Sequence[Loop]) -> Cost:
        functions = {loop.function for loop in lists}
        return cls(
            1 + _count(found, "+"),
            _count(found, ","),
            sum(len(at(found, place + 2)) for place, name in calls(found) if name == "matches"),
            len(lists),
            any(_is_wide(found, loop) for loop in lists),
            "map" in functions,
            "filter" in functions,
        )

    @property
    def joins(self) -> bool:
        """Whether it puts texts together."""
        return self._sums > 1

    def copies(self, weight: int, longest: int) -> int:
        """How many values are copied on the way, at most: of values of this weight, with lists no longer than that."""
        length = (longest + self._commas + 1) * self._sums
        turns: int = length**self._loops
        return turns * self._patterns * _COPIES_OF_A_CHARACTER + self._in_loops(weight * self._sums, length)

    def _in_loops(self, weight: int, length: int) -> int:
        """Each element is looked at once; or all that there is, once for each; or a list is made of it each time."""
        if not self._loops:
            return 0
        around: int = length ** (self._loops - 1)
        if self._maps or self._filters:
            return around * length * weight * (length if self._maps and self._is_wide else 1)
        return around * (length * weight if self._is_wide else length + weight)


def weighed(values: Sequence[Any]) -> tuple[int, int]:
    """How much the values are, and how long the longest list among them is."""
    weight, longest, level = 0, 0, values
    for _ in range(VALUES_DEPTH_MAX):
        weight += sum(1 + len(each) // _BYTES_OF_ONE if isinstance(each, str) else 1 for each in level)
        if weight > VALUES_MAX or not level:
            return weight, longest
        held = [each for each in level if isinstance(each, (list, Mapping))]
        longest = max([longest, *map(len, held)])
        level = [part for each in held for part in (each.values() if isinstance(each, Mapping) else each)]
    return VALUES_MAX + 1, longest


def _is_wide(found: Sequence[Word], loop: Loop) -> bool:
    """Whether it does something with more than the element."""
    return any(name != loop.name for place, name in variables(found) if loop.begins <= place < loop.ends)


def _count(found: Sequence[Word], mark: str) -> int:
    return sum(word.text == mark for word in found)
