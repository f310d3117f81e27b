"""A command that is a task by itself: what it has printed, its exit code and its report are the result."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

from crewlog.domain.agent.ends import OUTPUT_BYTES_MAX
from crewlog.domain.errors import Unavailable
from crewlog.tools.answers import DENIED, FAILED, NotDone, ToolAnswer, shown_output
from crewlog.tools.command import CommandLimits, CommandResult
from crewlog.tools.limits import (
    COMMAND_SECONDS_MAX,
    RESULT_OUTPUT_BYTES_MAX,
    RESULT_REPORT_BYTES_MAX,
    STRUCTURED_BYTES_MAX,
)
from crewlog.tools.shell import reason_of, said_of
from crewlog.tools.tool import ToolContext
from crewlog.v1.node_pb2 import CommandNode


async def run_command(node: CommandNode, context: ToolContext) -> ToolAnswer:
    """An exit code is an outcome, whatever it is; no outcome is what was ended from outside, or could not be begun."""
    limits = replace(context.limits or CommandLimits(), seconds=float(COMMAND_SECONDS_MAX))
    try:
        result = await _run(node, context, limits)
    except NotDone as refusal:
        return ToolAnswer(refusal.text, is_error=True, reason=refusal.reason)
    output = _end(shown_output(result.output.replace("\r\n", "\n")).removesuffix("\n"), OUTPUT_BYTES_MAX)
    reason = reason_of(result.ending)
    if reason:
        said = said_of(result, limits)
        return ToolAnswer(f"{output}\n{said}" if output else said, is_error=True, reason=reason)
    report = await asyncio.to_thread(_report, node.report_path, context) if node.report_path else None
    return ToolAnswer(output, structured_json=structured(result.exit_code, output, report))


def structured(exit_code: int, output: str, report: str | None) -> str:
    """The result as JSON that is not too large: of the output its end is kept, of the report its beginning."""
    output, report = _end(output, RESULT_OUTPUT_BYTES_MAX), report and _beginning(report, RESULT_REPORT_BYTES_MAX)
    while len(written := _json(exit_code, output, report).encode()) > STRUCTURED_BYTES_MAX:
        if output:
            output = output[len(output) // 2 + 1 :]
        else:
            report = (report or "")[: len(report or "") // 2]
    return written.decode()


async def _run(node: CommandNode, context: ToolContext, limits: CommandLimits) -> CommandResult:
    if context.sandbox is None:
        raise NotDone(DENIED, "commands may not be run here")
    if any("\0" in argument for argument in node.argv):
        raise NotDone(DENIED, "a command cannot contain NUL")
    try:
        return await context.sandbox.run(
            list(node.argv),
            root=context.root,
            read_only_paths=context.read_only_paths,
            network=node.network,
            limits=limits,
            environment=context.environment,
            on_output=context.on_output,
        )
    except Unavailable as refusal:
        raise NotDone(FAILED, refusal.message) from refusal


def _report(path: str, context: ToolContext) -> str | None:
    """None where the command has left none that can be read."""
    try:
        with context.files.open_file(path) as (descriptor, _, _), os.fdopen(os.dup(descriptor), "rb") as stream:
            return stream.read(RESULT_REPORT_BYTES_MAX).decode("utf-8", "replace")
    except (NotDone, OSError):
        return None


def _json(exit_code: int, output: str, report: str | None) -> str:
    fields = {"exit_code": exit_code, "output": output, "report": report}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _beginning(text: str, size: int) -> str:
    return text.encode(errors="replace")[:size].decode(errors="ignore")


def _end(text: str, size: int) -> str:
    return text.encode(errors="replace")[-size:].decode(errors="ignore")
