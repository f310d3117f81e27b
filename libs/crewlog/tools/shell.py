"""bash: one command line in the sandbox. Its output and exit code are the answer, whatever they are."""

from __future__ import annotations

from dataclasses import replace

from crewlog.domain.errors import Unavailable
from crewlog.tools.answers import DENIED, FAILED, KILLED, TIMED_OUT, NotDone, ToolAnswer, shown_output
from crewlog.tools.command import CommandLimits, CommandResult, Ending
from crewlog.tools.limits import COMMAND_CHARACTERS_MAX, COMMAND_SECONDS_DEFAULT, COMMAND_SECONDS_MAX, MIB
from crewlog.tools.tool import ToolContext, ToolInput
from pydantic import Field

_SIGNALS = {
    134: "it aborted",
    135: "bus error",
    136: "arithmetic error",
    137: "killed, perhaps because the machine was short of memory",
    139: "segmentation fault",
    143: "terminated",
    152: "it used too much processor time",
    153: "it made a file that is too large",
    159: "it made a system call that the sandbox forbids",
}


class BashInput(ToolInput):
    command: str = Field(
        min_length=1,
        max_length=COMMAND_CHARACTERS_MAX,
        description="What bash runs, at the root of the workspace. Each call is a new shell without input; what it "
        "leaves in the background is ended with it.",
    )
    timeout_seconds: int = Field(
        default=COMMAND_SECONDS_DEFAULT, ge=1, le=COMMAND_SECONDS_MAX, description="When to stop it."
    )


async def bash(given: BashInput, context: ToolContext) -> ToolAnswer:
    if context.sandbox is None:
        raise NotDone(DENIED, "commands may not be run here")
    if "\0" in given.command:
        raise NotDone(DENIED, "a command cannot contain NUL")
    limits = replace(context.limits or CommandLimits(), seconds=float(given.timeout_seconds))
    try:
        result = await context.sandbox.run(
            ["bash", "--noprofile", "--norc", "-c", given.command],
            root=context.root,
            read_only_paths=context.read_only_paths,
            network=context.network,
            limits=limits,
            environment=context.environment,
            on_output=context.on_output,
        )
    except Unavailable as refusal:
        raise NotDone(FAILED, refusal.message) from refusal
    return _answer(result, limits)


def _answer(result: CommandResult, limits: CommandLimits) -> ToolAnswer:
    output = shown_output(result.output.replace("\r\n", "\n")).removesuffix("\n")
    reason = reason_of(result.ending)
    last = said_of(result, limits)
    return ToolAnswer(f"{output}\n{last}" if output else last, is_error=bool(reason), reason=reason)


def reason_of(ending: Ending) -> str:
    """Empty for a command that has ended by itself."""
    if ending is Ending.EXITED:
        return ""
    return TIMED_OUT if ending is Ending.TIMED_OUT else KILLED


def said_of(result: CommandResult, limits: CommandLimits) -> str:
    """How it has ended, in words."""
    match result.ending:
        case Ending.EXITED:
            hint = f" ({_SIGNALS[result.exit_code]})" if result.exit_code in _SIGNALS else ""
            return f"[exit code {result.exit_code}{hint}]"
        case Ending.TIMED_OUT:
            return f"[timed out after {limits.seconds:.0f} s]"
        case Ending.OUT_OF_MEMORY:
            return f"[killed: memory; all processes together may use {limits.memory_bytes // MIB} MiB]"
        case Ending.TOO_MANY_PROCESSES:
            return f"[killed: too many processes; at most {limits.processes} are allowed]"
        case Ending.TOO_MUCH_OUTPUT:
            return f"[killed: more than {limits.output_bytes // MIB} MiB of output; send it to a file]"
        case Ending.LOST:
            return "[killed: the process that watched the command is gone]"
