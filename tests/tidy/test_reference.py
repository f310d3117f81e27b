"""The reference pages say what the code says: every reason of a failure, and every limit with its value."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Clean = Callable[[Iterable[str]], None]
REASONED = {"Failure", "ToolFailure", "Kind"}
TOOL_REASONS = "crewlog.tools.answers"
# Built from the unit of the limit that was reached: `_limit_failure` of crewlog.domain.agent.steps.
COMPOSED = {"turns_exhausted", "seconds_exhausted", "tokens_exhausted"}
UNITS = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
LIMIT = re.compile(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| ([\d,.]+) ?(\w*) \|", re.MULTILINE)


def test_every_reason_of_a_failure_is_explained(clean: Clean, sources: list[Any], root: Path) -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (root / "docs/failures.md").read_text(), re.MULTILINE))
    used = COMPOSED | _tool_reasons() | _reasons([source for source in sources if source.under("libs/", "services/")])
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


def test_reasons_are_found_however_they_are_given() -> None:
    text = """
SECOND, THIRD = "second", "third"
def made(run, reason): return Failure(reason=reason, message="")
def asked(run, reason): return Other(reason=reason)
Failure("first"), Failure(reason=module.SECOND), Failure(reason=THIRD if x else "fourth"), Failure(reason=it.reason)
made(run, "fifth"), made(run, reason=SECOND), asked(run, "sixth")
"""
    assert _reasons([_Text(ast.parse(text))]) == {"first", "second", "third", "fourth", "fifth"}


@dataclass(frozen=True)
class _Text:
    tree: ast.Module

    def nodes(self, kind: type[ast.AST]) -> Iterator[ast.AST]:
        return (node for node in ast.walk(self.tree) if isinstance(node, kind))


def _reasons(sources: Iterable[Any]) -> set[str]:
    """What becomes the reason of a failure: a literal, a constant, or what is given to a function that makes one."""
    sources = list(sources)
    constants = {name: value for source in sources for name, value in _constants(source)}
    found: set[str] = set()
    for source in sources:
        makers = dict.fromkeys(REASONED, 0) | dict(_makers(source))
        for call in source.nodes(ast.Call):
            if _name(call.func) in makers:
                found |= {
                    value for given in _given(call, makers[_name(call.func)]) for value in _values(given, constants)
                }
    return found


def _constants(source: Any) -> Iterator[tuple[str, str]]:
    """Also those of `A, B = "a", "b"`."""
    for assign in source.nodes(ast.Assign):
        for target in assign.targets:
            names, values = getattr(target, "elts", [target]), getattr(assign.value, "elts", [assign.value])
            for name, value in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield name.id, value.value


def _makers(source: Any) -> Iterator[tuple[str, int]]:
    """The functions that hand their parameter `reason` on to a failure, and its place."""
    for function in source.nodes(ast.FunctionDef):
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and _name(node.func) in REASONED]
        given = [value for call in calls for value in _given(call, 0)]
        if "reason" in names and any(isinstance(value, ast.Name) and value.id == "reason" for value in given):
            yield function.name, names.index("reason")


def _given(call: ast.Call, place: int) -> list[ast.expr]:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    return named or call.args[place : place + 1]


def _values(given: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    match given:
        case ast.Constant(value=value):
            yield str(value)
        case ast.IfExp(body=body, orelse=otherwise):
            yield from (*_values(body, constants), *_values(otherwise, constants))
        case ast.Name() | ast.Attribute() if _name(given).isupper() and _name(given) in constants:
            yield constants[_name(given)]


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
