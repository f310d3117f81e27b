"""What a node of a workflow may say, kind by kind. Every finding is a field and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import roles, schemas
from crewlog.domain.workflow.command_lines import script_with_values
from crewlog.domain.workflow.expressions import compile_expression
from crewlog.domain.workflow.templates import Template
from crewlog.v1.node_pb2 import GateNodeKind, JoinMode, RetryPolicy
from crewlog.v1.run_pb2 import AgentNode, Node

STEPS_MAX = 10_000
PROMPT_BYTES_MAX = 64 * 1024
ARGUMENTS_MAX = 256
ARGUMENTS_BYTES_MAX = 32 * 1024
CHOICES_MAX = 20
CHOICE_CHARACTERS_MAX = 200
GATE_BYTES_MAX = 32_000
SECONDS_MAX = 30 * 24 * 3_600
ITEMS_MAX = 10_000
AT_ONCE_MAX = 10_000
ATTEMPTS_MAX = 20
ROLES_MAX = 20
JOIN_COUNT_MAX = 2_000
CHILDREN_MAX = 64
PLANNED_MAX = 200
REPORT_PATH_CHARACTERS_MAX = 500

Found = Iterator[tuple[str, str]]
IN_BODIES = frozenset({"agent", "noop", "command", "workflow"})
_INTO_A_SCRIPT = (
    "puts a value into a script, and the shell would run what the value contains: hand it over as an argument, such as"
    """ [bash, -c, 'echo "$1"', _, "{{ run.input }}"]"""
)
_TEMPLATES = {"run", "tasks"}
_ITEM = {"item", "index"}


def violations(where: str, node: Node) -> Found:
    kind = node.WhichOneof("kind")
    if kind is None:
        yield where, f"has to be of a kind: {', '.join(_KINDS)}"
        return
    yield from _policies(where, node)
    yield from _KINDS[kind](where, node, _TEMPLATES)


def expression(where: str, text: str, variables: set[str]) -> Found:
    try:
        unknown = sorted(compile_expression(text).variables - variables)
    except InvalidCommand as refusal:
        yield where, _why(refusal)
        return
    if unknown:
        yield where, f"names {unknown[0]!r}; here there are {', '.join(sorted(variables))}"


def _policies(where: str, node: Node) -> Found:
    if not 0 <= node.timeout_seconds <= SECONDS_MAX:
        yield f"{where}.timeout_seconds", f"has to be 0 (none) to {SECONDS_MAX}"
    yield from _retry(f"{where}.retry", node.retry)
    if node.join.mode not in JoinMode.values() or not 0 <= node.join.count <= JOIN_COUNT_MAX:
        yield f"{where}.join", "has to be all, any, first or quorum, with a count of 0 or more"
    elif node.join.mode == JoinMode.JOIN_MODE_FIRST and not node.join.count:
        yield f"{where}.join.count", "has to say how many are enough"
    for unit, value in node.budget.ListFields():
        if value < 0:
            yield f"{where}.budget.{unit.name}", "has to be 0 (not limited) or more"
    if node.files.none and getattr(node.files, "from"):
        yield f"{where}.files", "has to be either `none` or `from`"
    elif getattr(node.files, "from"):
        yield from expression(f"{where}.files.from", getattr(node.files, "from"), _TEMPLATES)


def _retry(where: str, retry: RetryPolicy) -> Found:
    if not 0 <= retry.attempts_max <= ATTEMPTS_MAX:
        yield f"{where}.attempts_max", f"has to be 0 to {ATTEMPTS_MAX}"
    for name in ("back_off_seconds", "back_off_seconds_max"):
        if not 0 <= getattr(retry, name) <= SECONDS_MAX:
            yield f"{where}.{name}", f"has to be 0 to {SECONDS_MAX}"


def _agent(where: str, node: Node, variables: set[str]) -> Found:
    agent = node.agent
    yield from roles.violations(f"{where}.agent.role.", agent.role)
    yield from _template(f"{where}.agent.prompt", agent.prompt, PROMPT_BYTES_MAX, variables)
    if agent.output_schema:
        yield from _schema(f"{where}.agent.output_schema", agent.output_schema)
    yield from _children(f"{where}.agent", agent)
    if agent.HasField("planning"):
        yield from _planning(f"{where}.agent", node)


def _schema(where: str, text: str) -> Found:
    try:
        schemas.check_schema(text)
    except InvalidCommand as refusal:
        yield where, _why(refusal)


def _children(where: str, agent: AgentNode) -> Found:
    if len(agent.children) > ROLES_MAX or len({role.name for role in agent.children}) != len(agent.children):
        yield f"{where}.children", f"has to be at most {ROLES_MAX} roles, each once"
    if not 0 <= agent.children_max <= CHILDREN_MAX:
        yield f"{where}.children_max", f"has to be 0 (the default) to {CHILDREN_MAX}"
    for number, role in enumerate(agent.children):
        yield from roles.violations(f"{where}.children[{number}].", role)


def _planning(where: str, node: Node) -> Found:
    planning = node.agent.planning
    if not 1 <= len(planning.roles) <= ROLES_MAX or len({role.name for role in planning.roles}) != len(planning.roles):
        yield f"{where}.planning.roles", f"have to be 1 to {ROLES_MAX} roles, each once"
    if not 0 <= planning.nodes_max <= PLANNED_MAX:
        yield f"{where}.planning.nodes_max", f"has to be 0 (the default) to {PLANNED_MAX}"
    if node.agent.output_schema:
        yield f"{where}.output_schema", "has to be left out: a plan has a schema of its own"
    if node.exclusive:
        yield f"{where}.planning", "cannot go with an exclusive choice of edges"
    for number, role in enumerate(planning.roles):
        yield from roles.violations(f"{where}.planning.roles[{number}].", role)


def _noop(where: str, node: Node, _: set[str]) -> Found:
    if not 0 <= node.noop.steps <= STEPS_MAX:
        yield f"{where}.noop.steps", f"has to be 0 to {STEPS_MAX}"


def _command(where: str, node: Node, variables: set[str]) -> Found:
    command = node.command
    if not 1 <= len(command.argv) <= ARGUMENTS_MAX or not command.argv[0].strip():
        yield f"{where}.command.argv", f"has to be a program and at most {ARGUMENTS_MAX - 1} arguments"
    if sum(len(each.encode(errors="replace")) for each in command.argv) > ARGUMENTS_BYTES_MAX:
        yield f"{where}.command.argv", f"is longer than {ARGUMENTS_BYTES_MAX} bytes"
    for number, argument in enumerate(command.argv):
        if "\0" in argument:
            yield f"{where}.command.argv[{number}]", "contains NUL"
        yield from _template(f"{where}.command.argv[{number}]", argument, ARGUMENTS_BYTES_MAX, variables)
    script = script_with_values(command.argv)
    if script is not None:
        yield f"{where}.command.argv[{script}]", _INTO_A_SCRIPT
    path = command.report_path
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or len(path) > REPORT_PATH_CHARACTERS_MAX:
        yield f"{where}.command.report_path", "has to be a path within the workspace"
    if any(not 0 <= code <= 255 for code in command.ok_exit_codes):
        yield f"{where}.command.ok_exit_codes", "have to be 0 to 255"


def _gate(where: str, node: Node, variables: set[str]) -> Found:
    gate = node.gate
    if gate.kind not in GateNodeKind.values():
        yield f"{where}.gate.kind", "has to be approve, choose, answer or edit"
    if not gate.question.strip():
        yield f"{where}.gate.question", "is missing: a person has to know what is asked"
    yield from _template(f"{where}.gate.question", gate.question, GATE_BYTES_MAX, variables)
    yield from _template(f"{where}.gate.text", gate.text, GATE_BYTES_MAX, variables)
    chooses = gate.kind == GateNodeKind.GATE_NODE_KIND_CHOOSE
    if chooses and not 2 <= len(set(gate.choices)) == len(gate.choices) <= CHOICES_MAX:
        yield f"{where}.gate.choices", f"have to be 2 to {CHOICES_MAX}, each once"
    if not chooses and gate.choices:
        yield f"{where}.gate.choices", "go with `choose` only"
    if any(not choice.strip() or len(choice) > CHOICE_CHARACTERS_MAX for choice in gate.choices):
        yield f"{where}.gate.choices", f"have to be 1 to {CHOICE_CHARACTERS_MAX} characters long"
    if gate.default_answer and gate.default_answer not in _answers(node):
        yield f"{where}.gate.default_answer", f"has to be one of {', '.join(_answers(node))}"
    if not 0 <= gate.expires_seconds <= SECONDS_MAX:
        yield f"{where}.gate.expires_seconds", f"has to be 0 (the default) to {SECONDS_MAX}"


def _answers(node: Node) -> list[str]:
    """What may be answered; whatever is the default where that is any text."""
    if node.gate.kind in (GateNodeKind.GATE_NODE_KIND_UNSPECIFIED, GateNodeKind.GATE_NODE_KIND_APPROVE):
        return ["approve", "reject"]
    if node.gate.kind == GateNodeKind.GATE_NODE_KIND_CHOOSE:
        return list(node.gate.choices)
    return [node.gate.default_answer]


def _wait(where: str, node: Node, _: set[str]) -> Found:
    wait = node.wait
    if not wait.signal and not wait.seconds:
        yield f"{where}.wait", "has to have seconds, a signal, or both"
    if not 0 <= wait.seconds <= SECONDS_MAX:
        yield f"{where}.wait.seconds", f"has to be 0 to {SECONDS_MAX}"
    if wait.signal:
        try:
            names.check_name("signal", wait.signal, 64)
        except InvalidCommand as refusal:
            yield f"{where}.wait.signal", refusal.violations["signal"]


def _join(where: str, node: Node, _: set[str]) -> Found:
    return iter(())


def _map(where: str, node: Node, variables: set[str]) -> Found:
    fan = node.map
    if bool(fan.over) == bool(fan.times):
        yield f"{where}.map", "has to have either `over` or `times`"
    if not 0 <= fan.times <= ITEMS_MAX:
        yield f"{where}.map.times", f"has to be 1 to {ITEMS_MAX}"
    if not 0 <= fan.at_once_max <= AT_ONCE_MAX:
        yield f"{where}.map.at_once_max", f"has to be 0 (the default) to {AT_ONCE_MAX}"
    if not 0 <= fan.failures_max <= ITEMS_MAX:
        yield f"{where}.map.failures_max", f"has to be 0 to {ITEMS_MAX}"
    if fan.over:
        yield from expression(f"{where}.map.over", fan.over, variables)
    yield from _body(f"{where}.map.body", fan.body, variables | _ITEM)


def _body(where: str, body: Node, variables: set[str]) -> Found:
    kind = body.WhichOneof("kind")
    if kind not in IN_BODIES:
        yield where, f"has to be one of {', '.join(sorted(IN_BODIES))}"
        return
    if body.node_id or body.depends_on or body.HasField("join") or body.exclusive:
        yield where, "can have no id, no dependencies, no join and no choice of edges: these are the map's"
    if body.agent.HasField("planning"):
        yield f"{where}.agent.planning", "cannot stand in a map"
    yield from _policies(where, body)
    yield from _KINDS[kind](where, body, variables)


def _workflow(where: str, node: Node, variables: set[str]) -> Found:
    yield from _template(f"{where}.workflow.input", node.workflow.input, PROMPT_BYTES_MAX, variables)
    if not node.workflow.HasField("workflow"):
        yield f"{where}.workflow.workflow", "is missing"


def _template(where: str, text: str, bytes_max: int, variables: set[str]) -> Found:
    if len(text.encode(errors="replace")) > bytes_max:
        yield where, f"is longer than {bytes_max} bytes"
    elif "{{" in text:
        try:
            unknown = sorted(Template.of(text).variables - variables)
        except InvalidCommand as refusal:
            yield where, _why(refusal)
            return
        if unknown:
            yield where, f"names {unknown[0]!r}; here there are {', '.join(sorted(variables))}"


def _why(refusal: InvalidCommand) -> str:
    return next(iter(refusal.violations.values()), refusal.message)


_KINDS: dict[str, Callable[[str, Node, set[str]], Found]] = {
    "agent": _agent,
    "noop": _noop,
    "command": _command,
    "gate": _gate,
    "wait": _wait,
    "join_files": _join,
    "map": _map,
    "workflow": _workflow,
}
