"""Tool calls of one agent. Those that only read run side by side; one that may change files runs alone, and a snapshot
of what it changed is named in its outcome.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from crewlog.domain.agent.decider import NOOP_TOOL
from crewlog.domain.agent.ends import OUTPUT_BYTES_MAX
from crewlog.domain.agent.state import COMMAND_TOOL, FINISH_TOOL, Agent, Effect, Place
from crewlog.domain.agent.steps import seconds_left
from crewlog.domain.kept import Kept
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.executor.control import Control, Cut
from crewlog.executor.workspace import Workspace
from crewlog.runtime import failpoints
from crewlog.tools import children, finish
from crewlog.tools.answers import CANCELLED, INTERRUPTED, TIMED_OUT, NotDone, ToolAnswer, shown_output
from crewlog.tools.command import OnOutput
from crewlog.tools.command_task import run_command
from crewlog.tools.registry import TOOLS, run_tool
from crewlog.tools.tool import ToolContext
from crewlog.v1.agent_pb2 import EffectKey, FinishToolCall, ToolFailure, ToolOutput, ToolUse
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import Node
from crewlog.v1.workspace_pb2 import PreparedWorkspace, Snapshot

CALLS_AT_ONCE_MAX = 8
TOOL_SECONDS_MAX = 1_860
PRINTED_CHARACTERS_MAX = 20_000
NOT_BEGUN_TEXT = "This was not run: somebody has interrupted you and wants to be heard first."
_CUT_OFF = {
    INTERRUPTED: "This was cut off: somebody has interrupted you and wants to be heard. Look at what it has done.",
    CANCELLED: "This was cut off: its task is stopped.",
    TIMED_OUT: "This was cut off: it has taken longer than {seconds:.0f} s.",
}

Call = tuple[Place, Effect]


def groups(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """The calls in their order, cut so that what may change files or share money stands alone."""
    for alone, group in itertools.groupby(calls, key=lambda call: _runs_alone(call[1].call)):
        members = list(group)
        size = 1 if alone else CALLS_AT_ONCE_MAX
        yield from (members[start : start + size] for start in range(0, len(members), size))


def not_begun(place: Place, effect: Effect) -> FinishToolCall:
    """Somebody has interrupted the agent before the call was begun."""
    return failed(key_of(place, effect), INTERRUPTED, NOT_BEGUN_TEXT)


def cut_off(key: EffectKey, reason: str, seconds: float) -> FinishToolCall:
    """It was under way."""
    return failed(key, reason, _CUT_OFF[reason].format(seconds=seconds))


def failed(key: EffectKey, reason: str, text: str) -> FinishToolCall:
    """Answered to the model."""
    return FinishToolCall(key=key, failure=ToolFailure(reason=reason, text=Body(inline=text.encode(errors="replace"))))


def seconds_for(agent: Agent, now_unix_micros: int) -> float:
    """How long a tool call may take: its own limit, and what is left of the time of the task."""
    own = agent.started.limits.tool_seconds_max or TOOL_SECONDS_MAX
    return min(own, max(0.0, seconds_left(agent, now_unix_micros)))


def noop(place: Place, effect: Effect) -> FinishToolCall:
    return FinishToolCall(key=key_of(place, effect), output=ToolOutput())


class _Printed:
    """Keeps the end of what a command prints, for when it never gets to say so itself, and passes everything on."""

    def __init__(self, listener: OnOutput | None) -> None:
        self._listener = listener
        self._tail = ""
        self._left_out = 0
        self._bytes = 0

    def __call__(self, text: str) -> None:
        tail = self._tail + text
        self._left_out += max(0, len(tail) - PRINTED_CHARACTERS_MAX)
        self._bytes += len(text.encode(errors="replace"))
        self._tail = tail[-PRINTED_CHARACTERS_MAX:]
        if self._listener is not None:
            self._listener(text)

    def end(self) -> Kept:
        """With a line end behind it, or nothing; as large as an output may be, also where much had to be escaped."""
        shown = shown_output(self._tail.replace("\r\n", "\n")).rstrip("\n")
        cut = f"[... {self._left_out} characters are left out here ...]\n" if self._left_out else ""
        text = f"{cut}{shown}\n" if shown else ""
        return Kept(text, self._bytes if self._left_out else 0).end(OUTPUT_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class ToolRunner:
    """Runs the tools of one agent in its workspace."""

    node: Node
    workspace: Workspace
    prepared: PreparedWorkspace
    context: Callable[[EffectKey], ToolContext]
    blobs: BlobStore
    control: Control

    async def perform(self, place: Place, effect: Effect, seconds: float) -> FinishToolCall:
        """Never raises for what the model did wrong, or for a call that is cut off: that is answered to it."""
        key = key_of(place, effect)
        call = effect.call or ToolUse()
        began = time.monotonic()
        input_json = await bodies.load(self.blobs, call.input_json)
        context = self.context(key)
        printed = _Printed(context.on_output)
        try:
            running = self._run(call.tool, input_json, replace(context, on_output=printed))
            answer = await self.control.within(running, seconds)
        except Cut as cut:
            kept = printed.end()
            said = f"{kept.text}{_CUT_OFF[cut.reason].format(seconds=seconds)}"
            answer = ToolAnswer(said, is_error=True, reason=cut.reason, cut_from_bytes=kept.cut_from_bytes)
        snapshot = await self._snapshot(key) if _changes_files(call) else None
        text = await bodies.store(self.blobs, answer.text.encode(errors="replace"))
        return _finish(key, answer, text, snapshot, int((time.monotonic() - began) * 1e6))

    def _run(self, tool: str, input_json: bytes, context: ToolContext) -> Awaitable[ToolAnswer]:
        node = self.node
        if node.HasField("command"):
            return run_command(node.command, context)
        if tool == FINISH_TOOL and finish.is_offered(node.agent):
            return _finished(node, input_json)
        return run_tool(tool, input_json, context)

    async def _snapshot(self, key: EffectKey) -> Snapshot | None:
        taken = await self.workspace.snapshot(f"{key.turn}-{key.index}-{key.attempt}")
        return taken.snapshot if taken.changed else None


async def _finished(node: Node, input_json: bytes) -> ToolAnswer:
    """Beside the event loop: a schema may take its time."""
    try:
        with failpoints.around(f"tool.{FINISH_TOOL}"):
            return await asyncio.to_thread(finish.finish, node.agent, node.node_id, input_json)
    except NotDone as refusal:
        return ToolAnswer(refusal.text, is_error=True, reason=refusal.reason)


def _finish(
    key: EffectKey, answer: ToolAnswer, text: Body, snapshot: Snapshot | None, duration_micros: int
) -> FinishToolCall:
    if answer.is_error:
        failure = ToolFailure(
            reason=answer.reason,
            text=text,
            duration_micros=duration_micros,
            snapshot=snapshot,
            text_cut_from_bytes=answer.cut_from_bytes,
        )
        return FinishToolCall(key=key, failure=failure)
    output = ToolOutput(
        text=text,
        duration_micros=duration_micros,
        snapshot=snapshot,
        structured_json=answer.structured_json,
        text_cut_from_bytes=answer.cut_from_bytes,
    )
    return FinishToolCall(key=key, output=output)


def _runs_alone(call: ToolUse | None) -> bool:
    return _changes_files(call) or (call is not None and call.tool in children.NAMES)


def _changes_files(call: ToolUse | None) -> bool:
    if call is None or call.tool == NOOP_TOOL:
        return False
    return call.tool == COMMAND_TOOL or (call.tool in TOOLS and TOOLS[call.tool].changes_files)


def key_of(place: Place, effect: Effect) -> EffectKey:
    return EffectKey(turn=place[0], index=place[1], attempt=effect.attempt)
