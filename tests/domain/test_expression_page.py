"""docs/workflows.md says what expressions can do: each of its examples is worked out, and every function is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from crewlog.crews import load_workflow
from crewlog.crews.findings import InvalidFile
from crewlog.domain.workflow.expression_functions import FUNCTIONS
from crewlog.domain.workflow.expression_words import LOOPS
from crewlog.domain.workflow.expressions import FUNCTIONS_OF_CEL, ExpressionFailed, compile_expression

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/workflows.md").read_text()
SECTION = PAGE.partition("### All that expressions can do")[2].partition("\n## ")[0]
CAN, CANNOT = SECTION.split("And what they cannot")
CODE = re.compile(r"`([^`]+)`")
PLAN = {"parts": ["x", "yy"], "title": "T", "points": 7}
SEEN = {
    "run": {"input": "Fix #7: a crash"},
    "tasks": {
        "list": {"output": "a.py\nb.md\n"},
        "plan": {"result": PLAN},
        "json": {"output": '{"files": [{"path": "a.py"}]}'},
    },
    "item": "src/a.py",
    "index": 3,
}
FILE = """
nodes:
  - {id: list, command: [ls]}
  - {id: review, role: reviewer}
  - {id: use, depends_on: [list, review], map: {times: 2}, role: tester, prompt: {{ %s }}}
"""


def _rows(text: str) -> list[list[str]]:
    """The cells of its tables, without their heads."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows[2:]]


ABLE = [(CODE.findall(row[1])[0], CODE.findall(row[2])[0]) for row in _rows(CAN)]
UNABLE = [(example, row[1]) for row in _rows(CANNOT) for example in CODE.findall(row[0])]


@pytest.mark.parametrize(("example", "value"), ABLE)
def test_an_example_gives_what_the_page_says(example: str, value: str) -> None:
    assert json.dumps(compile_expression(example).value(SEEN), ensure_ascii=False) == value


@pytest.mark.parametrize(("example", "why"), UNABLE)
def test_what_the_page_says_cannot_be_done(example: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(FILE.replace("{{ %s }}", json.dumps("{{ " + example + " }}")))
    if why.startswith("refused"):
        with pytest.raises(InvalidFile, match=r"w\.yaml:5:82: nodes\[2\]\.prompt"):
            load_workflow(str(path))
        return
    assert why.startswith("failed") and load_workflow(str(path))
    with pytest.raises(ExpressionFailed):
        compile_expression(example).value(SEEN)


def test_the_page_has_every_function_and_no_other() -> None:
    named = {name for row in _rows(CAN) for name in CODE.findall(row[0])[:1] if name.isidentifier()} - {"in"}
    assert named == FUNCTIONS_OF_CEL | FUNCTIONS.keys() | LOOPS


def test_the_values_of_the_examples_stand_on_the_page() -> None:
    said = {name: json.loads(value) for name, value in re.findall(r"`([\w.]+)`\s+=\s+`([^`]+)`", CAN)}
    assert said == {name: _at(name.split(".")) for name in said}
    assert len(said) == 6


def _at(path: list[str]) -> Any:
    value: Any = SEEN
    for name in path:
        value = value[name]
    return value


@pytest.mark.parametrize("place", ["docs/workflows.md", "schemas/workflow.schema.json"])
def test_what_is_called_anywhere_is_a_function(place: str) -> None:
    """In the page, and in what editors show."""
    called = set(re.findall(r"`(?:[\w.]+\.)?([a-z_A-Z]+)\([^`\n]*\)`", (ROOT / place).read_text()))
    refused = {"bool", "timestamp", "split", "existsOne"}
    assert called - refused <= FUNCTIONS_OF_CEL | FUNCTIONS.keys() | LOOPS
    assert called & FUNCTIONS.keys()
