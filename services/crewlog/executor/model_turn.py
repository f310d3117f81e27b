"""One model call of an agent, from the offer to the recorded answer; or the end of its money."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from crewlog.domain.agent.state import readable
from crewlog.domain.agent.steps import CallModel, seconds_left
from crewlog.eventlog.owner import Clock
from crewlog.eventlog.port import BlobStore
from crewlog.executor import model_calls, paying, spans
from crewlog.executor.control import Control, Cut
from crewlog.executor.desk import Desk
from crewlog.executor.paying import Exhausted, Paid, Payer
from crewlog.executor.session import Session
from crewlog.models.prices import PriceList
from crewlog.models.provider import ModelError, Timeouts, timeouts_of
from crewlog.v1.agent_pb2 import FinishModelCall, ParkAgent, StartModelCall
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import ParkCause
from crewlog.v1.scheduler_pb2 import Grant

JITTER = 0.5
"""The part of a pause between two attempts that is left to chance."""
OUTCOME_SECONDS = 5.0
"""For what is done with an answer once it is there; the limits of the call itself are kept by the client."""

StopHere = Callable[[str], Awaitable[None]]
"""Ends the agent with what is done, because this budget has no more."""


@dataclass(frozen=True, slots=True)
class ModelTurn:
    grant: Grant
    session: Session
    desk: Desk
    payer: Payer
    said: model_calls.Conversation
    blobs: BlobStore
    clock: Clock
    price_list: PriceList
    control: Control
    chance: Callable[[], float]
    stop_here: StopHere

    async def take(self, step: CallModel) -> None:
        """Makes the call, or lets go of the agent where there is no money for it."""
        if step.after_millis:
            await self.session.flush()
            await self.control.sleep(self._pause_seconds(step))
            if self.control.leave is not None:
                return
        try:
            await self._take(step)
        except ModelError as error:
            self._wait(error.failure)

    async def _take(self, step: CallModel) -> None:
        agent = self.session.agent
        unread = readable(agent)
        request = model_calls.request_of(agent, step, await self.said.messages(agent, unread))
        paid = await self.payer.pay(request)
        if isinstance(paid, Paid):
            await self._perform(step, paid, [message.number for message in unread])
        elif paying.waits(paid):
            self._park(paid)
        else:
            await self.stop_here(paid.budget_id)

    async def _perform(self, step: CallModel, paid: Paid, messages: Sequence[int]) -> None:
        grant = self.grant
        model, credential = await self.desk.model(paid.request.model)
        started = model_calls.start_command(step, paid.request.model, paid.quoted, credential, messages)
        self.session.do(started)
        await self.session.flush()
        with self.desk.live(started.key) as on_text, spans.within_effect(grant, started.key):
            finished = await self._within_limits(
                model_calls.perform(
                    model, paid.request, started, self.blobs, on_text, self.price_list, self._timeouts()
                ),
                started,
            )
        self.session.do(finished)
        spans.model_call(grant, started, finished)

    async def _within_limits(self, call: Awaitable[FinishModelCall], started: StartModelCall) -> FinishModelCall:
        agent = self.session.agent
        seconds = min(self._timeouts().total_seconds, max(0.0, seconds_left(agent, self.clock())))
        try:
            return await self.control.within(call, seconds + OUTCOME_SECONDS)
        except Cut as cut:
            return model_calls.cut_off(started, cut.reason)

    def _timeouts(self) -> Timeouts:
        return timeouts_of(self.grant.node.agent.role.limits)

    def _pause_seconds(self, step: CallModel) -> float:
        """Many agents that were refused at once do not come back at once."""
        jittered = step.after_millis * (1 - JITTER * self.chance())
        return max(jittered, step.after_millis_min) / 1000

    def _park(self, exhausted: Exhausted) -> None:
        budget = ParkCause.PARK_CAUSE_BUDGET
        self.session.do(ParkAgent(cause=budget, budget_id=exhausted.budget_id, wanted=exhausted.wanted.message()))

    def _wait(self, failure: Failure) -> None:
        """There is no way to the model before somebody does something."""
        self.session.do(ParkAgent(cause=ParkCause.PARK_CAUSE_MODEL, failure=failure))
