"""The domain is pure: it asks nobody for time, ids or bytes, and it replaces state and never changes it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Clean = Callable[[Iterable[str]], None]
DOMAIN = "libs/crewlog/domain/"
# Each of these is a way to the world outside, or to something that a replay would not see again.
IMPURE = {
    *("asyncio", "concurrent", "datetime", "grpc", "http", "httpx", "importlib", "io", "logging", "multiprocessing"),
    *("nats", "opentelemetry", "os", "pathlib", "random", "secrets", "shutil", "signal", "socket", "sqlite3"),
    *("subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid"),
}
IMPURE_BUILTINS = {"open", "input", "print", "setattr", "delattr", "exec", "eval", "id", "hash"}
CHANGES_A_MESSAGE = {
    "CopyFrom",
    "MergeFrom",
    "MergeFromString",
    "ParseFromString",
    "Clear",
    "ClearField",
    "SetInParent",
}
CHANGES_A_COLLECTION = {"append", "extend", "add", "insert", "remove", "pop", "clear", "update", "sort", "reverse"}


# They check histories, or count what one evaluation costs: they hold no state of an aggregate, and keep books.
KEEPS_BOOKS = tuple(
    f"{DOMAIN}{place}" for place in ("conduct/", "workflow/expression_costs", "workflow/expression_functions")
)


def _domain(sources: list[Any]) -> list[Any]:
    return [source for source in sources if source.under(DOMAIN)]


def _with_state(sources: list[Any]) -> list[Any]:
    return [source for source in _domain(sources) if not str(source.path).startswith(KEEPS_BOOKS)]


def test_the_domain_imports_no_way_out(clean: Clean, sources: list[Any]) -> None:
    impure = [
        source.at(node, f"imports {module}")
        for source in _domain(sources)
        for node in source.nodes(ast.Import, ast.ImportFrom)
        for module in _modules(node)
        if module.split(".")[0] in IMPURE
    ]
    clean(impure)


def test_the_domain_calls_no_way_out(clean: Clean, sources: list[Any]) -> None:
    impure = [
        source.at(node, f"calls {node.func.id}")
        for source in _domain(sources)
        for node in source.nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS
    ]
    clean(impure)


def test_state_and_messages_are_replaced_and_never_changed(clean: Clean, sources: list[Any]) -> None:
    changes = [source.at(node, ast.unparse(node)) for source in _with_state(sources) for node in _changes(source.tree)]
    clean(changes)


def test_states_are_frozen(clean: Clean, sources: list[Any]) -> None:
    thawed = [
        source.at(node, f"{node.name} is not frozen")
        for source in _with_state(sources)
        for node in source.nodes(ast.ClassDef)
        if any("dataclass" in (text := ast.unparse(mark)) and "frozen=True" not in text for mark in node.decorator_list)
    ]
    clean(thawed)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [name.name for name in node.names]


def _changes(tree: ast.AST, function: ast.AST | None = None) -> Iterator[ast.AST]:
    """Assignments to attributes, deletions, and calls that change what was not made in the same function."""
    for node in ast.iter_child_nodes(tree):
        inside = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if any(_is_foreign_attribute(target, inside) for target in _targets(node)) or _is_changing_call(node, inside):
            yield node
        yield from _changes(node, inside)


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def _is_foreign_attribute(target: ast.expr, function: ast.AST | None) -> bool:
    """An attribute, or an item of one. What an error keeps of its arguments is the exception."""
    held = target.value if isinstance(target, ast.Subscript) else target
    if not isinstance(held, ast.Attribute):
        return False
    is_own = isinstance(held.value, ast.Name) and held.value.id == "self"
    return not (is_own and getattr(function, "name", "") == "__init__")


def _is_changing_call(node: ast.AST, function: ast.AST | None) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    receiver = node.func.value
    while isinstance(receiver, ast.Subscript):
        receiver = receiver.value
    if isinstance(receiver, ast.Name):
        return node.func.attr in CHANGES_A_MESSAGE and receiver.id not in _made_in(function)
    return isinstance(receiver, ast.Attribute) and node.func.attr in CHANGES_A_MESSAGE | CHANGES_A_COLLECTION


def _made_in(function: ast.AST | None) -> set[str]:
    """Names that the function gives to what it has just made by a call."""
    nodes = ast.walk(function) if function else ()
    targets = [
        target
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call)
        for target in _targets(node)
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}
