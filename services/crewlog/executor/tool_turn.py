"""The tool calls of one turn, in their order, from the recorded intents to the recorded outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from crewlog.domain.agent.state import is_interrupted, is_noop
from crewlog.eventlog.owner import Clock
from crewlog.executor import spans, tool_calls
from crewlog.executor.children import Children
from crewlog.executor.control import Control
from crewlog.executor.desk import Desk
from crewlog.executor.session import Session
from crewlog.v1.agent_pb2 import FinishToolCall
from crewlog.v1.scheduler_pb2 import Grant


@dataclass(frozen=True, slots=True)
class ToolTurn:
    grant: Grant
    session: Session
    desk: Desk
    control: Control
    clock: Clock
    children: Children

    async def take(self, calls: Sequence[tool_calls.Call]) -> None:
        """The intents stand in the log before anything runs; every group's outcomes do before the next one. Whoever is
        asked to leave leaves between two groups: the rest is not begun."""
        if not is_noop(self.session.agent):
            await self.session.flush()
        for group in tool_calls.groups(calls):
            await self.session.flush()
            if self.control.leave is not None:
                return
            for call, finished in zip(group, await self._outcomes(group), strict=True):
                self.session.do(finished)
                spans.tool_call(self.grant, call, finished)

    async def _outcomes(self, group: Sequence[tool_calls.Call]) -> Sequence[FinishToolCall]:
        if is_interrupted(self.session.agent):
            return [tool_calls.not_begun(*call) for call in group]
        return await asyncio.gather(*(self._perform(call) for call in group))

    async def _perform(self, call: tool_calls.Call) -> FinishToolCall:
        if is_noop(self.session.agent):
            return tool_calls.noop(*call)
        seconds = tool_calls.seconds_for(self.session.agent, self.clock())
        tool = call[1].call.tool if call[1].call is not None else ""
        with spans.within_effect(self.grant, tool_calls.key_of(*call)):
            if self.children.takes(tool):
                return await self.children.perform(*call, seconds)
            return await self.desk.tools(self.control).perform(*call, seconds)
