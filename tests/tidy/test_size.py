"""Nothing is so large that it has to be scrolled to be understood."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Clean = Callable[[Iterable[str]], None]
FILE_LINES_MAX = 400
# Tables of cases are long, and a second file for the rest of a table is harder to find than its end.
TEST_FILE_LINES_MAX = 700


@pytest.mark.parametrize(
    ("kinds", "lines_max"),
    [((ast.FunctionDef, ast.AsyncFunctionDef), 40), ((ast.ClassDef,), 150)],
    ids=["functions", "classes"],
)
def test_functions_and_classes_are_short(
    clean: Clean, sources: list[Any], kinds: tuple[type[ast.AST], ...], lines_max: int
) -> None:
    too_long = [
        source.at(node, f"{node.name} has {lines} lines, {lines_max} are allowed")
        for source in sources
        for node in source.nodes(*kinds)
        if (lines := node.end_lineno - node.lineno + 1) > lines_max
    ]
    clean(too_long)


def test_files_are_short(clean: Clean, sources: list[Any]) -> None:
    counted = [(source.path, source.text.count("\n")) for source in sources]
    clean([f"{path}: {lines} lines" for path, lines in counted if lines > _lines_max(path)])


def _lines_max(path: str) -> int:
    return TEST_FILE_LINES_MAX if path.startswith("tests/") else FILE_LINES_MAX
