"""Drawings of workflows: nothing is missing, everything fits, and what authors write stays text."""

from __future__ import annotations

import re
import time
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from crewlog.crews import available_workflows, load_workflow
from crewlog.crews.drawing import rows, terminal
from crewlog.crews.drawing_mermaid import mermaid
from crewlog.crews.drawing_model import Picture
from crewlog.crews.drawing_svg import svg
from crewlog.v1.node_pb2 import CommandNode, GateNode, WaitNode
from crewlog.v1.run_pb2 import MapNode, Node, NoopNode, Workflow
from hypothesis import given, settings
from hypothesis import strategies as st

COLUMNS = 100
SECONDS_MAX = 5.0
MERMAID_NODE = re.compile(r'    n\d+(\[\[|\[\(|\[/|\[|\(\[|\(\(|\{\{|>)"[^"]*"(\]\]|\)\]|/\]|\]|\]\)|\)\)|\}\})')
MERMAID_LINK = re.compile(r'    n\d+ (-->|-\.->)(\|"[^"|]*"\|)? n\d+')
HOSTILE = '"]; click n0 "javascript:x" </text><script>alert(1)</script> \x1b[31m'

SIMPLE = """
nodes:
  - {id: build, command: [make]}
  - {id: good, gate: Is it good?, depends_on: [build]}
  - {id: mend, noop: {}}
edges:
  - {from: build, to: mend, on: [failed, timed_out]}
  - {from: good, to: build, on: [failed], visits_max: 3}
"""
DRAWN = """\
w

                  ┌────────┐
                  │ build  │
                  │ $ make │
                  └────┬───┘
                       │
             ┌─────────┴─────────┐
             │                   │ (1) failed, timed out
             ▼                   ▼
┌────────────────────────┐   ┌──────┐
│ good                   │   │ mend │
│ ? approve: Is it good? │   │ noop │
│ ↺ back to build (2)    │   └──────┘
└────────────────────────┘

(1) build ▸ mend: failed, timed out
(2) good ↺ build: failed & at most 3 visits"""


BODIES = {
    "role: engineer": "agent engineer",
    "command: [make, a-target-with-a-long-name]": "$ make a-target",
    "noop: {}": "noop",
    "workflow: agent": "workflow agent",
}


@pytest.mark.parametrize(("body", "does"), BODIES.items())
@pytest.mark.parametrize(
    ("over", "told"), [('over: "[run.input, run.id]"', "for each of [run.input, r"), ("times: 3", "3 times")]
)
def test_a_map_is_drawn_as_one_whatever_it_does(tmp_path: Path, body: str, does: str, over: str, told: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"nodes:\n  - id: many\n    map: {{{over}}}\n    {body}\n")
    workflow = load_workflow(str(path))
    [[_, kind, in_words, _, _]] = rows(workflow)
    assert kind == "map" and in_words.startswith(told) and does in in_words
    [box] = [line for line in terminal(workflow, COLUMNS).splitlines() if told in line]
    assert does in terminal(workflow, COLUMNS) and box.strip().startswith("│")
    assert does in unescape(svg(workflow)) and told in unescape(svg(workflow))
    assert told.replace("[", "#91;") in mermaid(workflow) and "[[" in mermaid(workflow)


@pytest.fixture
def simple(tmp_path: Path) -> Workflow:
    path = tmp_path / "w.yaml"
    path.write_text(SIMPLE)
    return load_workflow(str(path))


def test_boxes_conditions_and_ways_back(simple: Workflow) -> None:
    drawn = terminal(simple, COLUMNS)
    assert [line.split() for line in drawn.splitlines()] == [line.split() for line in DRAWN.splitlines()]


def test_what_is_too_wide_is_an_outline(simple: Workflow) -> None:
    drawn = terminal(simple, 30)
    assert "┌" not in drawn
    assert ["1", "build", "$", "make"] in [line.split() for line in drawn.splitlines()]
    assert all(len(line) <= 30 for line in drawn.splitlines())


def test_a_line_for_each_node(simple: Workflow) -> None:
    assert rows(simple) == [
        ["build", "command", "$ make", "", ""],
        ["good", "gate", "? approve: Is it good?", "build", "↺ build: failed & at most 3 visits"],
        ["mend", "noop", "noop", "build", "build: failed, timed out"],
    ]


@pytest.mark.parametrize("name", available_workflows())
def test_the_built_in_ones_fit_into_a_terminal(name: str) -> None:
    workflow = load_workflow(name)
    lines = terminal(workflow, COLUMNS).splitlines()
    assert all(len(line) <= COLUMNS for line in lines)
    assert all(any(node.node_id in line for line in lines) for node in workflow.nodes)
    assert "┌" in "".join(lines)


def test_mermaid_has_a_form_for_each_kind_and_dots_for_ways_back(simple: Workflow) -> None:
    assert mermaid(simple).splitlines() == [
        "flowchart TD",
        '    n0[/"build<br/>$ make"/]',
        '    n1{{"good<br/>? approve: Is it good?"}}',
        '    n2>"mend<br/>noop"]',
        "    n0 --> n1",
        '    n0 -->|"failed, timed out"| n2',
        '    n1 -.->|"failed #38; at most 3 visits"| n0',
    ]


def test_svg_stands_alone_and_shows_everything(simple: Workflow) -> None:
    drawing = ElementTree.fromstring(svg(simple))
    space = "{http://www.w3.org/2000/svg}"
    texts = {text.text for text in drawing.iter(f"{space}text")}
    assert {"build", "$ make", "good", "mend", "(1) build ▸ mend: failed, timed out"} <= texts
    assert len([path for path in drawing.iter(f"{space}path") if "link" in path.get("class", "")]) == 3
    assert "href" not in svg(simple) and "url(" not in svg(simple).replace("url(#", "")


def test_what_authors_write_stays_text() -> None:
    nodes = [
        Node(node_id="a", gate=GateNode(question=HOSTILE)),
        Node(node_id="b", command=CommandNode(argv=[HOSTILE]), depends_on=["a"]),
        Node(node_id="c", map=MapNode(over=HOSTILE, body=Node(noop=NoopNode()))),
    ]
    workflow = Workflow(name="w", description=HOSTILE, nodes=nodes)
    assert "\x1b" not in terminal(workflow, COLUMNS)
    assert ElementTree.fromstring(svg(workflow)).find(".//{*}script") is None
    for line in mermaid(workflow).splitlines()[1:]:
        assert MERMAID_NODE.fullmatch(line) or MERMAID_LINK.fullmatch(line), line


@st.composite
def _workflows(draw: st.DrawFn) -> Workflow:
    size = draw(st.integers(1, 30))
    nodes = [Node(node_id=f"n{number}", wait=WaitNode(seconds=60)) for number in range(size)]
    for number in range(1, size):
        before = draw(st.sets(st.integers(0, number - 1), max_size=4))
        nodes[number].depends_on.extend(f"n{each}" for each in sorted(before))
    return Workflow(name="w", nodes=nodes)


@settings(max_examples=40, deadline=None)
@given(workflow=_workflows(), columns=st.integers(30, 200))
def test_any_graph_fits_and_is_whole(workflow: Workflow, columns: int) -> None:
    lines = terminal(workflow, columns).splitlines()
    assert all(len(line) <= columns for line in lines)
    text = "\n".join(lines)
    assert all(re.search(rf"\b{node.node_id}\b", text) for node in workflow.nodes)
    ElementTree.fromstring(svg(workflow))
    links = [line for line in mermaid(workflow).splitlines() if MERMAID_LINK.fullmatch(line)]
    assert len(links) == len(Picture.of(workflow).links)


def test_the_largest_one_is_drawn_in_seconds() -> None:
    nodes = [Node(node_id="n0", noop=NoopNode())]
    nodes += [Node(node_id=f"n{n}", noop=NoopNode(), depends_on=[f"n{n // 2}"]) for n in range(1, 2_000)]
    began = time.process_time()
    drawn = terminal(Workflow(name="w", nodes=nodes), COLUMNS)
    assert drawn.count("\n") > 1_900
    assert time.process_time() - began < SECONDS_MAX
