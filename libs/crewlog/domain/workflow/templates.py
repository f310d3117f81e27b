r"""Texts of workflows with values in them: `{{ tasks.plan.result.title }}`.

Only the text that somebody has written into a workflow is a template, and it is gone through once: a value is inserted
as it is, whatever it holds. `\{{` stands for two braces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.expression_costs import Spent
from crewlog.domain.workflow.expression_words import Call
from crewlog.domain.workflow.expressions import Expression, ExpressionFailed, compile_expression

RENDERED_BYTES_MAX = 256 * 1024
EXPRESSIONS_MAX = 100
COMPILED_KEPT_MAX = 4_096

_OPENING = re.compile(r"(\\*)\{\{")


@dataclass(frozen=True, slots=True)
class Template:
    """`tasks` are the nodes that its expressions name, `variables` everything that they need."""

    parts: tuple[str | Expression, ...]
    tasks: frozenset[str]
    variables: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Template:
        """Raises InvalidCommand that says which expression is wrong, and how."""
        return _compiled(text)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """What its expressions name, with the fields."""
        return tuple(path for part in self.parts if isinstance(part, Expression) for path in part.paths)

    @property
    def calls(self) -> tuple[Call, ...]:
        """Of our own functions."""
        return tuple(call for part in self.parts if isinstance(part, Expression) for call in part.calls)

    def render(self, context: Mapping[str, Any]) -> str:
        """The text with the values. Raises ExpressionFailed, also where it becomes larger than RENDERED_BYTES_MAX."""
        spent = Spent()
        text = "".join(part if isinstance(part, str) else shown(part.value(context, spent)) for part in self.parts)
        if len(text.encode(errors="replace")) > RENDERED_BYTES_MAX:
            raise ExpressionFailed(f"the text becomes larger than {RENDERED_BYTES_MAX} bytes")
        return text


def escaped(text: str) -> str:
    """A template whose text is this one, whatever stands in it."""
    return _OPENING.sub(lambda found: found[1] * 2 + "\\{{", text)


def shown(value: Any) -> str:
    """How a value stands in a text: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@lru_cache(COMPILED_KEPT_MAX)
def _compiled(text: str) -> Template:
    parts = tuple(_parts(text))
    expressions = [part for part in parts if isinstance(part, Expression)]
    if len(expressions) > EXPRESSIONS_MAX:
        raise _invalid(f"has {len(expressions)} expressions, and may have {EXPRESSIONS_MAX}")
    return Template(
        parts,
        frozenset(name for each in expressions for name in each.tasks),
        frozenset(name for each in expressions for name in each.variables),
    )


def _parts(text: str) -> Iterator[str | Expression]:
    at = 0
    while opening := _OPENING.search(text, at):
        backslashes = opening[1]
        yield text[at : opening.start()] + backslashes[: len(backslashes) // 2]
        at = opening.end()
        if len(backslashes) % 2:
            yield "{{"
            continue
        closing = _closing(text, at)
        yield _expression(text, opening.start(), text[at:closing])
        at = closing + 2
    yield text[at:]


def _closing(text: str, at: int) -> int:
    """Where the expression ends: at the first two braces that stand in no literal, and close none of its own."""
    depth, quote = 0, ""
    place = at
    while place < len(text):
        sign = text[place]
        if quote:
            place += sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "{":
            depth += 1
        elif sign == "}" and depth:
            depth -= 1
        elif text.startswith("}}", place):
            return place
        place += 1
    where = _where(text, at - 2)
    raise _invalid(f"`{{{{` {where} is not closed: write `}}}}` behind the expression, or `\\{{{{` for two braces")


def _expression(text: str, start: int, expression: str) -> Expression:
    try:
        return compile_expression(expression.strip())
    except InvalidCommand as refusal:
        raise _invalid(f"the expression {_where(text, start)} {refusal.violations['expression']}") from None


def _where(text: str, place: int) -> str:
    line = text.count("\n", 0, place) + 1
    return f"in line {line}, column {place - text.rfind(chr(10), 0, place)}"


def _invalid(why: str) -> InvalidCommand:
    return InvalidCommand(why, violations={"template": why})
