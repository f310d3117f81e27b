"""Turns the file of a workflow into the workflow that a run pins: its roles and the workflows within it in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from crewlog.crews import command_words, node_parts
from crewlog.crews.filling import Source
from crewlog.crews.findings import quoted
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.v1.run_pb2 import AgentNode, Node, Planning, Role, Workflow, WorkflowNode
from crewlog.v1.workflow_file_pb2 import Branch, NodeFile, OnFailure, WorkflowFile

Named = TypeVar("Named", Role, Workflow)

WORKFLOW_BYTES_MAX = 1024 * 1024
Kind = Literal["role", "command", "gate", "wait", "workflow", "noop"]
KINDS: tuple[Kind, ...] = ("role", "command", "gate", "wait", "workflow", "noop")
BODIES: tuple[Kind, ...] = ("role", "command", "workflow", "noop")
OF_ROLES = (
    "prompt",
    "output_schema",
    "children",
    "children_max",
    "plans",
    "model",
    "cheaper_model",
    "tools",
    "limits",
)


@dataclass(frozen=True, slots=True)
class Library:
    """What files may name. Both raise NotFound, or InvalidCommand for a file that is wrong itself."""

    role: Callable[[str], Role]
    workflow: Callable[[str], Workflow]


class Compiler:
    """One file. What it refuses is in the source afterwards."""

    def __init__(self, source: Source, library: Library) -> None:
        self._source = source
        self._library = library
        self._bytes = 0

    def workflow(self, file: WorkflowFile, name: str) -> Workflow:
        workflow = Workflow(
            name=file.name or name,
            description=file.description,
            edges=[node_parts.edge(each) for each in file.edges],
            back_edges=[node_parts.back_edge(each) for each in file.back_edges],
            visits_max=file.visits_max,
        )
        for number, node in enumerate(file.nodes):
            if self._fits(f"nodes[{number}]"):
                workflow.nodes.append(self._node(node, f"nodes[{number}]"))
        return workflow

    def _fits(self, path: str) -> bool:
        """Says once that roles and workflows make the whole too large."""
        if self._bytes > WORKFLOW_BYTES_MAX:
            self._bytes = -(2**62)
            why = f"makes it larger than {WORKFLOW_BYTES_MAX} bytes, with the roles and workflows that it names"
            self._source.refuse(path, why)
        return self._bytes >= 0

    def _node(self, file: NodeFile, path: str) -> Node:
        node = self._body(file, path)
        if file.HasField("map"):
            node = Node(map=node_parts.fan(file.map, node))
        node.node_id = file.id
        node.depends_on.extend(file.depends_on)
        node.continue_on_failure = file.on_failure == OnFailure.ON_FAILURE_CONTINUE
        node.exclusive = file.branch == Branch.BRANCH_FIRST
        if file.HasField("join"):
            node.join.CopyFrom(node_parts.join(file.join))
        return node

    def _body(self, file: NodeFile, path: str) -> Node:
        """What is done, and under which conditions: for an item where the node is a map."""
        node = Node(
            executor_labels=file.runs_on,
            timeout_seconds=file.timeout,
            retry=node_parts.retry(file.retry) if file.HasField("retry") else None,
            files=node_parts.files(file.files) if file.HasField("files") else None,
            budget=node_parts.budget(file.budget) if file.HasField("budget") else None,
        )
        match self._kind(file, path):
            case "role":
                self._agent(node, file, path)
            case "workflow":
                self._workflow(node, file, path)
            case kind if kind:
                self._refuse_lines(file, path)
                node_parts.SIMPLE[kind](node, file)
        return node

    def _kind(self, file: NodeFile, path: str) -> str:
        """Empty where it was refused."""
        possible = BODIES if file.HasField("map") else KINDS
        given = [kind for kind in KINDS if file.HasField(kind)]
        self._refuse_strays(file, path)
        if len(given) == 1 and given[0] in possible:
            return given[0]
        if not given and file.HasField("join") and not file.HasField("map"):
            return "join"
        self._source.refuse(path, _choice(given, file.HasField("map")))
        return ""

    def _refuse_strays(self, file: NodeFile, path: str) -> None:
        if not file.HasField("role") and not self._source.is_settled(f"{path}.role"):
            for field in OF_ROLES:
                if self._source.has(f"{path}.{field}"):
                    self._source.refuse(f"{path}.{field}", "goes with a `role`: say who does it, or leave it out")

    def _refuse_lines(self, file: NodeFile, path: str) -> None:
        if command_words.is_line(file.command.argv):
            line = file.command.argv[0]
            why = f"is one word, so the name of a program with spaces: write {command_words.as_list(line)}"
            self._source.refuse(self._item(f"{path}.command.argv", 0), why)

    def _agent(self, node: Node, file: NodeFile, path: str) -> None:
        agent = AgentNode(prompt=file.prompt, output_schema=file.output_schema, children_max=file.children_max)
        agent.role.CopyFrom(node_parts.adapted(self._role_of(file.role, f"{path}.role"), file))
        agent.children.extend(self._roles(file.children, f"{path}.children"))
        if file.HasField("plans"):
            roles = self._roles(file.plans.roles, f"{path}.plans.roles")
            agent.planning.CopyFrom(Planning(roles=roles, nodes_max=file.plans.nodes_max))
        node.agent.CopyFrom(agent)

    def _roles(self, names: Iterable[str], path: str) -> list[Role]:
        return [self._role_of(name, self._item(path, number)) for number, name in enumerate(names)]

    def _item(self, path: str, number: int) -> str:
        """Also where the list stands for the mapping around it."""
        where = f"{path}[{number}]"
        return where if self._source.has(where) else f"{path.rpartition('.')[0]}[{number}]"

    def _role_of(self, name: str, path: str) -> Role:
        return self._named("role", self._library.role, name, path) or Role(name="unknown", prompt="unknown")

    def _workflow(self, node: Node, file: NodeFile, path: str) -> None:
        where = f"{path}.workflow.name" if self._source.has(f"{path}.workflow.name") else f"{path}.workflow"
        inner = self._named("workflow", self._library.workflow, file.workflow.name, where)
        node.workflow.CopyFrom(WorkflowNode(input=file.workflow.input))
        if inner is not None and self._bytes <= WORKFLOW_BYTES_MAX:
            node.workflow.workflow.CopyFrom(inner)

    def _named(self, kind: str, load: Callable[[str], Named], name: str, path: str) -> Named | None:
        try:
            found = load(name)
        except NotFound as refusal:
            self._source.refuse(path, f"names {quoted(name)}, which is no {kind}; {refusal.what_to_do}")
            return None
        except InvalidCommand as refusal:
            self._source.refuse(path, f"names {quoted(name)}, which is not valid: {refusal.message}")
            return None
        self._bytes += found.ByteSize()
        return found


def _choice(given: list[Kind], is_map: bool) -> str:
    if len(given) > 1:
        return f"can be only one of {' and '.join(given)}: make it several nodes"
    if is_map:
        return f"has to say what is done for each item: {', '.join(BODIES)}"
    return f"has to say what is done: {', '.join(KINDS)} or join"
