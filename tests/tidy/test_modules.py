"""What a module says, reads, prints and catches."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

Clean = Callable[[Iterable[str]], None]
MAY_PRINT = ("services/crewlog/cli/", "tools/", "bench/")
PRODUCT = ("libs/", "services/")
EVERYTHING = {"Exception", "BaseException"}
# Where every error is caught and not raised again, and why that is right.
MAY_CATCH_EVERYTHING = {
    ("libs/crewlog/eventlog/owner.py", "_work"): "the error is raised by every command that waits for this worker",
    ("services/crewlog/executor/host.py", "_refusable"): "a bug ends one agent with a recorded failure",
    ("services/crewlog/executor/synchronize.py", "_perform"): "a bug ends one task; its claim lapses, and it is logged",
    ("services/crewlog/scheduler/reactor.py", "_run"): "a bug stops one run until something wakes it; it is logged",
}


def test_every_module_says_its_rule(clean: Clean, sources: list[Any]) -> None:
    clean([source.path for source in sources if not ast.get_docstring(source.tree)])


def test_only_config_reads_the_environment(clean: Clean, sources: list[Any]) -> None:
    readers = [
        source.at(node, "reads the environment")
        for source in sources
        if source.under(*PRODUCT) and source.name != "config.py"
        for node in source.nodes(ast.Attribute, ast.ImportFrom)
        if _reads_the_environment(node)
    ]
    clean(readers)


def test_only_programs_for_people_print(clean: Clean, sources: list[Any]) -> None:
    printing = [
        source.at(node, "prints")
        for source in sources
        if not source.under(*MAY_PRINT)
        for node in source.nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    clean(printing)


def test_no_error_is_swallowed(clean: Clean, sources: list[Any]) -> None:
    swallowing = [
        source.at(handler, f"{function} catches everything")
        for source in sources
        for function, handler in _handlers(source.tree)
        if _catches_everything(handler) and not _raises_again(handler)
        if (source.path, function) not in MAY_CATCH_EVERYTHING
    ]
    clean(swallowing)


def test_what_may_catch_everything_still_does(clean: Clean, sources: list[Any]) -> None:
    found = {
        (source.path, function)
        for source in sources
        for function, handler in _handlers(source.tree)
        if _catches_everything(handler) and not _raises_again(handler)
    }
    clean(f"{path}: {function} catches less now" for path, function in MAY_CATCH_EVERYTHING.keys() - found)


def _reads_the_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and bool({name.name for name in node.names} & {"environ", "getenv", "environb"})
    named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    return named and isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}


def _handlers(tree: ast.AST, function: str = "module") -> list[tuple[str, ast.ExceptHandler]]:
    found: list[tuple[str, ast.ExceptHandler]] = []
    for child in ast.iter_child_nodes(tree):
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.ExceptHandler):
            found.append((function, child))
        found.extend(_handlers(child, inside))
    return found


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in EVERYTHING for kind in kinds)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)
