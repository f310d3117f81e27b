"""The geometry of drawings as SVG: lines pass no box, labels lie on nothing, and all of it is within the picture."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest
from crewlog.crews import available_workflows, load_workflow
from crewlog.crews.drawing_svg import svg
from crewlog.domain.workflow.validation import violations_of
from crewlog.v1.node_pb2 import Edge, GateNode, WaitNode
from crewlog.v1.run_pb2 import Node, Workflow
from hypothesis import given, settings
from hypothesis import strategies as st

SPACE = "{http://www.w3.org/2000/svg}"
STEPS = 24
# Of the font that is the widest among those that the drawing names.
CHARACTER, LABEL_CHARACTER, LABEL_ASCENT = 7.83, 6.63, 9
Point = tuple[float, float]


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Area) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Area) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class Drawn:
    """What a browser would show."""

    view: Area
    boxes: list[Area]
    lines: list[list[Point]]
    texts: list[Area]
    labels: list[Area]

    @classmethod
    def of(cls, workflow: Workflow) -> Drawn:
        root = ElementTree.fromstring(svg(workflow))
        left, top, width, height = map(float, root.attrib["viewBox"].split())
        texts = [each for each in root.iter(f"{SPACE}text") if each.get("class") != "label"]
        return cls(
            Area(left, top, left + width, top + height),
            [_rect(each) for each in root.iter(f"{SPACE}rect") if each.get("rx")],
            [[*_points(each.attrib["d"])] for each in root.iter(f"{SPACE}path") if "link" in each.get("class", "")],
            [_text(each, CHARACTER) for each in texts],
            [_text(each, LABEL_CHARACTER) for each in root.iter(f"{SPACE}text") if each.get("class") == "label"],
        )


def _rect(rect: ElementTree.Element) -> Area:
    left, top, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
    return Area(left, top, left + width, top + height)


def _text(text: ElementTree.Element, character: float) -> Area:
    left, base = float(text.attrib["x"]), float(text.attrib["y"])
    columns = sum(2 if ord(each) > 0x2E80 else 1 for each in text.text or "")
    return Area(left, base - LABEL_ASCENT, left + columns * character, base)


def _points(path: str) -> Iterator[Point]:
    """Points along the path; of a curve as many that none is far from the next."""
    at: Point = (0, 0)
    for command, numbers in re.findall(r"([MLQC])([^MLQC]*)", path):
        given = [float(each) for each in numbers.split()]
        corners = [at, *zip(given[::2], given[1::2], strict=True)]
        at = corners[-1]
        if command != "M":
            yield from (_on(corners, step / STEPS) for step in range(STEPS + 1))


def _on(corners: list[Point], share: float) -> Point:
    """De Casteljau."""
    while len(corners) > 1:
        corners = [
            (x1 + (x2 - x1) * share, y1 + (y2 - y1) * share) for (x1, y1), (x2, y2) in itertools.pairwise(corners)
        ]
    return corners[0]


def _within(box: Area, line: list[Point]) -> bool:
    """More than its edge, where lines begin and end."""
    return any(box.left + 1 < x < box.right - 1 and box.top + 1 < y < box.bottom - 1 for x, y in line)


def _check(drawn: Drawn) -> None:
    assert not [(box, line) for box in drawn.boxes for line in drawn.lines if _within(box, line)]
    assert not [pair for pair in itertools.combinations(drawn.boxes, 2) if pair[0].overlaps(pair[1])]
    assert not [pair for pair in itertools.combinations(drawn.labels, 2) if pair[0].overlaps(pair[1])]
    assert not [(box, label) for box in drawn.boxes for label in drawn.labels if box.overlaps(label)]
    assert all(any(box.holds(text) for box in drawn.boxes) for text in drawn.texts)
    points = [Area(x, y, x, y) for line in drawn.lines for x, y in line]
    assert all(drawn.view.holds(each) for each in [*drawn.boxes, *drawn.labels, *points])


@pytest.mark.parametrize("name", available_workflows())
def test_the_built_in_ones_are_drawn_without_overlaps(name: str) -> None:
    workflow = load_workflow(name)
    drawn = Drawn.of(workflow)
    assert len(drawn.boxes) == len(workflow.nodes)
    _check(drawn)


@st.composite
def _workflows(draw: st.DrawFn) -> Workflow:
    """Boxes of several sizes, in layers of several, and ways back from and to any of them."""
    nodes: list[Node] = []
    edges: list[Edge] = []
    earlier: list[set[int]] = []
    for number in range(draw(st.integers(1, 12))):
        before = draw(st.sets(st.integers(0, number - 1), max_size=5)) if number else set()
        earlier.append(before.union({number}, *(earlier[each] for each in before)))
        nodes.append(_node(number, draw(st.integers(1, 40)), draw(st.booleans())))
        edges += [_edge(each, number, draw(st.sampled_from(["", "task.visit < 2"]))) for each in sorted(before)]
    ways_back = [(source, target) for source, targets in enumerate(earlier) for target in sorted(targets)]
    for source, target in draw(st.lists(st.sampled_from(ways_back), max_size=5, unique=True)):
        edges.append(_edge(source, target, f"task.visit < {target + 2}", visits_max=2))
    return Workflow(name="w", nodes=nodes, edges=edges)


def _node(number: int, characters: int, is_wide: bool) -> Node:
    if is_wide:
        return Node(node_id=f"n{number}", gate=GateNode(question="問" * characters), exclusive=True)
    return Node(node_id=f"n{number}", wait=WaitNode(seconds=60))


def _edge(source: int, target: int, when: str = "", visits_max: int = 0) -> Edge:
    return Edge(to=f"n{target}", when=when, visits_max=visits_max, **{"from": f"n{source}"})  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(workflow=_workflows())
def test_any_graph_is_drawn_without_overlaps(workflow: Workflow) -> None:
    assert violations_of(workflow) == {}
    _check(Drawn.of(workflow))
