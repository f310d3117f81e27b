"""Which row each line between two layers turns in, so that lines of different sources never lie upon each other."""

from __future__ import annotations

from dataclasses import dataclass

from crewlog.crews.drawing_layers import Layout, Place

STRAIGHT = 0
ROWS_PER_TRACK = 2


@dataclass(frozen=True, slots=True)
class _Net:
    """All lines from one place to the next layer: one row for them all."""

    source: Place
    column: int
    targets: frozenset[int]

    @property
    def left(self) -> int:
        return min(self.column, *self.targets)

    @property
    def right(self) -> int:
        return max(self.column, *self.targets)

    @property
    def is_straight(self) -> bool:
        return self.targets == {self.column}

    def touches(self, other: _Net) -> bool:
        return self.left <= other.right + 1 and other.left <= self.right + 1


def tracks_of(layout: Layout, layer: int) -> tuple[dict[Place, int], int]:
    """By source the row in which it turns, from the row of the bottoms of the boxes; and how far it is to the tops of
    the next."""
    nets = _nets(layout, layer)
    placed: list[tuple[int, _Net]] = []
    for net in _in_order([net for net in nets if not net.is_straight]):
        above = [track for track, other in placed if _has_to_be_above(other, net)]
        track = max(above, default=0) + 1
        while any(track == taken and net.touches(other) for taken, other in placed):
            track += 1
        placed.append((track, net))
    rows = {net.source: track * ROWS_PER_TRACK for track, net in placed}
    last = max((track for track, _ in placed), default=0)
    return {**{net.source: STRAIGHT for net in nets}, **rows}, (last + 1) * ROWS_PER_TRACK + 1


def _nets(layout: Layout, layer: int) -> list[_Net]:
    targets: dict[Place, set[int]] = {}
    for source, target in layout.pieces(layer):
        targets.setdefault(source, set()).add(layout.centres[target])
    return [_Net(source, layout.centres[source], frozenset(found)) for source, found in targets.items()]


def _has_to_be_above(one: _Net, other: _Net) -> bool:
    """One comes down in the column in which the other goes on down."""
    return one.column in other.targets


def _in_order(nets: list[_Net]) -> list[_Net]:
    """Those that have to be above come first, as far as that is possible."""
    waiting, ordered = sorted(nets, key=lambda net: net.left), []
    while waiting:
        free = [net for net in waiting if not any(_has_to_be_above(o, net) for o in waiting if o is not net)]
        chosen = free[0] if free else waiting[0]
        waiting.remove(chosen)
        ordered.append(chosen)
    return ordered
