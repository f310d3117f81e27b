"""Roles: what a valid one is."""

from __future__ import annotations

from collections.abc import Iterable

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.run_pb2 import AgentLimits, OnUnknown, Role

NAME_CHARACTERS_MAX = 48
PROMPT_BYTES_MAX = 64 * 1024
CALL_SECONDS_MAX = 24 * 3_600
"""The longest that one call of a model or a tool may be allowed."""
TOOLS = frozenset({"read", "write", "edit", "glob", "grep", "bash", "ask"})
"""Those that a role may name; what belongs to a node, such as `finish` and `spawn`, comes with it."""


def validate(role: Role) -> None:
    """Raises InvalidCommand that names every field that is wrong."""
    found = dict(violations("", role))
    if found:
        field_name, why = next(iter(found.items()))
        raise InvalidCommand(f"role {role.name[:80]!r} is not valid: {field_name} {why}", violations=found)


def violations(prefix: str, role: Role) -> Iterable[tuple[str, str]]:
    yield from check(f"{prefix}name", role.name, NAME_CHARACTERS_MAX)
    if not role.prompt.strip():
        yield f"{prefix}prompt", "is missing"
    yield from length(f"{prefix}prompt", role.prompt, PROMPT_BYTES_MAX)
    for tool in role.tools:
        if tool not in TOOLS:
            yield f"{prefix}tools", f"names {tool[:80]!r}; there are {', '.join(sorted(TOOLS))}"
    if len(set(role.tools)) != len(role.tools):
        yield f"{prefix}tools", "names a tool twice"
    if role.on_unknown not in OnUnknown.values():
        yield f"{prefix}on_unknown", "has to be tell or ask"
    yield from _limits(f"{prefix}limits.", role.limits)


_CALL_LIMITS = ("model_call_seconds_max", "first_byte_seconds_max", "silence_seconds_max", "tool_seconds_max")


def _limits(prefix: str, limits: AgentLimits) -> Iterable[tuple[str, str]]:
    for limit, value in limits.ListFields():
        if value < 0:
            yield f"{prefix}{limit.name}", "has to be 0 (the default) or more"
        elif limit.name in _CALL_LIMITS and value > CALL_SECONDS_MAX:
            yield f"{prefix}{limit.name}", f"has to be at most {CALL_SECONDS_MAX} (a day)"


def check(where: str, value: str, characters_max: int) -> Iterable[tuple[str, str]]:
    try:
        names.check_name("name", value, characters_max)
    except InvalidCommand as refusal:
        yield where, f"{value[:80]!r} {refusal.violations['name']}" if value else "is missing"


def length(where: str, text: str, bytes_max: int) -> Iterable[tuple[str, str]]:
    if len(text.encode(errors="replace")) > bytes_max:
        yield where, f"is longer than {bytes_max} bytes"
