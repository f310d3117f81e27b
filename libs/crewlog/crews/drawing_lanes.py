"""How ways back are drawn: in lanes on the right of everything, and to and from there between the rows of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from crewlog.crews.drawing_model import Link

LANE = 40
CORNER = 8
INSET = 10
# Between two rows, from the upper one: what leaves; then what arrives, above the labels of the lower one.
LEAVING, ARRIVING, RUNS, APART = 8, 26, 4, 4

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """`row` is the number of the layer, `end` where its highest box ends, `place` the number of the box in it."""

    left: int
    top: int
    width: int
    height: int
    row: int
    end: int
    place: int
    is_last: bool

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Lane:
    """Of one way back. `number` counts the lanes from the left; others may share it further up or down."""

    link: Link
    source: Box
    target: Box
    number: int

    def meets(self, other: Lane) -> bool:
        return self.target.row <= other.source.row and other.target.row <= self.source.row

    def x(self, begin: int) -> int:
        """Where the lanes begin right of this column."""
        return begin + (self.number + 1) * LANE

    def points(self, begin: int) -> list[Point]:
        x = self.x(begin)
        return [*_leaving(self.source, x), *_arriving(self.target, x)]


def lanes_of(links: Sequence[Link], boxes: dict[str, Box]) -> list[Lane]:
    """Short ones on the left, each as far left as there is room."""
    lanes: list[Lane] = []
    for link in sorted(links, key=lambda link: boxes[link.source].row - boxes[link.target].row):
        lane = Lane(link, boxes[link.source], boxes[link.target], 0)
        taken = {other.number for other in lanes if other.meets(lane)}
        number = next(number for number in range(len(lanes) + 1) if number not in taken)
        lanes.append(Lane(link, lane.source, lane.target, number))
    return lanes


def _leaving(box: Box, x: int) -> list[Point]:
    if box.is_last:
        y = box.top + round(box.height * 0.65)
        return [(box.right, y), (x, y)]
    y = box.end + LEAVING + box.place % RUNS * APART
    return [(box.right - INSET, box.bottom), (box.right - INSET, y), (x, y)]


def _arriving(box: Box, x: int) -> list[Point]:
    if box.is_last:
        y = box.top + round(box.height * 0.35)
        return [(x, y), (box.right, y)]
    y = box.top - ARRIVING - box.place % RUNS * APART
    return [(x, y), (box.right - INSET, y), (box.right - INSET, box.top)]


def rounded(points: Sequence[Point]) -> str:
    """A path along these points, all of which are corners of right angles."""
    path = f"M{points[0][0]} {points[0][1]}"
    for (before, corner), (_, after) in pairwise(pairwise(points)):
        begin, end = _towards(corner, before), _towards(corner, after)
        path += f"L{begin[0]} {begin[1]}Q{corner[0]} {corner[1]} {end[0]} {end[1]}"
    return path + f"L{points[-1][0]} {points[-1][1]}"


def _towards(corner: Point, other: Point) -> Point:
    x, y = other[0] - corner[0], other[1] - corner[1]
    length = max(1, abs(x) + abs(y))
    share = min(CORNER, length // 2) / length
    return corner[0] + round(x * share), corner[1] + round(y * share)
