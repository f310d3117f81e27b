"""Conditions and values of workflows, in the Common Expression Language (https://cel.dev): no loops but over lists that
are there, no side effects, no clock. What one may cost is bounded (crewlog.domain.workflow.expression_costs).

`tasks` is used with the id of a node that stands in the text, `tasks.plan` or `tasks["write-tests"]`, so that what an
expression needs is known before it is worked out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, NoReturn

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.expression_costs import COPIES_MAX, VALUES_MAX, Cost, Spent, weighed
from crewlog.domain.workflow.expression_functions import FUNCTIONS, Calls, cut_texts
from crewlog.domain.workflow.expression_words import (
    LOOPS,
    Call,
    Loop,
    Word,
    arguments,
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

FUNCTIONS_OF_CEL = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "dyn", "has"}
)
_FUNCTIONS = FUNCTIONS_OF_CEL | FUNCTIONS.keys()
_COUNTED = re.compile(r"\{\s*[0-9]")
_ESCAPED = re.compile(r"\\[0-9uUxX]")
_UNFIT = re.compile(rf"Undefined variable or function: '({'|'.join(sorted(FUNCTIONS_OF_CEL))})'")
"""What the library says of a function that it has, but not for values of this kind."""
_KNOWN = frozenset({"run", "task", "tasks", "item", "index"})


class ExpressionFailed(Exception):
    """With what it was given, the expression has no value, or one of another kind than is needed."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`tasks` are the nodes that it names, `variables` everything that it needs. `paths` are the variables with the
    fields that it names of them; `is_path`: it is nothing but one of these. `calls` are those of our own functions;
    `gives`: the one that it is nothing but a call of."""

    text: str
    tasks: frozenset[str]
    variables: frozenset[str]
    paths: tuple[tuple[str, ...], ...]
    is_path: bool
    calls: tuple[Call, ...]
    gives: str
    _program: cel.Program
    _cost: Cost

    def value(self, context: Mapping[str, Any], spent: Spent | None = None) -> Any:
        """Its value, of the types of JSON, always in the same order. Raises ExpressionFailed, also where it would cost
        too much together with what was spent before."""
        spent = spent or Spent()
        seen = {name: context[name] for name in self.variables if name in context}
        weight, longest = weighed([*seen.values()])
        if weight > VALUES_MAX:
            raise self._failed("the values that it names are too large")
        calls = Calls(self._cost, spent, weight, longest, cut_texts([*seen.values()]) if self.calls else ())
        if spent.copies > COPIES_MAX:
            raise self._failed("the lists that it goes through are too long")
        value = self._worked_out(seen, calls)
        if not _is_json(value):
            raise self._failed(f"gives {type(value).__name__}, which is no value of JSON")
        return reduce(lambda held, name: held[name], self.paths[0], seen) if self.is_path else _in_order(value)

    def _worked_out(self, seen: Mapping[str, Any], calls: Calls) -> Any:
        import cel

        try:
            given = cel.Context(dict(seen), calls.functions()) if self.calls else dict(seen)
            value = self._program.execute(given)
        except _FAILURES as problem:
            raise self._failed(calls.failure or _first_line(problem)) from None
        if calls.failure:
            raise self._failed(calls.failure)
        return value

    def holds(self, context: Mapping[str, Any]) -> bool:
        """Raises ExpressionFailed also where the value is neither true nor false."""
        value = self.value(context)
        if not isinstance(value, bool):
            raise self._failed(f"gives {str(value)[:80]!r}, and has to give true or false")
        return value

    def _failed(self, why: str) -> ExpressionFailed:
        return ExpressionFailed(f"`{self.text}`: {why}")


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
    own = _own_calls(found)
    return Expression(
        text,
        tasks,
        free,
        tuple(path for path, _ in paths),
        places == [0] and paths[0][1] == len(found),
        tuple(own),
        own[0].function if own and (own[0].begins, own[0].ends + 1) == (2, len(found)) else "",
        program,
        Cost.of(found, lists),
    )


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
    for call in _own_calls(found):
        if call.is_method or call.given != 1 or (call.is_literal and not call.is_text):
            yield f"calls {call.function!r}, which needs one text: {call.function}(tasks.list.output)"
    for place in _matches(found):
        if not _is_pattern(at(found, place + 2)) or at(found, place + 3) != ")":
            yield f"matches what is no text of at most {PATTERN_CHARACTERS_MAX} characters without counts such as {{3}}"


def _own_calls(found: Sequence[Word]) -> list[Call]:
    return [call for call in arguments(found) if call.function in FUNCTIONS]


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


def _refuse(why: str) -> NoReturn:
    raise InvalidCommand(f"the expression {why}", violations={"expression": why})


def _position(problem: str) -> str:
    """Where, and what; without the text that whoever wrote it knows."""
    found = re.search(r"ERROR: <input>:(\d+):(\d+): (.*?)(?: expecting |$)", problem, re.DOTALL | re.MULTILINE)
    return f"{found[3].strip()[:200]} (line {found[1]}, column {found[2]})" if found else _first_line(problem)


def _first_line(problem: object) -> str:
    if function := _UNFIT.match(str(problem)):
        return f"{function[1]}(...) cannot be given this value"
    if isinstance(problem, KeyError):
        return f"there is no {problem.args[0]!r}" if problem.args else "something is missing"
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]


def _in_order(value: Any) -> Any:
    """The library gives the fields of a value in another order each time."""
    if isinstance(value, list):
        return [_in_order(each) for each in value]
    return {name: _in_order(value[name]) for name in sorted(value)} if isinstance(value, dict) else value


def _is_json(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_json(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(each) for name, each in value.items())
    return value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))
