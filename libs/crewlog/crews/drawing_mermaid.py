"""Draws a workflow as a Mermaid flowchart: a form for each kind of node, dotted lines for ways back."""

from __future__ import annotations

from crewlog.crews.drawing_model import Link, Picture, Shape
from crewlog.v1.run_pb2 import Workflow

_FORMS = {
    "agent": ("[", "]"),
    "command": ("[/", "/]"),
    "gate": ("{{", "}}"),
    "wait": ("([", "])"),
    "join_files": ("((", "))"),
    "map": ("[[", "]]"),
    "workflow": ("[(", ")]"),
    "noop": (">", "]"),
}


def mermaid(workflow: Workflow) -> str:
    picture = Picture.of(workflow)
    ids = {shape.name: f"n{number}" for number, shape in enumerate(picture.shapes)}
    lines = [_node(ids[shape.name], shape) for shape in picture.shapes]
    lines += [_link(ids[link.source], ids[link.target], link) for link in picture.links]
    return "\n".join(["flowchart TD", *(f"    {line}" for line in lines)]) + "\n"


def _node(node_id: str, shape: Shape) -> str:
    before, after = _FORMS[shape.kind]
    text = "<br/>".join(_escaped(line) for line in (shape.name, shape.detail, *shape.notes))
    return f'{node_id}{before}"{text}"{after}'


def _link(source: str, target: str, link: Link) -> str:
    line = "-.->" if link.is_back else "-->"
    label = f'|"{_escaped(link.label)}"|' if link.label else ""
    return f"{source} {line}{label} {target}"


def _escaped(text: str) -> str:
    """Whatever could mean something to Mermaid or HTML becomes an entity of Mermaid."""
    return "".join(each if each.isalnum() or each in " -_.,:/()“”…$?=≤" else f"#{ord(each)};" for each in text)
