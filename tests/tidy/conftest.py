"""What the house rules look at: the files of the project that git knows or would add, parsed once.

Every rule collects what breaks it as `path:line: what`, and asserts that there is nothing.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
GENERATED = "libs/crewlog/v1/"
EXAMPLES = "examples/"


@dataclass(frozen=True)
class Source:
    """A Python file that people write."""

    path: str
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def under(self, *folders: str) -> bool:
        return self.path.startswith(folders)

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def clean() -> Callable[[Iterable[str]], None]:
    """Fails with everything that breaks the rule, one line each."""
    return _clean


@pytest.fixture(scope="session")
def files() -> list[str]:
    """Everything that is tracked or would be; paths from the root."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listing.stdout.split("\0") if listing.returncode == 0 else _walked()
    return sorted(name for name in names if name and (ROOT / name).is_file())


@pytest.fixture(scope="session")
def sources(files: list[str]) -> list[Source]:
    paths = [name for name in files if name.endswith(".py") and not name.startswith((GENERATED, EXAMPLES))]
    return [_source(path) for path in paths]


def _clean(violations: Iterable[str]) -> None:
    if lines := list(violations):
        pytest.fail("\n".join(lines), pytrace=False)


def _source(path: str) -> Source:
    text = (ROOT / path).read_text()
    return Source(path, text, ast.parse(text, filename=path))


def _walked() -> list[str]:
    """For a copy of the project without its history."""
    hidden = {".venv", ".tools", ".git", "node_modules", "__pycache__", "results"}
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return [str(path.relative_to(ROOT)) for path in found if not hidden & set(path.relative_to(ROOT).parts)]
