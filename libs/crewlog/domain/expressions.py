"""Conditions and values of workflows, in the Common Expression Language (https://cel.dev): no loops but over lists that
are there, no side effects, no clock.

`tasks` is used with the id of a node that stands in the text, `tasks.plan` or `tasks["write-tests"]`, so that what an
expression needs is known before it is worked out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from crewlog.domain.errors import InvalidCommand

if TYPE_CHECKING:
    import cel

CHARACTERS_MAX = 1_000
LOOPS_MAX = 2
"""Loops over lists may stand in each other: this bounds what an expression costs to a power of what it is given."""
COMPILED_KEPT_MAX = 4_096

_FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bool", "dyn", "has"}
)
_TOKEN = re.compile(r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<name>[A-Za-z_]\w*)|(?P<mark>\S)""", re.DOTALL)
_LOOP = re.compile(r"\.\s*(?:map|filter|all|exists|exists_one)\s*\(\s*([A-Za-z_]\w*)\s*,")
_TEXT = re.compile(r"'[^'\\]*'|\"[^\"\\]*\"")
_KNOWN = frozenset({"run", "task", "tasks", "item", "index"})


class ExpressionFailed(Exception):
    """With what it was given, the expression has no value, or one of another kind than is needed."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`tasks` are the nodes that it names, `variables` everything that it needs."""

    text: str
    tasks: frozenset[str]
    variables: frozenset[str]
    _program: cel.Program

    def value(self, context: Mapping[str, Any]) -> Any:
        """Its value, of the types of JSON. Raises ExpressionFailed."""
        try:
            value = self._program.execute({name: context[name] for name in self.variables if name in context})
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
    except ValueError as problem:
        _refuse(f"cannot be read: {_position(str(problem))}")
    tokens = [(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(text)]
    unknown = sorted(name for name in program.functions() if name[0].isalpha() and name not in _FUNCTIONS)
    if unknown:
        _refuse(f"calls {unknown[0]!r}; there are {', '.join(sorted(_FUNCTIONS))}")
    bound = _bound(_TEXT.sub("''", text))
    tasks = frozenset(_tasks(tokens))
    return Expression(text, tasks, frozenset(program.variables()) - bound, program)


def _bound(text: str) -> frozenset[str]:
    """The names that loops give to what they look at."""
    names = _LOOP.findall(text)
    if len(names) > LOOPS_MAX:
        _refuse(f"loops more than {LOOPS_MAX} times")
    taken = sorted(_KNOWN.intersection(names))
    if taken:
        _refuse(f"gives the name {taken[0]!r} to an element of a list; choose another one")
    return frozenset(names)


def _tasks(tokens: list[tuple[str, str]]) -> Iterator[str]:
    """The ids that stand behind `tasks`. Any other use of it is refused."""
    for place, (kind, token) in enumerate(tokens):
        if (kind, token) != ("name", "tasks") or (place and tokens[place - 1][1] == "."):
            continue
        after = tokens[place + 1 : place + 4]
        match [*after, ("", ""), ("", ""), ("", "")][:3]:
            case [("mark", "."), ("name", name), (_, mark)] if mark != "(":
                yield name
            case [("mark", "["), ("text", literal), ("mark", "]")] if "\\" not in literal:
                yield literal[1:-1]
            case _:
                _refuse('uses `tasks` without a node: write tasks.plan or tasks["write-tests"]')


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
    return value is None or isinstance(value, (str, bool, int, float))
