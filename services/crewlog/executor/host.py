"""Performs one task: asks the rules for the next step, makes it durable, performs it, records what came of it.

A host keeps nothing that matters: killed at any point, another one folds the same events and does the next thing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crewlog.domain.agent.state import Agent, has_model, is_noop, is_over
from crewlog.domain.agent.steps import (
    Ask,
    CallModel,
    Fail,
    RunTools,
    Step,
    Succeed,
    Wait,
    WaitForChildren,
    next_step,
)
from crewlog.domain.errors import MergeConflict, Refused, StaleClaim
from crewlog.eventlog import bodies
from crewlog.eventlog.owner import Clock, Owner
from crewlog.eventlog.port import BlobStore
from crewlog.executor import model_calls, paying, questions, spans
from crewlog.executor.children import Children
from crewlog.executor.control import Control, Leave
from crewlog.executor.desk import Desk
from crewlog.executor.ending import Ending
from crewlog.executor.inbox import Inbox
from crewlog.executor.model_turn import ModelTurn
from crewlog.executor.session import Session
from crewlog.executor.tool_turn import ToolTurn
from crewlog.executor.waiting import Waiting
from crewlog.models.prices import PriceList
from crewlog.tools import offered
from crewlog.v1.agent_pb2 import (
    HostAgent,
    ParkAgent,
    RaiseAllotment,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import ParkCause
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Grant, TaskMessage

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

logger = logging.getLogger(__name__)

_PARKED = {Leave.PAUSE: ParkCause.PARK_CAUSE_PAUSED, Leave.HAND_OVER: ParkCause.PARK_CAUSE_HANDED_OVER}


@dataclass(frozen=True, slots=True)
class Shared:
    """What hosts share: the log of the agents they own, the blobs, the time, and where tasks get their desk. `chance`
    is between 0 and 1, anew with each call."""

    owner: Owner[Agent]
    blobs: BlobStore
    clock: Clock
    executor_id: str
    scheduler: SchedulerServiceAsyncStub
    price_list: PriceList
    chance: Callable[[], float]


class Host:
    """Performs one grant. `run` ends when the agent has ended, has let go, or another executor has the task."""

    def __init__(self, shared: Shared, desk: Desk, grant: Grant) -> None:
        self._shared = shared
        self._desk = desk
        self._grant = grant
        self._control = Control()
        self._session = Session(shared.owner, grant, shared.executor_id, shared.clock)
        self._inbox = Inbox(self._session, self._control, grant)
        children = Children(grant, self._session, desk, shared.scheduler, shared.blobs, self._control)
        self._tool_turn = ToolTurn(grant, self._session, desk, self._control, shared.clock, children)
        tools = frozenset(grant.node.agent.role.tools)
        self._waiting = Waiting(self._session, children, shared.blobs, shared.clock, tools)
        self._ending = Ending(self._session, desk, shared.blobs)
        self._payer = paying.payer(grant, self._session, desk, shared.scheduler, shared.price_list)
        self._model_turn = ModelTurn(
            grant,
            self._session,
            desk,
            self._payer,
            model_calls.Conversation(shared.blobs),
            shared.blobs,
            shared.clock,
            shared.price_list,
            self._control,
            shared.chance,
            self._ending.without_money,
        )

    @property
    def progress_revision(self) -> int:
        return self._session.revision

    @property
    def step_seconds(self) -> float:
        return self._control.step_seconds

    @property
    def messages(self) -> int:
        return self._inbox.heard

    async def run(self) -> None:
        try:
            with spans.within_agent(self._grant):
                await self._run()
        except StaleClaim as reason:
            logger.info("agent %s was taken over: %s", self._grant.agent_id, reason)
        finally:
            self._control.close()
            self._session.forget()

    def ask_to_leave(self, leave: Leave, grace_seconds: float = 0.0) -> None:
        self._control.ask(leave, grace_seconds)

    def hear(self, message: TaskMessage) -> None:
        self._inbox.hear(message)

    def change_allotment(self, changed: ChangedAllotment) -> None:
        """The next call has to fit into that."""
        if self._session.agent.generation == changed.generation and not is_over(self._session.agent):
            self._session.do(RaiseAllotment(allotment=changed.allotment, run_revision=changed.run_revision))

    async def _run(self) -> None:
        await self._open()
        while not is_over(self._agent) and self._agent.parked is None:
            await self._refusable(self._take_next())
        await self._session.flush()
        if is_over(self._agent):
            spans.agent(self._grant, self._agent)

    async def _open(self) -> None:
        """Takes the agent over; from then on nobody else can append to it."""
        await self._session.open()
        prompt = await bodies.store(self._shared.blobs, (await self._prompt()).encode(errors="replace"))
        self._session.do(host_command(self._grant, prompt, self._shared.executor_id))
        if not is_noop(self._agent):
            await self._session.flush()
        if is_noop(self._agent) or is_over(self._agent):  # perhaps by an older generation, meanwhile
            return
        if has_model(self._agent):
            self._hear_what_was_said()
        if self._desk.prepared is None:
            await self._refusable(self._desk.set_up(self._agent.snapshot))
        if self._grant.has_to_stop and has_model(self._agent):
            await self._refusable(self._ending.without_money(self._payer.own_budget))

    async def _prompt(self) -> str:
        """The agent has to know from its first word which of its files have conflict markers. So they are made before
        it begins; what is refused then is refused again when it has begun, and ends it."""
        if not self._grant.with_conflicts or self._agent.status:
            return self._grant.prompt
        try:
            await self._desk.set_up(None)
        except StaleClaim:
            raise
        except Refused as refusal:
            logger.info("agent %s begins without its files: %s", self._grant.agent_id, refusal)
        return self._desk.with_conflicts_told(self._grant.prompt)

    def _hear_what_was_said(self) -> None:
        self._inbox.open()
        for outcome in self._grant.gate_outcomes:
            settled = questions.settled(self._agent, outcome)
            if settled is not None:
                self._session.do(settled)

    @property
    def _agent(self) -> Agent:
        return self._session.agent

    async def _refusable(self, work: Awaitable[None]) -> None:
        """What the git service or the price list refuses ends the agent, with the reason."""
        try:
            await work
        except StaleClaim:
            raise
        except Refused as refusal:
            self._ending.fail_at_once(_failure(refusal))
        except Exception as bug:
            logger.exception("agent %s cannot go on", self._grant.agent_id)
            message = f"the executor failed: {type(bug).__name__}"
            failure = Failure(reason="internal_error", message=message, what_to_do="look at the executor's log")
            self._ending.fail_at_once(failure)

    async def _take_next(self) -> None:
        leave = self._control.leave
        if leave is None:
            await self._take(next_step(self._agent, self._shared.clock()))
        elif leave is Leave.CANCEL:
            await self._ending.cancel()
        else:
            self._session.do(ParkAgent(cause=_PARKED[leave]))

    async def _take(self, step: Step) -> None:
        match step:
            case RunTools(calls=calls):
                await self._tool_turn.take(calls)
            case CallModel():
                await self._model_turn.take(step)
            case Ask():
                await self._waiting.ask(step)
            case WaitForChildren():
                self._waiting.for_children(step)
            case Wait():
                self._waiting.for_provider(step)
            case Succeed(output=output):
                await self._ending.succeed(output)
            case Fail(failure=failure):
                await self._ending.fail(failure)


def _failure(refusal: Refused) -> Failure:
    if isinstance(refusal, MergeConflict):
        return Failure(reason="merge_conflict", message=refusal.message, what_to_do=refusal.what_to_do)
    return Failure(reason="refused", message=refusal.message, what_to_do=refusal.what_to_do)


def host_command(grant: Grant, prompt: Body, executor_id: str) -> HostAgent:
    """Takes the task that was granted, for the first time or over from another executor."""
    node, role = grant.node, grant.node.agent.role
    return HostAgent(
        run_id=grant.run_id,
        task_id=grant.task_id,
        executor_id=executor_id,
        node=node.agent if node.HasField("agent") else None,
        noop=node.noop if node.HasField("noop") else None,
        command=node.command if node.HasField("command") else None,
        model=grant.model,
        prompt=prompt,
        tools=offered.specs(node.agent),
        limits=role.limits,
        allotment=grant.allotment,
    )
