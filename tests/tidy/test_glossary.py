"""The words of docs/glossary.md: what events are about stands there, and what it replaces is not used elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from crewlog.eventlog.codec import EVENT_TYPES
from crewlog.eventlog.permissions import OWNED_KINDS

Clean = Callable[[Iterable[str]], None]
# What readers of the project meet first: the API, the commands, the documents.
SPEAKING = (r"protos/.*\.proto", r"services/crewlog/cli/commands/.*\.py", r"docs/.*\.md", r"[A-Z]+\.md")
GLOSSARY = "docs/glossary.md"


@pytest.fixture(scope="module")
def glossary(root: Path) -> str:
    return (root / GLOSSARY).read_text()


def _first_column(text: str) -> set[str]:
    rows = re.findall(r"^\| ([^|]+) \| ", text, re.MULTILINE)
    return {word.strip() for row in rows for word in row.split(",")}


def test_every_event_is_about_a_word_of_the_glossary(clean: Clean, glossary: str) -> None:
    words = _first_column(glossary.partition("## Not these")[0])
    names = (event.replace("_", " ") for event in EVENT_TYPES)
    clean(name for name in names if not any(name.startswith(f"{word} ") for word in words))


def test_every_kind_of_aggregate_is_a_word_of_the_glossary(glossary: str) -> None:
    assert {kind for kinds in OWNED_KINDS.values() for kind in kinds} <= _first_column(glossary)


def test_no_other_words_are_used_for_the_same_things(clean: Clean, glossary: str, files: list[str], root: Path) -> None:
    replaced = _first_column(glossary.partition("## Not these")[2]) - {"instead of"}
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, replaced))})s?\b")
    speaking = [path for path in files if path != GLOSSARY and any(re.fullmatch(kind, path) for kind in SPEAKING)]
    clean(
        f"{path}:{number}: {found.group()}"
        for path in speaking
        for number, line in enumerate((root / path).read_text().splitlines(), 1)
        if (found := pattern.search(line))
    )
