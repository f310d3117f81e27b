"""All that is wrong in a file is said at once, in the order of the file, and nothing that only follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from crewlog.crews import load_workflow
from crewlog.crews.findings import FINDINGS_MAX, InvalidFile
from hypothesis import given, settings
from hypothesis import strategies as st

FILE = """\
name: many
nodes:
  - id: list
    command: [ls, src]
    timeout: 5m
  - id: each
    depends_on: [list]
    map: lines(tasks.list.output)
    role: implementer
    prompt: "Do {{ item }}"
    budget: 1
  - id: test
    depends_on: [each]
    command: [pytest, "{{ tasks.list.output }}"]
    retry: 2
  - id: ask
    depends_on: [test]
    gate: {question: "Good? {{ tasks.test.output }}", choices: [go, stop], default: go}
  - id: end
    role: reviewer
    depends_on: [ask]
    output_schema: {type: object}
edges:
  - {from: test, to: each, on: [failed], visits_max: 3}
  - {from: ask, to: each, when: task.result.choice == "stop", visits_max: 2}
  - {from: each, to: end, when: "size(tasks.each.result) > 3"}
"""
INDEPENDENT = [
    ("timeout: 5m", "timeout: soon", "5:14 nodes[0].timeout"),
    ("map: lines(tasks.list.output)", "map: tasks.list.output", "8:10 nodes[1].map.over"),
    ("role: implementer", "role: implementr", "9:11 nodes[1].role"),
    ("{{ item }}", "{{ itm }}", "10:13 nodes[1].prompt"),
    ("budget: 1", "bugdet: 1", "11:5 nodes[1].bugdet"),
    ('"{{ tasks.list.output }}"', '"{{ tasks.ask.result.chioce }}"', "14:23 nodes[2].command[1]"),
    ("default: go", "default: no", "18:85 nodes[3].gate.default"),
    ("output_schema: {type: object}", "output_schema: {type: thing}", "22:20 nodes[4].output_schema"),
    ('task.result.choice == "stop"', "task.result.choice", "25:33 edges[1].when"),
    ('"size(tasks.each.result) > 3"', '"sizes(tasks.each.result) > 3"', "26:33 edges[2].when"),
]
OTHERS = [
    ("- id: each", "- idd: each", "6:5 nodes[1].idd"),
    ("- id: each", "- id: 7", "6:9 nodes[1].id"),
    ("- id: test", "- id: list", "12:9 nodes[2].id"),
    ("nodes:", "node:", "2:1 node"),
    ("edges:", "egdes:", "23:1 egdes"),
    ("edges:", "transitions:", "23:1 transitions"),
    ("depends_on: [list]", "needs: [list]", "7:5 nodes[1].needs"),
    ("depends_on: [list]", "depends_on: list", "7:17 nodes[1].depends_on"),
    ("depends_on: [each]", "depends_on: [each, end]", "17:17 nodes"),
    ("map: lines(tasks.list.output)", "mapp: lines(tasks.list.output)", "8:5 nodes[1].mapp"),
    ("map: lines(tasks.list.output)", "for_each: lines(tasks.list.output)", "8:5 nodes[1].for_each"),
    ("map: lines(tasks.list.output)", "map: {over: lines(tasks.list.output), times: x}", "8:50 nodes[1].map.times"),
    ("role: implementer", "rol: implementer", "9:5 nodes[1].rol"),
    ("role: implementer", "role: [implementer]", "9:11 nodes[1].role"),
    ("role: implementer", "role: implementer\n    noop: {}", "6:5 nodes[1]"),
    ("command: [ls, src]", "comand: [ls, src]", "4:5 nodes[0].comand"),
    ("command: [ls, src]", "command: ls src", "4:14 nodes[0].command"),
    ("command: [ls, src]", 'command: [7, src, "{{ x }}"]', "4:15 nodes[0].command[0]"),
    ("retry: 2", "retri: {attempts_max: 2}", "15:5 nodes[2].retri"),
    ("choices: [go, stop]", "choices: [1, 2]", "18:65 nodes[3].gate.choices[0]"),
    ("choices:", "choises:", "18:55 nodes[3].gate.choises"),
    ("visits_max: 3", "visits_max: many", "24:54 edges[0].visits_max"),
    ("visits_max: 3", "visit_max: 3", "24:42 edges[0].visit_max"),
    ("from: test", "form: test", "24:6 edges[0].form"),
    ("from: test", "from: tets", "24:12 edges[0].from"),
    ("on: [failed]", "on: [fails]", "24:33 edges[0].on[0]"),
]
Mistake = tuple[str, str, str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes") / "w.yaml"


def found(path: Path, mistakes: Iterable[Mistake]) -> list[str]:
    """The places and fields of what is said."""
    text = FILE
    for right, wrong, _ in mistakes:
        text = text.replace(right, wrong, 1)
    path.write_text(text)
    try:
        load_workflow(str(path))
    except InvalidFile as refusal:
        return [f"{each.mark.line}:{each.mark.column} {each.field}" if each.mark else "" for each in refusal.findings]
    return []


def test_without_mistakes_nothing_is_said(path: Path) -> None:
    assert found(path, []) == []


@pytest.mark.parametrize("mistake", [*INDEPENDENT, *OTHERS], ids=lambda mistake: mistake[1])
def test_a_mistake_is_said_once_and_nothing_that_follows_from_it(path: Path, mistake: Mistake) -> None:
    said = found(path, [mistake])
    # Two items of one list are two mistakes.
    assert said[:1] == [mistake[2]] and {each.partition(" ")[2].partition("[")[0] for each in said} == {
        mistake[2].partition(" ")[2].partition("[")[0]
    }
    assert len(said) <= 2


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file(path: Path) -> None:
    assert found(path, INDEPENDENT) == [place for _, _, place in INDEPENDENT]
    assert len(INDEPENDENT) == FINDINGS_MAX


def test_a_field_of_another_name_hides_nothing_that_has_nothing_to_do_with_it(path: Path) -> None:
    needs = next(mistake for mistake in OTHERS if mistake[1] == "needs: [list]")
    nowhere = next(mistake for mistake in OTHERS if mistake[1] == "from: tets")
    assert found(path, [needs, nowhere]) == [needs[2], nowhere[2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*INDEPENDENT, *OTHERS]), min_size=2, max_size=5, unique_by=lambda mistake: mistake[0]))
def test_several_mistakes_are_no_others_than_each_of_them(path: Path, mistakes: list[Mistake]) -> None:
    fields = {each.partition(" ")[2] for one in mistakes for each in found(path, [one])}
    said = {each.partition(" ")[2] for each in found(path, mistakes)}
    assert said and said <= fields
