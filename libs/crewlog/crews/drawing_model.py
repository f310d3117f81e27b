"""What is drawn of a workflow: a shape for each node and a link for each way between two, whatever it is drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crewlog.crews.plain import words_of, written_duration
from crewlog.domain.workflow.graph import Graph, Way
from crewlog.v1.node_pb2 import GateNodeKind, JoinMode, Outcome
from crewlog.v1.run_pb2 import Node, Workflow

DETAIL_CHARACTERS_MAX = 34
EACH_CHARACTERS_MAX = 26
"""Of a list, where what is done with its items stands on the same line."""
BACK = "↺"
_SUCCEEDED = frozenset({Outcome.OUTCOME_SUCCEEDED})


@dataclass(frozen=True, slots=True)
class Shape:
    """A node. `detail` says what it does; `notes` what else matters where it stands in the graph."""

    name: str
    kind: str
    detail: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """All ways between two nodes; `label` is empty where it is taken after every success."""

    source: str
    target: str
    label: str
    is_back: bool


@dataclass(frozen=True, slots=True)
class Picture:
    shapes: tuple[Shape, ...]
    links: tuple[Link, ...]

    @classmethod
    def of(cls, workflow: Workflow) -> Picture:
        """The workflow has to be valid."""
        graph = Graph.of(workflow)
        shapes = tuple(_shape(node, graph) for node in workflow.nodes)
        return cls(shapes, tuple(_links(graph.ways)))

    @property
    def numbers(self) -> dict[Link, int]:
        """What stands for a label where there is no room for it."""
        return {link: number for number, link in enumerate((link for link in self.links if link.label), 1)}

    @property
    def legend(self) -> list[str]:
        """Every label in full, by its number."""
        return [
            f"{numbered(number)} {link.source} {BACK if link.is_back else '▸'} {link.target}: {link.label}"
            for link, number in self.numbers.items()
        ]

    @property
    def forward(self) -> list[Link]:
        return [link for link in self.links if not link.is_back]

    @property
    def back(self) -> list[Link]:
        return [link for link in self.links if link.is_back]


def numbered(number: int) -> str:
    return f"({number})"


def cut(text: str, characters_max: int) -> str:
    """On one line, without what a terminal would obey."""
    line = "".join(each if each.isprintable() else "�" for each in " ".join(text.split()))
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def _links(ways: Sequence[Way]) -> list[Link]:
    labels: dict[tuple[str, str, bool], list[str]] = {}
    for way in ways:
        labels.setdefault((way.source, way.target, bool(way.visits_max)), []).append(label_of(way))
    return [Link(source, target, _joined(found), is_back) for (source, target, is_back), found in labels.items()]


def _joined(labels: Sequence[str]) -> str:
    return " or ".join(label or "succeeded" for label in dict.fromkeys(labels)) if any(labels) else ""


def label_of(way: Way) -> str:
    """Under which conditions it is taken."""
    words = {number: word.replace("_", " ") for word, number in words_of(Outcome.DESCRIPTOR).items()}
    parts = [", ".join(words[each] for each in sorted(way.on))] if way.on != _SUCCEEDED else []
    parts += [way.when] if way.when else []
    parts += [f"output has “{way.phrase}”"] if way.phrase else []
    parts += [f"priority {way.priority}"] if way.priority else []
    parts += [f"at most {way.visits_max} visits"] if way.visits_max else []
    return cut(" & ".join(parts), 200)


def _shape(node: Node, graph: Graph) -> Shape:
    kind = str(node.WhichOneof("kind"))
    body = node.map.body if node.HasField("map") else node
    notes = [cut(_each_of(node), DETAIL_CHARACTERS_MAX)] if node.HasField("map") else []
    notes += [_join(node)] if node.HasField("join") else []
    notes += ["only the first edge that applies"] if node.exclusive else []
    notes += ["goes on after a failure"] if node.continue_on_failure else []
    notes += [f"{node.retry.attempts_max} attempts"] if node.retry.attempts_max > 1 else []
    return Shape(node.node_id, kind, cut(detail_of(body), DETAIL_CHARACTERS_MAX), tuple(notes))


def detail_of(node: Node) -> str:
    """What the node does, in a few words."""
    return _DETAILS[str(node.WhichOneof("kind"))](node)


def _agent(node: Node) -> str:
    plans = ", plans" if node.agent.HasField("planning") else ""
    return f"agent {node.agent.role.name}{plans}"


def _gate(node: Node) -> str:
    kind = {number: word for word, number in words_of(GateNodeKind.DESCRIPTOR).items()}.get(node.gate.kind, "approve")
    return f"? {kind}: {node.gate.question}"


def _wait(node: Node) -> str:
    time = written_duration(node.wait.seconds) if node.wait.seconds else ""
    if not node.wait.signal:
        return f"wait {time}"
    return f"wait for signal {node.wait.signal}" + (f", at most {time}" if time else "")


def _map(node: Node) -> str:
    return f"{cut(_each_of(node), EACH_CHARACTERS_MAX)}: {detail_of(node.map.body)}"


def _each_of(node: Node) -> str:
    fan = node.map
    return f"for each of {fan.over}" if fan.over else f"{fan.times} times"


def _join(node: Node) -> str:
    word = {number: word for word, number in words_of(JoinMode.DESCRIPTOR).items()}.get(node.join.mode, "all decided")
    return f"joins {word}{f' {node.join.count}' if node.join.count else ''}"


_DETAILS: dict[str, Callable[[Node], str]] = {
    "agent": _agent,
    "command": lambda node: "$ " + " ".join(node.command.argv),
    "gate": _gate,
    "wait": _wait,
    "join_files": lambda node: "join the files",
    "map": _map,
    "workflow": lambda node: f"workflow {node.workflow.workflow.name}",
    "noop": lambda node: "noop",
}
