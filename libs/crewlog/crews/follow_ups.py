"""What is not said of a file because something that was refused before may be the reason: a node whose `id` is wrong is
missing wherever it is named, and a field with a misspelt name looks as if it had been left out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from crewlog.crews.findings import QUOTED_CHARACTERS_MAX
from crewlog.domain.workflow.references import Certain

WHOLE = "file"
_NODE = re.compile(r"nodes\[\d+\]")
_GATE = re.compile(r"(nodes\[\d+\]\.gate)\..*")
_IDS = re.compile(rf"{WHOLE}|nodes(\[\d+\](\.id)?)?")
_EDGES = re.compile(r"(back_)?edges.*|nodes\[\d+\]\.(depends_on|retry).*")
_MEANS_NOTHING_ELSE = frozenset(
    {"name", "description", "visits_max", "timeout", "on_failure", "branch", "files", "budget", "runs_on", "prompt"}
    | {"output_schema", "children", "children_max", "model", "cheaper_model", "tools", "limits"}
)
"""Fields of the file, and of nodes, without which everything else means the same."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A field that there is not. `within`: the path of what it stands in; `meant`: the field that comes next to it."""

    within: str
    meant: str

    @classmethod
    def of(cls, within: str, name: str, possible: Iterable[str]) -> Unknown:
        close = difflib.get_close_matches(name[:QUOTED_CHARACTERS_MAX], sorted(possible), n=1)
        return cls(within, close[0] if close else "")

    @property
    def path(self) -> str:
        """That of the field that was meant; empty where that is not known."""
        return f"{self.within}.{self.meant}" if self.within and self.meant else self.meant

    @property
    def is_vague(self) -> bool:
        """Whether everything that it stands in may mean something else."""
        is_outer = not self.within or bool(_NODE.fullmatch(self.within))
        return not (is_outer and self.meant in _MEANS_NOTHING_ELSE)


class FollowUps:
    """Of what was refused, by the paths."""

    def __init__(self, refused: Collection[str] = (), unknown: Collection[Unknown] = ()) -> None:
        paths = {*refused, *(each.path for each in unknown)} - {""}
        vague = {each.within for each in unknown if each.is_vague}
        # One field of a gate says what another one may be.
        self._refused = (paths | vague | {found[1] for found in map(_GATE.fullmatch, paths) if found}) - {""}
        self._around = {outer for path in paths for outer in _outwards(path)}
        has_nodes = not any(map(_IDS.fullmatch, paths))
        has_kinds = has_nodes and not any(map(_NODE.fullmatch, vague))
        has_edges = has_kinds and "" not in vague and not any(map(_EDGES.fullmatch, paths | vague))
        self.certain = Certain(nodes=has_nodes, kinds=has_kinds, edges=has_edges)

    def has(self, path: str) -> bool:
        """Whether a later finding there may follow: around, at, or within what was refused."""
        return WHOLE in self._refused or path in self._around or not self._refused.isdisjoint(_outwards(path))


def _outwards(path: str) -> Iterator[str]:
    """The path, and everything around it but the whole file."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
