"""Conditions and values of workflows, in the Common Expression Language (https://cel.dev): no loops but over lists that
are there, no side effects, no clock. What one would cost is known before it is worked out, because the library copies
the lists that it makes, and nobody can interrupt it.

`tasks` is used with the id of a node that stands in the text, `tasks.plan` or `tasks["write-tests"]`, so that what an
expression needs is known before it is worked out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.expression_words import (
    LOOPS,
    Loop,
    Word,
    at,
    calls,
    is_free,
    loops,
    path_at,
    plain,
    variables,
    words,
)

if TYPE_CHECKING:
    import cel

CHARACTERS_MAX = 1_000
LOOPS_MAX = 2
"""Loops over lists may stand in each other: this bounds what an expression costs to a power of what it is given."""
COMPILED_KEPT_MAX = 4_096
PATTERN_CHARACTERS_MAX = 200
VALUES_MAX = 100_000
"""Of what an expression is given: each value counts as one, and 800 bytes of text as another one."""
VALUES_DEPTH_MAX = 100
COPIES_MAX = 2_000_000
"""Values that are copied on the way: some tenths of a second."""

_BYTES_OF_ONE = 800
_COPIES_OF_A_CHARACTER = 1_000
_FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bool", "dyn", "has"}
)
_COUNTED = re.compile(r"\{\s*[0-9]")
_ESCAPED = re.compile(r"\\[0-9uUxX]")
_KNOWN = frozenset({"run", "task", "tasks", "item", "index"})


class ExpressionFailed(Exception):
    """With what it was given, the expression has no value, or one of another kind than is needed."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`tasks` are the nodes that it names, `variables` everything that it needs. `paths` are the variables with the
    fields that it names of them; `is_path`: it is nothing but one of these."""

    text: str
    tasks: frozenset[str]
    variables: frozenset[str]
    paths: tuple[tuple[str, ...], ...]
    is_path: bool
    _program: cel.Program
    _words: tuple[Word, ...]
    loops: tuple[Loop, ...]

    def value(self, context: Mapping[str, Any]) -> Any:
        """Its value, of the types of JSON. Raises ExpressionFailed."""
        seen = self.seen_of(context)
        if self.copies(seen) > COPIES_MAX:
            raise ExpressionFailed(f"`{self.text}`: the lists that it goes through are too long")
        try:
            value = self._program.execute(seen)
        except _FAILURES as problem:
            raise ExpressionFailed(f"`{self.text}`: {_first_line(problem)}") from None
        if not _is_json(value):
            raise ExpressionFailed(f"`{self.text}` gives {type(value).__name__}, which is no value of JSON")
        return value

    def holds(self, context: Mapping[str, Any]) -> bool:
        """Raises ExpressionFailed also where the value is neither true nor false."""
        value = self.value(context)
        if not isinstance(value, bool):
            raise ExpressionFailed(f"`{self.text}` gives {str(value)[:80]!r}, and has to give true or false")
        return value

    def seen_of(self, context: Mapping[str, Any]) -> dict[str, Any]:
        return {name: context[name] for name in self.variables if name in context}

    def copies(self, seen: Mapping[str, Any]) -> int:
        """How many values are copied on the way, at most. Raises ExpressionFailed where there are too many at once."""
        weight, longest = _weighed([*seen.values()])
        if weight > VALUES_MAX:
            raise ExpressionFailed(f"`{self.text}`: the values that it names are too large")
        sums = 1 + _count(self._words, "+")
        length = (longest + _count(self._words, ",") + 1) * sums
        patterns = sum(len(at(self._words, place + 2)) for place in _matches(self._words)) * _COPIES_OF_A_CHARACTER
        turns: int = length ** len(self.loops)
        return turns * patterns + self._in_loops(weight * sums, length)

    def _in_loops(self, weight: int, length: int) -> int:
        """Each element is looked at once; or all that there is, once for each; or a list is made of it each time."""
        if not self.loops:
            return 0
        around: int = length ** (len(self.loops) - 1)
        is_wide = any(_is_wide(self._words, loop) for loop in self.loops)
        if any(loop.function in ("map", "filter") for loop in self.loops):
            makes = any(loop.function == "map" for loop in self.loops) and is_wide
            return around * length * weight * (length if makes else 1)
        return around * (length * weight if is_wide else length + weight)


_FAILURES = (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError)
"""What the library raises for an expression that has no value."""


@lru_cache(COMPILED_KEPT_MAX)
def compile_expression(text: str) -> Expression:
    """Raises InvalidCommand that says what is wrong with it."""
    import cel

    if len(text) > CHARACTERS_MAX:
        _refuse(f"is longer than {CHARACTERS_MAX} characters")
    try:
        program = cel.compile(text)
    except UnicodeEncodeError:
        _refuse("cannot be read: it contains half of a character")
    except ValueError as problem:
        _refuse(f"cannot be read: {_position(str(problem))}")
    found = words(text)
    lists = loops(found)
    places = [place for place, name in variables(found) if is_free(lists, place, name)]
    free = frozenset(found[place].text for place in places)
    for why in _violations(found, lists, free, program):
        _refuse(why)
    tasks = frozenset(filter(None, (_task(found, place) for place, name in variables(found) if name == "tasks")))
    paths = [path_at(found, place) for place in places]
    is_path = places == [0] and paths[0][1] == len(found)
    return Expression(text, tasks, free, tuple(path for path, _ in paths), is_path, program, tuple(found), tuple(lists))


def _violations(
    found: Sequence[Word], lists: Sequence[Loop], free: frozenset[str], program: cel.Program
) -> Iterator[str]:
    if len(lists) > LOOPS_MAX:
        yield f"loops more than {LOOPS_MAX} times"
    for name in sorted(_KNOWN.intersection(loop.name for loop in lists)):
        yield f"gives the name {name!r} to an element of a list; choose another one"
    yield from _wrong_calls(found)
    for name in sorted(free - _KNOWN):
        yield f"names {name[:80]!r}; there are {', '.join(sorted(_KNOWN))}"
    if any(_task(found, place) is None for place, name in variables(found) if name == "tasks"):
        yield 'uses `tasks` without a node: write tasks.plan or tasks["write-tests"]'
    called = {name for name in program.functions() if name.isidentifier()}
    if not (called <= _FUNCTIONS and set(program.variables()) <= {name for _, name in variables(found)}):
        yield "is written in a way that is not understood: use plain names, and texts in single or double quotes"


def _wrong_calls(found: Sequence[Word]) -> Iterator[str]:
    for place, name in calls(found):
        if name not in _FUNCTIONS and not (name in LOOPS and at(found, place - 1) == "."):
            yield f"calls {name[:80]!r}; there are {', '.join(sorted(_FUNCTIONS | LOOPS))}"
    for place in _matches(found):
        if not _is_pattern(at(found, place + 2)) or at(found, place + 3) != ")":
            yield f"matches what is no text of at most {PATTERN_CHARACTERS_MAX} characters without counts such as {{3}}"


def _matches(found: Sequence[Word]) -> list[int]:
    return [place for place, name in calls(found) if name == "matches"]


def _is_pattern(text: str) -> bool:
    """A pattern that stands in the text, and whose size does not grow when it is compiled."""
    is_hidden = text[:1] not in "rR" and _ESCAPED.search(text)
    is_text = text[-1:] in ("'", '"') and len(text) <= PATTERN_CHARACTERS_MAX
    return is_text and not is_hidden and not _COUNTED.search(text)


def _task(found: Sequence[Word], place: int) -> str | None:
    """The id that stands with `tasks`; None for any other use of it."""
    match [at(found, place + 1), at(found, place + 2), at(found, place + 3)]:
        case [".", name, mark] if mark != "(":
            return name
        case ["[", literal, "]"]:
            return plain(literal)
        case [mark, _, _] if at(found, place - 1) == "in" and mark not in (".", "["):
            return plain(at(found, place - 2))
    return None


def _is_wide(found: Sequence[Word], loop: Loop) -> bool:
    """Whether it does something with more than the element."""
    return any(name != loop.name for place, name in variables(found) if loop.begins <= place < loop.ends)


def _count(found: Sequence[Word], mark: str) -> int:
    return sum(word.text == mark for word in found)


def _weighed(values: Sequence[Any]) -> tuple[int, int]:
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


def _refuse(why: str) -> NoReturn:
    raise InvalidCommand(f"the expression {why}", violations={"expression": why})


def _position(problem: str) -> str:
    """Where, and what; without the text that whoever wrote it knows."""
    found = re.search(r"ERROR: <input>:(\d+):(\d+): (.*?)(?: expecting |$)", problem, re.DOTALL | re.MULTILINE)
    return f"{found[3].strip()[:200]} (line {found[1]}, column {found[2]})" if found else _first_line(problem)


def _first_line(problem: object) -> str:
    if isinstance(problem, KeyError):
        return f"there is no {problem.args[0]!r}" if problem.args else "something is missing"
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]


def _is_json(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_json(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(each) for name, each in value.items())
    return value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))
