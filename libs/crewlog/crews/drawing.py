"""Draws a workflow for a terminal: boxes in layers, the conditions of edges beside them, ways back in the box that they
lead from, and below everything that is conditional in full. What is too wide becomes an outline."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from crewlog.crews.drawing_canvas import Canvas
from crewlog.crews.drawing_layers import Layout, Place, layout_of
from crewlog.crews.drawing_model import BACK, Link, Picture, Shape, cut, detail_of, label_of, numbered
from crewlog.crews.drawing_tracks import tracks_of
from crewlog.domain.workflow.graph import Graph
from crewlog.v1.run_pb2 import Workflow

GAP = 3
BOX_CHARACTERS = (40, 24, 16)
LABEL_CHARACTERS_MIN = 5
DESCRIPTION_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Box:
    """The lines of a node, in a frame."""

    lines: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(map(len, self.lines)) + 4

    @property
    def height(self) -> int:
        return len(self.lines) + 2


def terminal(workflow: Workflow, columns: int) -> str:
    """Lines of at most so many columns."""
    picture = Picture.of(workflow)
    legend = [cut(line, columns) for line in picture.legend]
    head = [cut(workflow.name, columns), *_paragraph(workflow.description, columns), ""]
    return "\n".join([*head, _body(picture, picture.numbers, columns), *(["", *legend] if legend else [])])


def rows(workflow: Workflow) -> list[list[str]]:
    """A line for each node: its name, what it is and does, after which nodes, and under which conditions."""
    graph = Graph.of(workflow)
    found = []
    for node in workflow.nodes:
        incoming = graph.incoming[node.node_id]
        back = [f"{BACK} {way.target}: {label_of(way)}" for way in graph.back.get(node.node_id, ())]
        conditions = [f"{way.source}: {label_of(way)}" for way in incoming if label_of(way)]
        kind = str(node.WhichOneof("kind")).removesuffix("_files")
        after = ", ".join(dict.fromkeys(way.source for way in incoming))
        found.append(
            [node.node_id, kind, cut(detail_of(node), 56), cut(after, 40), cut("; ".join([*conditions, *back]), 80)]
        )
    return found


def _body(picture: Picture, numbers: Mapping[Link, int], columns: int) -> str:
    for characters in BOX_CHARACTERS:
        boxes = {shape.name: _box(shape, picture, numbers, characters) for shape in picture.shapes}
        layout = layout_of(picture, {name: box.width for name, box in boxes.items()}, GAP)
        if layout.width <= columns:
            return _Drawing(picture, numbers, layout, boxes).text(columns)
    return _outline(picture, numbers, columns)


def _box(shape: Shape, picture: Picture, numbers: Mapping[Link, int], characters: int) -> Box:
    back = [
        f"{BACK} back to {link.target} {numbered(numbers[link])}" for link in picture.back if link.source == shape.name
    ]
    return Box((shape.name, *(cut(line, characters) for line in (shape.detail, *shape.notes, *back))))


class _Drawing:
    """One drawing as it grows, layer by layer."""

    def __init__(self, picture: Picture, numbers: Mapping[Link, int], layout: Layout, boxes: Mapping[str, Box]) -> None:
        self._links = {(link.source, link.target): link for link in picture.forward if link in numbers}
        self._numbers = numbers
        self._layout = layout
        self._boxes = boxes
        self._canvas = Canvas()
        self._labels: dict[tuple[int, int], list[Link]] = {}

    def text(self, columns: int) -> str:
        top = 0
        for number, layer in enumerate(self._layout.layers):
            bottom = top + max(self._boxes[place].height for place in layer if isinstance(place, str)) - 1
            for place in layer:
                self._draw_place(place, top, bottom)
            top = bottom + self._draw_pieces(number, bottom)
        for (row, column), links in self._labels.items():
            self._write_label(links, row, column, columns)
        return self._canvas.text()

    def _draw_place(self, place: Place, top: int, bottom: int) -> None:
        column = self._layout.centres[place]
        if not isinstance(place, str):
            self._canvas.down(column, top - 1, bottom)
            return
        box = self._boxes[place]
        left = column - box.width // 2
        self._draw_box(box, top, left)
        if any(chain[0] == place for chain in self._layout.chains.values()):
            self._canvas.down(column, top + box.height - 1, bottom)

    def _draw_box(self, box: Box, top: int, left: int) -> None:
        right, bottom = left + box.width - 1, top + box.height - 1
        for row in (top, bottom):
            self._canvas.across(row, left, right)
        for column in (left, right):
            self._canvas.down(column, top, bottom)
        for number, line in enumerate(box.lines, 1):
            self._canvas.write(top + number, left + 2, line)

    def _draw_pieces(self, number: int, bottom: int) -> int:
        """How far it is from here to the next layer."""
        if number + 1 == len(self._layout.layers):
            return 0
        tracks, height = tracks_of(self._layout, number)
        for source, target in self._layout.pieces(number):
            self._draw_piece(source, target, bottom, bottom + (tracks[source] or 1), bottom + height)
        return height

    def _draw_piece(self, source: Place, target: Place, bottom: int, turn: int, top: int) -> None:
        start, end = self._layout.centres[source], self._layout.centres[target]
        self._canvas.down(start, bottom, turn)
        self._canvas.across(turn, start, end)
        self._canvas.down(end, turn, top - 1)
        if isinstance(target, str):
            self._canvas.write(top - 1, end, "▼")
            link = self._links.get((source if isinstance(source, str) else source[0], target))
            if link is not None:
                self._labels.setdefault((turn + 1 if start != end else top - 2, end + 2), []).append(link)

    def _write_label(self, links: list[Link], row: int, column: int, columns: int) -> None:
        """The numbers in any case, and as much of the label as fits."""
        number = "".join(numbered(self._numbers[link]) for link in links)
        labels = {link.label for link in links}
        whole = f"{number} {labels.pop()}" if len(labels) == 1 else number
        room = self._canvas.room(row, column, columns) - 1
        if room >= min(len(whole), len(number) + LABEL_CHARACTERS_MIN):
            self._canvas.write(row, column, cut(whole, room))
        else:
            self._canvas.write(row, column - 1, number)


def _outline(picture: Picture, numbers: Mapping[Link, int], columns: int) -> str:
    """A line for each node, in an order in which each comes after those before it."""
    layout = layout_of(picture, {shape.name: 1 for shape in picture.shapes}, 1)
    shapes = {shape.name: shape for shape in picture.shapes}
    width = max(map(len, shapes))
    lines = []
    for number, layer in enumerate(layout.layers, 1):
        for name in (place for place in layer if isinstance(place, str)):
            line = f"{number:>3}  {name.ljust(width)}  {_outlined(shapes[name], picture, numbers)}"
            lines.append(line if len(line) <= columns else line[: columns - 1] + "…")
    return "\n".join(lines)


def _outlined(shape: Shape, picture: Picture, numbers: Mapping[Link, int]) -> str:
    before = [link for link in picture.forward if link.target == shape.name]
    named = [link.source + (f" {numbered(numbers[link])}" if link in numbers else "") for link in before]
    back = [f"{BACK} {link.target} {numbered(numbers[link])}" for link in picture.back if link.source == shape.name]
    after = [f"◂ {', '.join(named)}"] if named else []
    return "  ".join([shape.detail, *shape.notes, *after, *back])


def _paragraph(text: str, columns: int) -> list[str]:
    return textwrap.wrap(cut(text, DESCRIPTION_CHARACTERS_MAX), columns)
