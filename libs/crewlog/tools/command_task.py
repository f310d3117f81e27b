"""A command that is a task by itself: what it has printed, its exit code and its report are the result."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

from crewlog.domain.agent.ends import OUTPUT_BYTES_MAX
from crewlog.domain.errors import Unavailable
from crewlog.domain.kept import Kept
from crewlog.tools.answers import DENIED, FAILED, NotDone, ToolAnswer, shown_output
from crewlog.tools.command import CommandLimits, CommandResult
from crewlog.tools.limits import (
    COMMAND_OUTPUT_HEAD_BYTES,
    COMMAND_OUTPUT_TAIL_BYTES,
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
    output = _printed(result).end(OUTPUT_BYTES_MAX)
    reason = reason_of(result.ending)
    if reason:
        said = said_of(result, limits)
        text = f"{output.text}\n{said}" if output.text else said
        return ToolAnswer(text, is_error=True, reason=reason, cut_from_bytes=output.cut_from_bytes)
    report = await asyncio.to_thread(_report, node.report_path, context) if node.report_path else None
    structured_json = structured(result.exit_code, output, report)
    return ToolAnswer(output.text, structured_json=structured_json, cut_from_bytes=output.cut_from_bytes)


def structured(exit_code: int, output: Kept, report: Kept | None) -> str:
    """The result as JSON that is not too large: of the output its end is kept, of the report its beginning."""
    output_room, report_room = RESULT_OUTPUT_BYTES_MAX, RESULT_REPORT_BYTES_MAX
    while True:
        written = _json(exit_code, output.end(output_room), report and report.beginning(report_room))
        if len(written.encode()) <= STRUCTURED_BYTES_MAX:
            return written
        output_room, report_room = output_room // 2, report_room if output_room else report_room // 2


def _printed(result: CommandResult) -> Kept:
    text = shown_output(result.output.replace("\r\n", "\n")).removesuffix("\n")
    kept_bytes = COMMAND_OUTPUT_HEAD_BYTES + COMMAND_OUTPUT_TAIL_BYTES
    return Kept(text, kept_bytes + result.cut_bytes if result.cut_bytes else 0)


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


def _report(path: str, context: ToolContext) -> Kept | None:
    """None where the command has left none that can be read."""
    try:
        with context.files.open_file(path) as (descriptor, _, _), os.fdopen(os.dup(descriptor), "rb") as stream:
            text = stream.read(RESULT_REPORT_BYTES_MAX + 1).decode("utf-8", "replace")
            size = os.fstat(descriptor).st_size
    except (NotDone, OSError):
        return None
    return Kept(text, size if size > RESULT_REPORT_BYTES_MAX else 0)


def _json(exit_code: int, output: Kept, report: Kept | None) -> str:
    fields = {
        "exit_code": exit_code,
        "output": output.text,
        "report": report and report.text,
        "output_cut_from_bytes": output.cut_from_bytes,
        "report_cut_from_bytes": report.cut_from_bytes if report else 0,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
