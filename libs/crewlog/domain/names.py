"""Names that come from outside, checked before anything is appended, and names derived from them.

A run is `fix-slug-7`, its task `implementer-2` (node and visit), the agent of the task `fix-slug-7_implementer-2`.
"""

from __future__ import annotations

import re

from crewlog.domain.errors import InvalidCommand

RUN_ID_CHARACTERS_MAX = 48
NODE_ID_CHARACTERS_MAX = 32
TENANT = "local"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_AGGREGATE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")
_OBJECT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def check_name(field: str, value: str, characters_max: int) -> None:
    """Refuses what is not `[a-z0-9-]`, or is longer, or begins or ends with a dash."""
    if len(value) > characters_max or not _NAME.fullmatch(value):
        why = f"has to be 1 to {characters_max} of a-z, 0-9 and '-', and to begin and end with a letter or digit"
        raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})


def is_aggregate_id(value: str) -> bool:
    """Whether `value` may stand as the last token of a subject."""
    return _AGGREGATE_ID.fullmatch(value) is not None


def check_object_id(field: str, value: str) -> None:
    """Refuses what is not the hexadecimal id of a git object."""
    if not _OBJECT_ID.fullmatch(value):
        why = "has to be the id of a git object in hexadecimal"
        raise InvalidCommand(f"{field} {value[:80]!r} {why}", violations={field: why})


def task_id(node_id: str, visit: int) -> str:
    return f"{node_id}-{visit}"


def agent_id(run_id: str, task: str) -> str:
    """The id of a task's agent, and of its workspace."""
    return f"{run_id}_{task}"


def run_of(aggregate_id: str) -> str:
    """The run that an agent or a workspace belongs to."""
    return aggregate_id.partition("_")[0]
