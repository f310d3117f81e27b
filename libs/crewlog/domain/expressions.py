"""Conditions and values in the Common Expression Language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crewlog.domain.errors import InvalidCommand


class ExpressionFailed(Exception):
    """It has no value."""


@dataclass(frozen=True)
class Expression:
    text: str
    program: Any
    tasks: frozenset[str]
    variables: frozenset[str]

    def value(self, context: Mapping[str, Any]) -> Any:
        try:
            return self.program.execute(dict(context))
        except (ValueError, KeyError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as e:
            raise ExpressionFailed(str(e)) from e

    def holds(self, context: Mapping[str, Any]) -> bool:
        v = self.value(context)
        if not isinstance(v, bool):
            raise ExpressionFailed("no bool")
        return v


@lru_cache(4096)
def compile_expression(text: str) -> Expression:
    import cel

    try:
        p = cel.compile(text)
    except ValueError as e:
        raise InvalidCommand(str(e), violations={"expression": str(e)[:200]}) from None
    names = frozenset(re.findall(r"tasks\[['\"]([a-z0-9_-]+)['\"]\]", text)) | frozenset(
        re.findall(r"tasks\.([a-z0-9]+)", text)
    )
    return Expression(text, p, names, frozenset(p.variables()))
