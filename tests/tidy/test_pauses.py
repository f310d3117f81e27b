"""Tests wait for a condition, never for a time: a pause stands in a loop that looks again, and is short."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

Clean = Callable[[Iterable[str]], None]
LOOK_AGAIN_SECONDS_MAX = 0.05


def test_tests_wait_for_conditions(clean: Clean, sources: list[Any]) -> None:
    waiting = [
        source.at(call, ast.unparse(call))
        for source in sources
        if source.under("tests/")
        for call, in_loop in _sleeps(source.tree)
        if not _is_look_again(call, in_loop)
    ]
    clean(waiting)


def _sleeps(tree: ast.AST, in_loop: bool = False) -> list[tuple[ast.Call, bool]]:
    found: list[tuple[ast.Call, bool]] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Call) and _is_sleep(child):
            found.append((child, in_loop))
        starts_anew = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        found.extend(_sleeps(child, isinstance(child, ast.While) or (in_loop and not starts_anew)))
    return found


def _is_sleep(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name == "sleep"


def _is_look_again(call: ast.Call, in_loop: bool) -> bool:
    seconds = call.args[0] if call.args else None
    if not isinstance(seconds, ast.Constant) or not isinstance(seconds.value, int | float):
        return in_loop and isinstance(seconds, ast.Name) and seconds.id.isupper()
    return seconds.value == 0 or (in_loop and seconds.value <= LOOK_AGAIN_SECONDS_MAX)
