"""The tools by name, and the one function that runs a call. Whatever a model sends is answered, never raised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from crewlog.domain.errors import InvalidCommand
from crewlog.runtime import failpoints
from crewlog.tools.answers import DENIED, FAILED, UNKNOWN_TOOL, NotDone, ToolAnswer, shown
from crewlog.tools.ask import ASK
from crewlog.tools.files import EditInput, ReadInput, WriteInput, edit, read, write
from crewlog.tools.inputs import input_of
from crewlog.tools.root import reason_of
from crewlog.tools.search import GlobInput, GrepInput, glob, grep
from crewlog.tools.shell import BashInput, bash
from crewlog.tools.tool import Tool, ToolContext, in_thread
from crewlog.v1.agent_pb2 import (
    EFFECT_CLASS_OPAQUE,
    EFFECT_CLASS_PURE,
    EFFECT_CLASS_QUERYABLE,
    EFFECT_CLASS_REVERSIBLE,
    EffectClass,
)

_TOOLS: tuple[Tool[Any], ...] = (
    Tool(
        "read",
        "Reads a text file of the workspace. Lines come with their number and a tab in front.",
        ReadInput,
        EFFECT_CLASS_PURE,
        False,
        in_thread(read),
    ),
    Tool(
        "write",
        "Writes a whole file of the workspace, new or in place of the old one. To change a part, use edit.",
        WriteInput,
        EFFECT_CLASS_QUERYABLE,
        True,
        in_thread(write),
    ),
    Tool(
        "edit",
        "Replaces exact text in a file. The text has to be in the file once, unless replace_all is set.",
        EditInput,
        EFFECT_CLASS_QUERYABLE,
        True,
        in_thread(edit),
    ),
    Tool(
        "glob",
        "Lists the files of the workspace whose path matches a pattern. Leaves out .git, node_modules and the like.",
        GlobInput,
        EFFECT_CLASS_PURE,
        False,
        in_thread(glob),
    ),
    Tool(
        "grep",
        "Searches the text files of the workspace for a regular expression; answers `path:line:text`.",
        GrepInput,
        EFFECT_CLASS_PURE,
        False,
        grep,
    ),
    Tool(
        "bash",
        "Runs a bash command in a sandbox: it can change the workspace only, and has no network unless allowed.",
        BashInput,
        EFFECT_CLASS_REVERSIBLE,
        True,
        bash,
    ),
    ASK,
)
TOOLS: Final[Mapping[str, Tool[Any]]] = MappingProxyType({tool.name: tool for tool in _TOOLS})


def tool_definitions(names: Iterable[str]) -> list[dict[str, Any]]:
    """What the Messages API has to know of these tools. Raises InvalidCommand for a name that is none."""
    return [_definition(name) for name in names]


def effect_class_of(name: str, *, network: bool = False) -> EffectClass.ValueType:
    """How recovery may treat a call; a command that may use the network is never silently run again."""
    if name not in TOOLS:
        return EFFECT_CLASS_PURE
    declared = TOOLS[name].effect_class
    return EFFECT_CLASS_OPAQUE if network and declared == EFFECT_CLASS_REVERSIBLE else declared


async def run_tool(name: str, input_json: bytes, context: ToolContext) -> ToolAnswer:
    """Does what a model asks for, and answers."""
    try:
        tool = _allowed(name, context)
        with failpoints.around(f"tool.{tool.name}"):
            return await tool.run(input_of(tool, input_json), context)
    except NotDone as refusal:
        return ToolAnswer(refusal.text, is_error=True, reason=refusal.reason)
    except OSError as error:
        return ToolAnswer(f"{shown(name)}: {reason_of(error)}", is_error=True, reason=FAILED)


def _definition(name: str) -> dict[str, Any]:
    if name not in TOOLS:
        why = f"the tools are {', '.join(TOOLS)}"
        raise InvalidCommand(f"{shown(name)} is no tool: {why}", violations={"tools": why})
    return definition_of(TOOLS[name])


def definition_of(tool: Tool[Any]) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}


def _allowed(name: str, context: ToolContext) -> Tool[Any]:
    allowed = [tool for tool in TOOLS if context.tools is None or tool in context.tools]
    if name in allowed:
        return TOOLS[name]
    reason, what = (DENIED, "may not be used here") if name in TOOLS else (UNKNOWN_TOOL, "is no tool")
    raise NotDone(reason, f"{shown(name[:80])} {what}. You have: {', '.join(allowed) or 'none'}")


__all__ = [
    "TOOLS",
    "Tool",
    "ToolAnswer",
    "ToolContext",
    "definition_of",
    "effect_class_of",
    "run_tool",
    "tool_definitions",
]
