"""Draws a workflow as one SVG file that needs nothing else: a colour for each kind of node, dashed lines for ways
back, and below everything that is conditional in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from unicodedata import east_asian_width

from crewlog.crews.drawing_lanes import Box, Lane, lanes_of, rounded
from crewlog.crews.drawing_layers import Layout, Place, layout_of
from crewlog.crews.drawing_model import Link, Picture, Shape, cut, numbered
from crewlog.v1.run_pb2 import Workflow

CHARACTER, LABEL_CHARACTER, LINE, PADDING, GAP, BETWEEN, MARGIN = 8.03, 6.8, 17, 12, 36, 64, 40
PORT, BENT = 40, 48
LABEL_CHARACTERS_MAX = 48
LEGEND_CHARACTERS_MAX = 120

_COLOURS = {
    "agent": ("#e7f0fd", "#3b6fb6"),
    "command": ("#eef3e6", "#5d7f2b"),
    "gate": ("#fff4d6", "#b5860b"),
    "wait": ("#f1ecfa", "#7754ad"),
    "join_files": ("#f0f0f0", "#707070"),
    "map": ("#e0f4f3", "#22807a"),
    "workflow": ("#fdeae4", "#b5532f"),
    "noop": ("#fafafa", "#a0a0a0"),
}
_STYLE = (
    "text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#222}"
    ".name{font-weight:bold}.label{font-size:11px;fill:#444;paint-order:stroke;stroke:#fff;stroke-width:4px}"
    ".link{fill:none;stroke:#666;stroke-width:1.4}.back{stroke:#b03030;stroke-dasharray:5 4}"
)
_ARROW = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="{1}"/></marker>'
)


def svg(workflow: Workflow) -> str:
    return _Drawing(Picture.of(workflow)).text(workflow.name)


@dataclass(frozen=True, slots=True)
class _Label:
    x: int
    y: int
    words: str

    @property
    def right(self) -> int:
        return self.x + round(_columns(self.words) * LABEL_CHARACTER)

    @property
    def text(self) -> str:
        return f'<text class="label" x="{self.x}" y="{self.y}">{escape(self.words)}</text>'


class _Drawing:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._numbers = picture.numbers
        self._arriving = _arriving(picture)
        self._heights = {shape.name: _height(shape) for shape in picture.shapes}
        widths = {shape.name: _width(shape, self._arriving.get(shape.name, ())) for shape in picture.shapes}
        self._layout: Layout = layout_of(picture, widths, GAP)
        self._rows = self._stacked()
        self._boxes = dict(self._placed(widths))
        self._lanes = lanes_of(picture.back, self._boxes)

    def text(self, title: str) -> str:
        links = list(self._links())
        legend = [*self._legend()]
        labels = [*(label for _, label in links if label), *legend]
        width = max(self._layout.width, *(label.right for label in labels), 0) + 2 * MARGIN
        height = (legend[-1].y if legend else self._rows[-1][1]) + 2 * MARGIN
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="{-MARGIN} {-MARGIN} {width} {height}">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f"<defs>{_ARROW.format('on', '#666')}{_ARROW.format('back', '#b03030')}</defs>",
            f'<rect x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}" fill="#fff"/>',
            *(path for path, _ in links),
            *(line for shape in self._picture.shapes for line in _node(shape, self._boxes[shape.name])),
            *(label.text for label in labels),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _stacked(self) -> list[tuple[int, int]]:
        """Where each layer begins and ends."""
        rows, top = [], 0
        for layer in self._layout.layers:
            rows.append((top, top + max(self._heights[place] for place in layer if isinstance(place, str))))
            top = rows[-1][1] + BETWEEN
        return rows

    def _placed(self, widths: Mapping[str, int]) -> Iterator[tuple[str, Box]]:
        for row, layer in enumerate(self._layout.layers):
            names = [place for place in layer if isinstance(place, str)]
            for place, name in enumerate(names):
                width, height, (top, end) = widths[name], self._heights[name], self._rows[row]
                left = self._layout.centres[name] - width // 2
                yield name, Box(left, top, width, height, row, end, place, is_last=name == names[-1])

    def _legend(self) -> Iterator[_Label]:
        for number, line in enumerate(self._picture.legend):
            yield _Label(0, self._rows[-1][1] + BETWEEN + number * LINE, cut(line, LEGEND_CHARACTERS_MAX))

    def _links(self) -> Iterator[tuple[str, _Label | None]]:
        """Lines, and what stands beside them."""
        for links in self._arriving.values():
            yield from self._arrivals(links)
        yield from map(self._back, self._lanes)

    def _arrivals(self, links: Sequence[Link]) -> Iterator[tuple[str, _Label | None]]:
        """Side by side, from left to right as they come from above."""
        box = self._boxes[links[0].target]
        apart = min(PORT, (box.width - 2 * PADDING) // len(links))
        x = self._layout.centres[links[0].target] - apart * (len(links) - 1) // 2
        for number, link in enumerate(sorted(links, key=lambda link: self._layout.centres[self._chain(link)[-2]])):
            is_last = number + 1 == len(links)
            room = (box.right + GAP // 2 if is_last else x + apart) - x - PADDING
            yield self._forward(link, x), self._beside(link, x + 8, box.top - 5, room / LABEL_CHARACTER)
            x += apart

    def _chain(self, link: Link) -> tuple[Place, ...]:
        return self._layout.chains[link.source, link.target]

    def _forward(self, link: Link, end: int) -> str:
        """Straight down past the boxes of a row, and sideways only between two rows."""
        source = self._boxes[link.source]
        x, path = self._layout.centres[link.source], f"M{self._layout.centres[link.source]} {source.bottom}"
        for row, place in enumerate(self._chain(link)[1:], source.row):
            to = end if place == link.target else self._layout.centres[place]
            begin = self._rows[row][1]
            path += f"L{x} {begin}C{x} {begin + BENT} {to} {begin + BETWEEN - BENT} {to} {begin + BETWEEN}"
            x = to
        return f'<path class="link" d="{path}" marker-end="url(#on)"/>'

    def _back(self, lane: Lane) -> tuple[str, _Label | None]:
        points = lane.points(self._layout.width)
        y = sum(y for x, y in points if x == lane.x(self._layout.width)) // 2
        is_free = all(other.number <= lane.number for other in self._lanes if other.meets(lane))
        label = self._beside(lane.link, lane.x(self._layout.width) + 6, y + 4, LABEL_CHARACTERS_MAX if is_free else 0)
        return f'<path class="link back" d="{rounded(points)}" marker-end="url(#back)"/>', label

    def _beside(self, link: Link, x: int, y: int, characters: float) -> _Label | None:
        """The number and the label, or the number alone."""
        if link not in self._numbers:
            return None
        number = numbered(self._numbers[link])
        whole = f"{number} {link.label}"
        return _Label(x, y, whole if _columns(whole) <= characters else number)


def _node(shape: Shape, box: Box) -> Iterator[str]:
    fill, stroke = _COLOURS[shape.kind]
    corner = 16 if shape.kind in ("wait", "join_files") else 4
    yield (
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}" rx="{corner}" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
    )
    for number, line in enumerate((shape.name, shape.detail, *shape.notes)):
        kind = ' class="name"' if number == 0 else ""
        at = f'x="{box.left + PADDING}" y="{box.top + PADDING + (number + 0.7) * LINE:.0f}"'
        yield f"<text {at}{kind}>{escape(line)}</text>"


def _arriving(picture: Picture) -> dict[str, list[Link]]:
    arriving: dict[str, list[Link]] = {}
    for link in picture.forward:
        arriving.setdefault(link.target, []).append(link)
    return arriving


def _width(shape: Shape, arriving: Sequence[Link]) -> int:
    """With room for the numbers of what arrives."""
    ports = len(arriving) * PORT if any(link.label for link in arriving) else 0
    text = max(map(_columns, (shape.name, shape.detail, *shape.notes))) * CHARACTER
    return round(max(text, ports)) + 2 * PADDING


def _height(shape: Shape) -> int:
    return (2 + len(shape.notes)) * LINE + 2 * PADDING


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)
