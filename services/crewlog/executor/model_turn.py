"""One model call of an agent, from the offer to the recorded answer; or the end of its money."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crewlog.domain.agent_steps import CallModel
from crewlog.eventlog.owner import Clock
from crewlog.eventlog.port import BlobStore
from crewlog.executor import model_calls, paying, spans
from crewlog.executor.desk import Desk
from crewlog.executor.paying import Exhausted, Paid, Payer
from crewlog.executor.session import Session
from crewlog.models.prices import PriceList
from crewlog.v1.agent_pb2 import ParkAgent
from crewlog.v1.scheduler_pb2 import Grant

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
    stop_here: StopHere

    async def take(self, step: CallModel) -> None:
        """Makes the call, or lets go of the agent where there is no money for it."""
        if step.after_millis:
            await self.session.flush()
            await asyncio.sleep(step.after_millis / 1000)
        agent = self.session.agent
        request = model_calls.request_of(agent, step, await self.said.messages(agent))
        paid = await self.payer.pay(request)
        if isinstance(paid, Paid):
            await self._perform(step, paid)
        elif paying.waits(paid):
            self._park(paid)
        else:
            await self.stop_here(paid.budget_id)

    async def _perform(self, step: CallModel, paid: Paid) -> None:
        grant = self.grant
        model, credential = await self.desk.model(paid.request.model)
        started = model_calls.start_command(
            grant.agent_id, grant.generation, step, paid.request.model, paid.quoted, self.clock(), credential
        )
        self.session.do(started)
        await self.session.flush()
        with self.desk.live(started.key) as on_text, spans.within_effect(grant, started.key):
            finished = await model_calls.perform(
                model, paid.request, started, self.blobs, on_text, self.clock, self.price_list
            )
        self.session.do(finished)
        spans.model_call(grant, started, finished)

    def _park(self, exhausted: Exhausted) -> None:
        self.session.do(
            ParkAgent(
                agent_id=self.grant.agent_id,
                generation=self.grant.generation,
                budget_id=exhausted.budget_id,
                wanted=exhausted.wanted.message(),
                at_unix_micros=self.clock(),
            )
        )
