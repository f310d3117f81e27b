"""Documents are short, and what they name exists: files, tests, functions, targets and commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.main import app
from crewlog.runtime import requirements

Clean = Callable[[Iterable[str]], None]
LINES_MAX = {"README.md": 120, "ARCHITECTURE.md": 250, "CONTRIBUTING.md": 150}
FOLDERS = ("libs", "services", "tests", "protos", "docs", "tools", "examples", "bench")
MADE_LATER = "bench/results/"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
FUNCTION = re.compile(r"`((?:[A-Z]\w+\.)?_?[a-z]\w+)`")


@pytest.fixture(scope="module")
def documents(files: list[str], root: Path) -> dict[str, str]:
    return {path: (root / path).read_text() for path in files if path.endswith(".md") and "/crews/" not in path}


@pytest.mark.parametrize("path", LINES_MAX)
def test_a_page_is_read_in_one_go(root: Path, path: str) -> None:
    assert (root / path).read_text().count("\n") <= LINES_MAX[path]


def test_links_lead_somewhere(clean: Clean, documents: dict[str, str], root: Path) -> None:
    clean(
        f"{path}: {link}"
        for path, text in documents.items()
        for link in LINK.findall(text)
        if not (root / path).parent.joinpath(link).exists()
    )


def test_named_files_exist(clean: Clean, documents: dict[str, str], root: Path) -> None:
    named = {(path, name) for path, text in documents.items() for name in PATH.findall(text)}
    kept = sorted((path, name) for path, name in named if not name.startswith(MADE_LATER))
    clean(f"{path}: {name}" for path, name in kept if not (root / name).exists())


def test_every_invariant_names_a_test_that_exists(clean: Clean, documents: dict[str, str], root: Path) -> None:
    invariants = documents["ARCHITECTURE.md"].partition("## Invariants")[2].partition("\n## ")[0]
    items = re.split(r"^ ?\d+\. ", invariants, flags=re.MULTILINE)[1:]
    without = [f"invariant {number} names no test" for number, item in enumerate(items, 1) if not TEST.search(item)]
    gone = [f"{path}::{name} is gone" for path, name in TEST.findall(invariants) if not _has_test(root / path, name)]
    clean(without + gone)


def test_functions_to_read_exist(clean: Clean, documents: dict[str, str], sources: list[Any]) -> None:
    definitions = [_defined(source.text) for source in sources if source.under("libs/", "services/")]
    life = documents["ARCHITECTURE.md"].partition("## The life of a run")[2].partition("\n## ")[0]
    named = {name for bracket in re.findall(r"\[(`[^\]]+)\]", life) for name in FUNCTION.findall(bracket)}
    assert len(named) > 10
    clean(name for name in sorted(named) if not any(set(name.split(".")) <= defined for defined in definitions))


def test_named_targets_exist(clean: Clean, documents: dict[str, str], root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    clean(f"{path}: make {name}" for path, name in _commands(documents, "make") if name not in targets)


def test_named_commands_exist(clean: Clean, documents: dict[str, str]) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    clean(f"{path}: crewlog {name}" for path, name in _commands(documents, "crewlog") if name not in known)


def _commands(documents: dict[str, str], program: str) -> list[tuple[str, str]]:
    """What stands at the beginning of a line, or of a piece of code in a line."""
    found = re.compile(rf"(?:^|`){program} ([a-z]+)", re.MULTILINE)
    return sorted({(path, name) for path, text in documents.items() for name in found.findall(text)})


def _has_test(path: Path, name: str) -> bool:
    return path.is_file() and re.search(rf"def {name}\(", path.read_text()) is not None


def _defined(text: str) -> set[str]:
    return set(re.findall(r"^\s*(?:async )?(?:def|class) (\w+)", text, re.MULTILINE))


FAULTS = {*range(1, 51), *range(60, 68), *range(75, 79)}


def test_every_fault_is_shown_by_a_test_or_said_to_be_open(clean: Clean, documents: dict[str, str], root: Path) -> None:
    page = documents["docs/reliability.md"]
    rows = {int(number): row for number, row in re.findall(r"^\| (\d+) (\|.*)$", page, re.MULTILINE)}
    assert rows.keys() == FAULTS
    silent = [f"{number} has no test" for number, row in rows.items() if not TEST.search(row + "`")]
    excused = [what for what in silent if not re.search(r"\b(open|not here): ", rows[int(what.split()[0])])]
    gone = [f"{path}::{name} is gone" for path, name in TEST.findall(page) if not _has_test(root / path, name)]
    clean(excused + gone)


def test_a_fault_that_has_tests_has_one_on_the_page(clean: Clean, documents: dict[str, str], files: list[str]) -> None:
    """It may have more of them than the page names."""
    page = documents["docs/reliability.md"]
    named = {int(number) for number in re.findall(r"test_fault_(\d+)_", page)}
    made = {int(number) for path in files if path.startswith("tests/") for number in _numbers(path)}
    clean(f"fault {number} has a test, and the page names none" for number in sorted(made - named))


def _numbers(path: str) -> list[str]:
    return re.findall(r"def test_fault_(\d+)_", Path(path).read_text()) if path.endswith(".py") else []


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "services/crewlog/git/README.md"])
def test_the_git_that_is_needed_is_the_one_that_is_checked(root: Path, path: str) -> None:
    named = re.findall(r"git,? (\d+\.\d+ or newer)", (root / path).read_text())
    assert [f"git {version}" for version in named] == [requirements.GIT]
