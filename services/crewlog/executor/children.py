"""What an agent does with its children: spawn them, talk to them, wait for them. The scheduler is asked, and every
request may be repeated: it is known by the tool call.

The money comes first: the parent's own log says what the child gets before anybody else knows of the child. A crash in
between leaves the share with nobody until the call is tried again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crewlog.domain import names
from crewlog.domain.agent.sharing import share_of
from crewlog.domain.agent.state import SPAWN_TOOL, WAIT_TOOL, Effect, Place, spawned
from crewlog.domain.amounts import ZERO, Amounts, limited_units
from crewlog.domain.errors import BudgetExceeded, Refused, StaleClaim, Unavailable
from crewlog.domain.run import children as run_children
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.executor.control import Control, Cut
from crewlog.executor.desk import Desk
from crewlog.executor.patience import patiently
from crewlog.executor.session import Session
from crewlog.executor.tool_calls import cut_off, failed, key_of
from crewlog.runtime import failpoints
from crewlog.tools import children as tools
from crewlog.tools.answers import DENIED, UNKNOWN_TOOL, NotDone
from crewlog.tools.inputs import input_of
from crewlog.v1.agent_pb2 import EffectKey, FinishToolCall, ShareAllotment, ToolOutput
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import MessageMode, SendMessage, SpawnChild
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.workspace_pb2 import Snapshot

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

T = TypeVar("T")
WAITED = "You have waited for your children. What each of them came to stands in a message from it."


@dataclass(frozen=True, slots=True)
class Children:
    """Of one agent."""

    grant: Grant
    session: Session
    desk: Desk
    scheduler: SchedulerServiceAsyncStub
    blobs: BlobStore
    control: Control

    def takes(self, tool: str) -> bool:
        """Whether the call is for here."""
        return tool in tools.NAMES and tools.are_offered(self.grant.node.agent)

    async def perform(self, place: Place, effect: Effect, seconds: float) -> FinishToolCall:
        """Whatever is refused is answered to the model. Raises StaleClaim, and Unavailable once patience is at its
        end."""
        key = key_of(place, effect)
        tool, input_json = _call(effect)
        try:
            with failpoints.around(f"tool.{tool}"):
                said = await self._perform(tool, key, await bodies.load(self.blobs, input_json), seconds)
        except NotDone as refusal:
            return failed(key, refusal.reason, refusal.text)
        except (StaleClaim, Unavailable):
            raise
        except Refused as refusal:
            return failed(key, DENIED, f"{refusal.message}. {refusal.what_to_do}".rstrip(". ") + ".")
        except Cut as cut:
            return cut_off(key, cut.reason, seconds)
        return FinishToolCall(key=key, output=ToolOutput(text=Body(inline=said.encode())))

    def waited(self, place: Place, effect: Effect) -> tuple[FinishToolCall, bool]:
        """The outcome of a wait, and whether there is anything to wait for."""
        key = key_of(place, effect)
        if not self.takes(WAIT_TOOL):
            return failed(key, UNKNOWN_TOOL, f"{WAIT_TOOL} is no tool."), False
        if not spawned(self.session.agent):
            return failed(key, DENIED, "You have no children to wait for: spawn them first."), False
        return FinishToolCall(key=key, output=ToolOutput(text=Body(inline=WAITED.encode()))), True

    async def _perform(self, tool: str, key: EffectKey, input_json: bytes, seconds: float) -> str:
        if tool == SPAWN_TOOL:
            return await self._spawn(key, input_of(tools.SPAWN, input_json), seconds)
        return await self._tell(key, input_of(tools.MESSAGE, input_json), seconds)

    async def _spawn(self, key: EffectKey, given: tools.SpawnInput, seconds: float) -> str:
        self._check_may_spawn(given.role)
        share = await self._share(key, given.share_percent)
        command = SpawnChild(
            run_id=self.grant.run_id,
            task_id=self.grant.task_id,
            generation=self.grant.generation,
            turn=key.turn,
            index=key.index,
            role=given.role,
            prompt=given.task,
            share=share.message() if share else None,
            snapshot=self._snapshot(),
        )
        child = await self._ask(lambda: self.scheduler.Spawn(command), seconds)
        name = names.node_of(child.task_id)
        return f"{name} is at work on it. What it comes to is told to you as a message."

    def _check_may_spawn(self, role: str) -> None:
        """What the scheduler would refuse, before any money is given away."""
        roles = [child.name for child in self.grant.node.agent.children]
        if role not in roles:
            raise NotDone(DENIED, f"{role[:80]!r} is no role of a child. The roles are {', '.join(roles)}.")
        if spawned(self.session.agent) >= self._children_max:
            raise NotDone(DENIED, f"You have had {self._children_max} children, and may have no more: do it yourself.")

    @property
    def _children_max(self) -> int:
        asked = self.grant.node.agent.children_max or run_children.CHILDREN_DEFAULT
        return min(run_children.CHILDREN_MAX, asked)

    async def _share(self, key: EffectKey, percent: int) -> Amounts:
        """On record once it returns, for this call and all its attempts."""
        agent = self.session.agent
        given = agent.shared.get((key.turn, key.index))
        if given is not None or not limited_units(agent.allotment):
            return given or ZERO
        try:
            share = share_of(agent, percent or 100 // (self._children_max - spawned(agent) + 1))
        except BudgetExceeded as refusal:
            raise NotDone(DENIED, f"{refusal.message}: {refusal.what_to_do}.") from refusal
        self.session.do(ShareAllotment(key=key, share=share.message()))
        await self.session.flush()
        return share

    def _snapshot(self) -> Snapshot | None:
        prepared = self.desk.prepared
        return self.session.agent.snapshot or (prepared.snapshot if prepared is not None else None)

    async def _tell(self, key: EffectKey, given: tools.MessageInput, seconds: float) -> str:
        own = re.fullmatch(rf"{re.escape(self.grant.node.node_id)}_c(?:\d+x)?\d+(-\d+)?", given.child)
        if own is None:
            raise NotDone(DENIED, f"{given.child[:80]!r} is none of your children.")
        command = SendMessage(
            run_id=self.grant.run_id,
            task_id=given.child if own[1] else names.task_id(given.child, 1),
            message_id=_message_id(self.grant.agent_id, key),
            mode=MessageMode.MESSAGE_MODE_STEER,
            text=given.text,
            sent_by=self.grant.agent_id,
        )
        await self._ask(lambda: self.scheduler.Send(command), seconds)
        return f"{given.child} hears it before its next step."

    async def _ask(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        return await self.control.within(patiently(call, "scheduler"), seconds)


def _call(effect: Effect) -> tuple[str, Body]:
    return (effect.call.tool, effect.call.input_json) if effect.call is not None else ("", Body())


def _message_id(agent_id: str, key: EffectKey) -> str:
    """The same for every attempt of the call."""
    return f"from-{hashlib.sha256(f'{agent_id} {key.turn} {key.index}'.encode()).hexdigest()[:24]}"
