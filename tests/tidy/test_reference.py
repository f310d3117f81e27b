"""The reference pages say what the code says: every reason of a failure, and every limit with its value."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Clean = Callable[[Iterable[str]], None]
REASONED = {"Failure", "ToolFailure", "Kind"}
TOOL_REASONS = "crewlog.tools.answers"
# Built from the unit of the limit that was reached: `_limit_failure` of crewlog.domain.agent_steps.
COMPOSED = {"turns_exhausted", "seconds_exhausted", "tokens_exhausted"}
UNITS = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
LIMIT = re.compile(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| ([\d,.]+) ?(\w*) \|", re.MULTILINE)


def test_every_reason_of_a_failure_is_explained(clean: Clean, sources: list[Any], root: Path) -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (root / "docs/failures.md").read_text(), re.MULTILINE))
    used = COMPOSED | _tool_reasons() | {reason for source in sources for reason in _reasons(source)}
    missing = [f"docs/failures.md does not explain {reason}" for reason in sorted(used - explained)]
    clean(missing + [f"docs/failures.md explains {reason}, which nothing uses" for reason in sorted(explained - used)])


def test_every_limit_on_the_page_is_the_one_in_the_code(clean: Clean, root: Path) -> None:
    rows = LIMIT.findall((root / "docs/limits.md").read_text())
    assert len(rows) > 20
    clean(
        f"docs/limits.md says {number} {unit}; {module}.{name} is {found}"
        for module, name, number, unit in rows
        if (found := _constant(module, name)) != float(number.replace(",", "")) * UNITS[unit]
    )


def _constant(module: str, name: str) -> float:
    return float(getattr(importlib.import_module(f"crewlog.{module}"), name))


def _tool_reasons() -> set[str]:
    module = importlib.import_module(TOOL_REASONS)
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


def _reasons(source: Any) -> Iterator[str]:
    """Literals that become the reason of a failure."""
    if not source.under("libs/", "services/"):
        return
    for call in source.nodes(ast.Call):
        if _name(call.func) in REASONED:
            given = [keyword.value for keyword in call.keywords if keyword.arg == "reason"] or call.args[:1]
            yield from (str(value.value) for value in given if isinstance(value, ast.Constant))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
