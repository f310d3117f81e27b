"""Draws a workflow as one SVG file that needs nothing else: a colour for each kind of node, dashed lines for ways
back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import pairwise

from crewlog.crews.drawing_layers import Layout, Place, layout_of
from crewlog.crews.drawing_model import Link, Picture, Shape, cut
from crewlog.v1.run_pb2 import Workflow

CHARACTER, LINE, PADDING, GAP, BETWEEN, MARGIN = 7.3, 17, 12, 36, 64, 24
LABEL_CHARACTERS_MAX = 48
BACK_LANE = 26

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


class _Drawing:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._shapes = {shape.name: shape for shape in picture.shapes}
        widths = {shape.name: _width(shape) for shape in picture.shapes}
        self._widths: Mapping[str, int] = widths
        self._layout: Layout = layout_of(picture, widths, GAP)
        self._tops = self._rows()

    def text(self, title: str) -> str:
        labels = max((len(cut(link.label, LABEL_CHARACTERS_MAX)) for link in self._picture.links), default=0)
        lanes = len(self._picture.back) * BACK_LANE
        width = self._layout.width + lanes + round(labels * 6.8) + 2 * MARGIN
        height = self._tops[-1] + 2 * MARGIN
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="{-MARGIN} {-MARGIN} {width} {height}">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f"<defs>{_ARROW.format('on', '#666')}{_ARROW.format('back', '#b03030')}</defs>",
            f'<rect x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}" fill="#fff"/>',
            *self._links(),
            *(line for shape in self._picture.shapes for line in self._node(shape)),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _rows(self) -> list[int]:
        """Where each layer begins, and where the last one ends."""
        tops = [0]
        for layer in self._layout.layers:
            height = max(_height(self._shapes[place]) for place in layer if isinstance(place, str))
            tops.append(tops[-1] + height + BETWEEN)
        tops[-1] -= BETWEEN
        return tops

    def _layer(self, place: Place) -> int:
        return next(number for number, layer in enumerate(self._layout.layers) if place in layer)

    def _node(self, shape: Shape) -> Iterator[str]:
        left, top = self._layout.centres[shape.name] - self._widths[shape.name] / 2, self._top(shape.name)
        width, height, (fill, stroke) = self._widths[shape.name], _height(shape), _COLOURS[shape.kind]
        corner = 16 if shape.kind in ("wait", "join_files") else 4
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width}" height="{height}" rx="{corner}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        )
        for number, line in enumerate((shape.name, shape.detail, *shape.notes)):
            kind = ' class="name"' if number == 0 else ""
            at = f'x="{left + PADDING:.0f}" y="{top + PADDING + (number + 0.7) * LINE:.0f}"'
            yield f"<text {at}{kind}>{escape(line)}</text>"

    def _top(self, place: Place) -> int:
        return self._tops[self._layer(place)]

    def _links(self) -> Iterator[str]:
        for link in self._picture.forward:
            yield from self._forward(link)
        for number, link in enumerate(self._picture.back):
            yield from self._back(link, number)

    def _forward(self, link: Link) -> Iterator[str]:
        chain = self._layout.chains[link.source, link.target]
        path = ""
        for upper, lower in pairwise(chain):
            x1, y1 = self._layout.centres[upper], self._bottom(upper)
            x2, y2 = self._layout.centres[lower], self._top(lower)
            start = f"M{x1} {y1}" if not path else f" L{x1} {y1}"
            path += f"{start} C{x1} {(y1 + y2) // 2} {x2} {(y1 + y2) // 2} {x2} {y2}"
        yield f'<path class="link" d="{path}" marker-end="url(#on)"/>'
        if link.label:
            yield _label(self._layout.centres[chain[-1]] + 8, self._top(link.target) - 14, link.label)

    def _bottom(self, place: Place) -> int:
        if isinstance(place, str):
            return self._top(place) + _height(self._shapes[place])
        return self._tops[self._layer(place) + 1] - BETWEEN

    def _back(self, link: Link, number: int) -> Iterator[str]:
        """Around the right side, each in a lane of its own."""
        lane = self._layout.width + (number + 1) * BACK_LANE
        x1, y1 = self._side(link.source, 0.65)
        x2, y2 = self._side(link.target, 0.35)
        path = f"M{x1} {y1} C{lane} {y1} {lane} {y1} {lane} {(y1 + y2) // 2} C{lane} {y2} {lane} {y2} {x2} {y2}"
        yield f'<path class="link back" d="{path}" marker-end="url(#back)"/>'
        yield _label(lane + 6, (y1 + y2) // 2, link.label)

    def _side(self, name: str, share: float) -> tuple[int, int]:
        right = self._layout.centres[name] + self._widths[name] / 2
        return round(right), round(self._top(name) + _height(self._shapes[name]) * share)


def _label(x: int, y: int, text: str) -> str:
    shown = escape(cut(text, LABEL_CHARACTERS_MAX))
    return f'<text class="label" x="{x}" y="{y}">{shown}<title>{escape(text)}</title></text>'


def _width(shape: Shape) -> int:
    return round(max(len(line) for line in (shape.name, shape.detail, *shape.notes)) * CHARACTER * 1.1) + 2 * PADDING


def _height(shape: Shape) -> int:
    return (2 + len(shape.notes)) * LINE + 2 * PADDING
