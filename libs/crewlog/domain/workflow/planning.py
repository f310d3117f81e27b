"""Plans of agents: a graph of tasks that a run grows by. A plan is data, and is checked like any other input."""

from __future__ import annotations

import json
from typing import Any

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow.templates import escaped
from crewlog.v1.run_pb2 import AgentNode, Node, Planning

PLANNED_NODES_MAX = 200
PLANNED_PROMPT_CHARACTERS_MAX = 8_000
PLAN_BYTES_MAX = 2 * 1024 * 1024
"""With the roles of all its tasks: it has to fit into one entry of the run."""


def schema(planning: Planning) -> str:
    """The JSON Schema of a plan for these roles."""
    roles = [role.name for role in planning.roles]
    name = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": names.NODE_ID_CHARACTERS_MAX}
    task = {
        "type": "object",
        "properties": {
            "id": {**name, "description": "Short, such as `parser-tests`."},
            "role": {"enum": roles},
            "prompt": {
                "type": "string",
                "minLength": 1,
                "maxLength": PLANNED_PROMPT_CHARACTERS_MAX,
                "description": "What exactly has to be done. Whoever does it sees this, and what the tasks before it"
                " handed over.",
            },
            "depends_on": {"type": "array", "items": name, "description": "Ids of tasks that have to be done before."},
        },
        "required": ["id", "role", "prompt"],
        "additionalProperties": False,
    }
    tasks = {"type": "array", "items": task, "minItems": 1, "maxItems": _nodes_max(planning)}
    return json.dumps(
        {"type": "object", "properties": {"tasks": tasks}, "required": ["tasks"], "additionalProperties": False}
    )


def nodes_of(planner_node_id: str, planning: Planning, structured_json: str) -> list[Node]:
    """The nodes of a plan, under names that nobody else can have. Raises InvalidCommand that names all that is wrong;
    the shape is that of `schema`, or is refused as well."""
    tasks = _tasks(structured_json)
    violations = _violations(planning, tasks)
    if violations:
        field, why = next(iter(violations.items()))
        raise InvalidCommand(
            f"the plan is not valid: {field} {why}", what_to_do="mend it and hand it over again", violations=violations
        )
    nodes = _nodes(planner_node_id, planning, tasks)
    size = sum(node.ByteSize() for node in nodes)
    if size > PLAN_BYTES_MAX:
        why = f"come to {size} bytes with the prompts of their roles, and may be {PLAN_BYTES_MAX}"
        raise InvalidCommand(f"the tasks {why}", what_to_do="plan fewer of them", violations={"tasks": why})
    return nodes


def _nodes(planner_node_id: str, planning: Planning, tasks: list[dict[str, Any]]) -> list[Node]:
    roles = {role.name: role for role in planning.roles}
    return [
        Node(
            node_id=names.planned_node_id(planner_node_id, task["id"]),
            depends_on=[names.planned_node_id(planner_node_id, other) for other in task.get("depends_on", ())]
            or [planner_node_id],
            agent=AgentNode(role=roles[task["role"]], prompt=escaped(task["prompt"])),
        )
        for task in tasks
    ]


def _nodes_max(planning: Planning) -> int:
    return min(planning.nodes_max or PLANNED_NODES_MAX, PLANNED_NODES_MAX)


def _tasks(structured_json: str) -> list[dict[str, Any]]:
    try:
        tasks = json.loads(structured_json)["tasks"]
        return [
            {
                "id": str(task["id"]),
                "role": str(task["role"]),
                "prompt": str(task["prompt"]),
                "depends_on": [str(other) for other in task.get("depends_on") or ()],
            }
            for task in tasks
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        why = "has to be an object with a list `tasks`, each with id, role and prompt"
        raise InvalidCommand(f"the plan {why}", violations={"tasks": why}) from None


def _violations(planning: Planning, tasks: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    ids = [task["id"] for task in tasks]
    roles = {role.name for role in planning.roles}
    if not 1 <= len(tasks) <= _nodes_max(planning):
        found["tasks"] = f"have to be 1 to {_nodes_max(planning)}, and there are {len(tasks)}"
    for number, task in enumerate(tasks[:PLANNED_NODES_MAX]):
        where = f"tasks[{number}]"
        found |= _name(f"{where}.id", task["id"])
        if ids.index(task["id"]) != number:
            found[f"{where}.id"] = f"{task['id']!r} stands twice"
        if task["role"] not in roles:
            found[f"{where}.role"] = f"has to be one of {', '.join(sorted(roles))}"
        if not 0 < len(task["prompt"]) <= PLANNED_PROMPT_CHARACTERS_MAX:
            found[f"{where}.prompt"] = f"has to be 1 to {PLANNED_PROMPT_CHARACTERS_MAX} characters long"
        unknown = [other for other in task["depends_on"] if other not in ids]
        if unknown or len(set(task["depends_on"])) != len(task["depends_on"]):
            found[f"{where}.depends_on"] = f"names {unknown[0]!r}, which is no task" if unknown else "names one twice"
    return found or _circle(tasks)


def _name(where: str, name: str) -> dict[str, str]:
    try:
        names.check_name("id", name, names.NODE_ID_CHARACTERS_MAX)
    except InvalidCommand as refusal:
        return {where: refusal.violations["id"]}
    return {where: "is a name that children of agents have"} if names.is_of_child(name) else {}


def _circle(tasks: list[dict[str, Any]]) -> dict[str, str]:
    unmet = {task["id"]: set(task["depends_on"]) for task in tasks}
    while free := [name for name, others in unmet.items() if not others & unmet.keys()]:
        for name in free:
            del unmet[name]
    return {"tasks": f"depend on each other in a circle: {', '.join(sorted(unmet)[:10])}"} if unmet else {}
