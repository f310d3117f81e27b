"""Where everything stands in a drawing: layers from top to bottom, few crossings, straight lines where possible.

A link over several layers goes through *bends*, one in each layer between. Units are those of the given widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from crewlog.crews.drawing_model import Link, Picture

SWEEPS = 8
Bend = tuple[str, str, int]
Place = str | Bend


@dataclass(frozen=True, slots=True)
class Layout:
    """`centres` are columns; `chains` lead from source to target, through the bends."""

    layers: tuple[tuple[Place, ...], ...]
    centres: Mapping[Place, int]
    chains: Mapping[tuple[str, str], tuple[Place, ...]]
    width: int

    def pieces(self, layer: int) -> list[tuple[Place, Place]]:
        """What leads from one layer to the next."""
        above = set(self.layers[layer])
        pairs = (pair for chain in self.chains.values() for pair in pairwise(chain))
        return [pair for pair in pairs if pair[0] in above]


def layout_of(picture: Picture, widths: Mapping[str, int], gap: int) -> Layout:
    depth = _depths([shape.name for shape in picture.shapes], picture.forward)
    layers: list[list[Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for shape in picture.shapes:
        layers[depth[shape.name]].append(shape.name)
    chains: dict[tuple[str, str], tuple[Place, ...]] = {}
    for link in picture.forward:
        bends: list[Place] = [
            (link.source, link.target, at) for at in range(depth[link.source] + 1, depth[link.target])
        ]
        for at, bend in enumerate(bends, depth[link.source] + 1):
            layers[at].append(bend)
        chains[link.source, link.target] = (link.source, *bends, link.target)
    _order(layers, chains)
    centres, width = _centres(layers, chains, widths, gap)
    return Layout(tuple(tuple(layer) for layer in layers), centres, chains, width)


def _depths(names: Sequence[str], links: Sequence[Link]) -> dict[str, int]:
    """The longest way from a node that nothing leads to."""
    after: dict[str, list[str]] = {name: [] for name in names}
    unmet = dict.fromkeys(names, 0)
    for link in links:
        after[link.source].append(link.target)
        unmet[link.target] += 1
    depth = dict.fromkeys(names, 0)
    free = [name for name in names if not unmet[name]]
    while free:
        name = free.pop()
        for other in after[name]:
            depth[other] = max(depth[other], depth[name] + 1)
            unmet[other] -= 1
            if not unmet[other]:
                free.append(other)
    return depth


def _order(layers: list[list[Place]], chains: Mapping[tuple[str, str], tuple[Place, ...]]) -> None:
    above, below = _neighbours(chains)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        numbers = range(1, len(layers)) if is_down else range(len(layers) - 2, -1, -1)
        for number in numbers:
            others = layers[number - 1 if is_down else number + 1]
            at = {place: index for index, place in enumerate(others)}
            _sort_by_neighbours(layers[number], above if is_down else below, at)


def _sort_by_neighbours(layer: list[Place], neighbours: Mapping[Place, list[Place]], at: Mapping[Place, int]) -> None:
    keys: dict[Place, float] = {}
    for index, place in enumerate(layer):
        found = [at[other] for other in neighbours.get(place, ())]
        keys[place] = sum(found) / len(found) if found else float(index)
    layer.sort(key=keys.__getitem__)


def _neighbours(
    chains: Mapping[tuple[str, str], tuple[Place, ...]],
) -> tuple[dict[Place, list[Place]], dict[Place, list[Place]]]:
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for chain in chains.values():
        for upper, lower in pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _centres(
    layers: Sequence[Sequence[Place]],
    chains: Mapping[tuple[str, str], tuple[Place, ...]],
    widths: Mapping[str, int],
    gap: int,
) -> tuple[dict[Place, int], int]:
    above, below = _neighbours(chains)
    halves: dict[Place, float] = {place: _half(place, widths) for layer in layers for place in layer}
    at: dict[Place, float] = {}
    for layer in layers:
        at.update(_apart(layer, dict.fromkeys(layer, 0.0), halves, gap))
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        for layer in layers[1:] if is_down else reversed(layers[:-1]):
            near = above if is_down else below
            wanted = {place: _mean([at[other] for other in near.get(place, ())], at[place]) for place in layer}
            at.update(_apart(layer, wanted, halves, gap))
    left = min(at[place] - halves[place] for place in at)
    centres = {place: round(at[place] - left) for place in at}
    return centres, max(centres[place] + int(halves[place]) + 1 for place in at)


def _half(place: Place, widths: Mapping[str, int]) -> float:
    return widths[place] / 2 if isinstance(place, str) else 0.5


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _apart(
    layer: Sequence[Place], wanted: Mapping[Place, float], halves: Mapping[Place, float], gap: int
) -> dict[Place, float]:
    """As near as possible to where each is wanted, in this order and without overlaps: neighbours that would overlap
    become one group at the mean of their wishes."""
    offsets: list[float] = []
    for number, place in enumerate(layer):
        before = offsets[-1] + halves[layer[number - 1]] + gap + halves[place] if number else 0.0
        offsets.append(before)
    groups: list[list[float]] = []
    for place, offset in zip(layer, offsets, strict=True):
        groups.append([wanted[place] - offset, 1])
        while len(groups) > 1 and groups[-2][0] >= groups[-1][0]:
            value, size = groups.pop()
            groups[-1] = [(groups[-1][0] * groups[-1][1] + value * size) / (groups[-1][1] + size), groups[-1][1] + size]
    starts = [value for value, size in groups for _ in range(int(size))]
    return {place: start + offset for place, start, offset in zip(layer, starts, offsets, strict=True)}
