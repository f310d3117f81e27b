"""Which fields `run` and tasks have, and the results whose shape is always the same: an expression that names another
one would fail each time, so the workflow is refused. Results of agents, signals, maps and child runs may be anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from crewlog.domain.workflow.expression_words import Call
from crewlog.domain.workflow.expressions import Expression
from crewlog.v1.run_pb2 import Node

TRUE_OR_FALSE, NUMBER, TEXT, LIST, ANYTHING = "true or false", "a number", "a text", "a list", ""

Shape = str | Mapping[str, "Shape"]

_RUN: Shape = {"id": TEXT, "project": TEXT, "workflow": TEXT, "input": TEXT}
_FAILURE: Shape = {"reason": TEXT, "message": TEXT}
_RESULTS: Mapping[str, Shape] = {
    "map": LIST,
    "command": {
        "exit_code": NUMBER,
        "output": TEXT,
        "report": TEXT,
        "output_cut_from_bytes": NUMBER,
        "report_cut_from_bytes": NUMBER,
    },
    "gate": {"choice": TEXT, "text": TEXT, "answered_by": TEXT, "is_expired": TRUE_OR_FALSE},
}
_COMPARED = {NUMBER: "{} == 0", TEXT: '{} == "..."', LIST: "size({}) > 0"}
_GIVES = {"lines": LIST}


@dataclass(frozen=True, slots=True)
class Known:
    """What an expression sees: the nodes, and in the condition of an edge the one that it comes from."""

    nodes: Mapping[str, Node]
    source: Node | None = None

    def unknown(self, paths: Sequence[tuple[str, ...]]) -> Iterator[str]:
        """What is wrong with the fields that are named."""
        for path in paths:
            shape, names = self._shape(path)
            yield from _wrong(shape, path, names)

    def no_text(self, calls: Sequence[Call]) -> Iterator[str]:
        """What is wrong with what our functions are given, where it is nothing but a field."""
        for call in calls:
            shape = self._shape_of(call.path)
            if shape not in (TEXT, ANYTHING):
                fields = f"; it has {', '.join(shape)}" if isinstance(shape, Mapping) else ""
                yield f"gives {'.'.join(call.path)}, {_said(shape)}, to {call.function}(), which needs a text{fields}"

    def no_condition(self, condition: Expression) -> str:
        """Why it cannot be one, where it is nothing but a field that is neither true nor false; empty else."""
        shape = self._given(condition)
        if isinstance(shape, Mapping):
            return f"gives several fields: {', '.join(shape)}; compare one of them"
        return f"gives {shape}; compare it: {_COMPARED[shape].format(condition.text)}" if shape in _COMPARED else ""

    def no_list(self, over: Expression) -> str:
        """Why a map cannot go through it, where it is nothing but a field that is no list; empty else."""
        shape = self._given(over)
        if shape == TEXT:
            return f"gives a text, and a map goes through a list: lines({over.text}), or parse_json({over.text})"
        if isinstance(shape, Mapping):
            return f"gives several fields: {', '.join(shape)}; a map goes through a list, such as lines() of a text"
        return "" if shape in (LIST, ANYTHING) else f"gives {shape}, and a map goes through a list"

    def _given(self, expression: Expression) -> Shape:
        """What the whole of it gives, as far as that is known."""
        if expression.is_path:
            return self._shape_of(expression.paths[0])
        return _GIVES.get(expression.gives, ANYTHING)

    def _shape_of(self, path: tuple[str, ...]) -> Shape:
        """Of what the whole path names."""
        shape, names = self._shape(path)
        for name in names:
            shape = shape.get(name, ANYTHING) if isinstance(shape, Mapping) else ANYTHING
        return shape

    def _shape(self, path: tuple[str, ...]) -> tuple[Shape, tuple[str, ...]]:
        """Of what the path begins with, and the fields of it that are named."""
        match path:
            case ("run", *names):
                return _RUN, tuple(names)
            case ("task", *names):
                return _task(self.source), tuple(names)
            case ("tasks", node_id, *names):
                return _task(self.nodes.get(node_id)), tuple(names)
        return ANYTHING, ()


def _task(node: Node | None) -> Shape:
    kind = node.WhichOneof("kind") if node is not None else None
    return {
        "outcome": TEXT,
        "output": TEXT,
        "output_cut_from_bytes": NUMBER,
        "result": _RESULTS.get(kind or "", ANYTHING),
        "visit": NUMBER,
        "commit": TEXT,
        "cost_usd": NUMBER,
        "failure": _FAILURE,
    }


def _said(shape: Shape) -> str:
    return shape if isinstance(shape, str) else "several fields"


def _wrong(shape: Shape, path: tuple[str, ...], names: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(names):
        whole = ".".join(path[: len(path) - len(names) + number])
        if shape == ANYTHING:
            return
        if isinstance(shape, str):
            yield f"names {name[:80]!r} of {whole}, which is {shape} and has no fields"
            return
        if name not in shape:
            yield f"names {name[:80]!r} of {whole}, and there is no such field; {_meant(name, shape)}"
            return
        shape = shape[name]


def _meant(name: str, shape: Mapping[str, Shape]) -> str:
    close = difflib.get_close_matches(name[:80], shape, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}there are: {', '.join(shape)}"
