"""Names that come from outside, checked before anything is appended, and names derived from them.

A run is `fix-slug-7`, its task `implementer-2` (node and visit), the agent of the task `fix-slug-7_implementer-2`.
What people cannot write stands for what is derived: `parts_3` is the fourth item of the map `parts`, `plan_tests` was
planned by `plan`, `lead_c1` is the first child of `lead`.
"""

from __future__ import annotations

import hashlib
import re

from crewlog.domain.errors import InvalidCommand

RUN_ID_CHARACTERS_MAX = 48
NODE_ID_CHARACTERS_MAX = 32
TENANT = "local"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_AGGREGATE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")
_TASK_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,76}-[0-9]{1,6}")
_CHILD = re.compile(r"c(?:[0-9]+x)?[0-9]+")
_OBJECT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def check_name(field: str, value: str, characters_max: int) -> None:
    """Refuses what is not `[a-z0-9-]`, or is longer, or begins or ends with a dash."""
    if len(value) > characters_max or not _NAME.fullmatch(value):
        why = f"has to be 1 to {characters_max} of a-z, 0-9 and '-', and to begin and end with a letter or digit"
        raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})


def is_aggregate_id(value: str) -> bool:
    """Whether `value` may stand as the last token of a subject."""
    return _AGGREGATE_ID.fullmatch(value) is not None


def check_task_id(field: str, value: str) -> None:
    """Refuses what cannot be the id of a task, derived ones included."""
    if not _TASK_ID.fullmatch(value):
        why = "has to be a node and a visit, such as `implementer-2`"
        raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})


def check_object_id(field: str, value: str) -> None:
    """Refuses what is not the hexadecimal id of a git object."""
    if not _OBJECT_ID.fullmatch(value):
        why = "has to be the id of a git object in hexadecimal"
        raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})


def task_id(node_id: str, visit: int) -> str:
    return f"{node_id}-{visit}"


def node_of(task_id: str) -> str:
    """The node that the task is a visit of."""
    return task_id.rpartition("-")[0]


def agent_id(run_id: str, task: str) -> str:
    """The id of a task's agent, and of its workspace."""
    return f"{run_id}_{task}"


def item_node_id(map_node_id: str, index: int) -> str:
    return f"{map_node_id}_{index}"


def child_node_id(node_id: str, number: int) -> str:
    return f"{node_id}_c{number}"


def is_of_child(name: str) -> bool:
    """Whether what `planned_node_id` makes of the name could be the node of a child."""
    return _CHILD.fullmatch(name) is not None


def planned_node_id(node_id: str, name: str) -> str:
    return f"{node_id}_{name}"


def child_run_id(run_id: str, task: str) -> str:
    """The same for the same task; short enough to be the id of a run, however deep it is."""
    digest = hashlib.sha256(f"{run_id} {task}".encode()).hexdigest()[:10]
    return f"{run_id[:20].rstrip('-')}-{task.replace('_', '-')[:16].strip('-')}-{digest}"


def run_of(aggregate_id: str) -> str:
    """The run that an agent or a workspace belongs to."""
    return aggregate_id.partition("_")[0]
