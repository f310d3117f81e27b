"""Templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crewlog.domain.expressions import Expression, compile_expression

_PART = re.compile(r"\\\{\{|\{\{(.*?)\}\}", re.DOTALL)


def escaped(text: str) -> str:
    return text.replace("{{", "\\{{")


@dataclass(frozen=True)
class Template:
    parts: tuple[str | Expression, ...]
    tasks: frozenset[str]
    variables: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Template:
        return _of(text)

    def render(self, context: Mapping[str, Any]) -> str:
        return "".join(p if isinstance(p, str) else _shown(p.value(context)) for p in self.parts)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@lru_cache(4096)
def _of(text: str) -> Template:
    parts: list[str | Expression] = []
    at = 0
    for m in _PART.finditer(text):
        parts.append(text[at : m.start()])
        parts.append("{{" if m[1] is None else compile_expression(m[1].strip()))
        at = m.end()
    parts.append(text[at:])
    ex = [p for p in parts if isinstance(p, Expression)]
    return Template(
        tuple(parts), frozenset().union(*(e.tasks for e in ex)), frozenset().union(*(e.variables for e in ex))
    )
