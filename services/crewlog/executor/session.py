"""One agent as its host works on it: the state that the log will have, and the commands on their way there.

A command is decided at once against the state, so the next step is known before the last one is on disk; what was
decided together is stored together. Nothing may be performed before `flush` has returned.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from crewlog.domain.agent import decider as rules
from crewlog.domain.agent.state import INITIAL, Agent
from crewlog.domain.decider import fold
from crewlog.domain.errors import Contention, StaleClaim, Unavailable
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.v1.agent_pb2 import FinishModelCall, FinishToolCall, RecordLateOutcome
from crewlog.v1.scheduler_pb2 import Grant
from google.protobuf.message import Message

RETRY_SECONDS = 0.2

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Session:
    def __init__(self, owner: Owner[Agent], grant: Grant, executor_id: str, clock: Clock) -> None:
        self._owner = owner
        self._grant = grant
        self._principal = f"service:executor:{executor_id}"
        self._executor_id = executor_id
        self._clock = clock
        self._numbers = itertools.count(1)
        self._waiting: list[tuple[Message, Meta]] = []
        self.agent: Agent = INITIAL
        self.revision = 0

    async def open(self) -> None:
        """Reads what earlier lives of the agent have recorded. Waits for a log that does not answer."""
        id = self._grant.agent_id
        if self._grant.generation == 1:
            self._owner.assume_new(id)
            self.agent, self.revision = await self._owner.state(id)
        else:
            self.agent, self.revision = await self._persistently(partial(self._owner.refresh, id))

    def do(self, command: rules.Command) -> None:
        """Decides a command of this claim, now; stored with the next `flush`. Raises Refused as the rules do."""
        command.agent_id, command.generation = self._grant.agent_id, self._grant.generation
        command.at_unix_micros = self._clock()
        events = rules.decide(self.agent, command)
        self.agent = fold(rules, events, self.agent)
        if events:
            self._waiting.append((command, self._meta()))

    async def flush(self) -> None:
        """Stores what was decided, as one entry, and waits until it is on disk.

        Waits for a log that does not answer. Raises StaleClaim when another executor has the task; what came of effects
        is in the log even then, as evidence.
        """
        while self._waiting:
            waiting = list(self._waiting)
            try:
                await self._persistently(partial(self._store, waiting))
            except StaleClaim:
                await self._record_late()
                raise

    async def _persistently(self, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await work()
            except (Unavailable, Contention) as reason:
                logger.warning("agent %s waits: %s", self._grant.agent_id, reason)
                await asyncio.sleep(RETRY_SECONDS)

    async def _store(self, waiting: list[tuple[Message, Meta]]) -> None:
        """While it is stored, more may be decided; that waits for the next time. What was stored is what counts: the
        owner has decided on the latest state."""
        id = self._grant.agent_id
        handled = [self._owner.handle(id, command, meta) for command, meta in waiting]
        results = await asyncio.gather(*handled, return_exceptions=True)
        outcomes = [result for result in results if isinstance(result, Outcome)]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        del self._waiting[: len(waiting)]
        self.revision = outcomes[-1].revision
        if not self._waiting:
            self.agent = outcomes[-1].state

    async def _record_late(self) -> None:
        """Outcomes that came too late decide nothing, but somebody may want to know what has really happened."""
        waiting, self._waiting = self._waiting, []
        for command, _ in waiting:
            if isinstance(command, (FinishModelCall, FinishToolCall)):
                handle = partial(self._owner.handle, self._grant.agent_id, self._late(command), self._meta())
                await self._persistently(handle)

    def _late(self, command: FinishModelCall | FinishToolCall) -> RecordLateOutcome:
        return RecordLateOutcome(
            agent_id=self._grant.agent_id,
            generation=self._grant.generation,
            executor_id=self._executor_id,
            model_call=command if isinstance(command, FinishModelCall) else None,
            tool_call=command if isinstance(command, FinishToolCall) else None,
            at_unix_micros=command.at_unix_micros,
        )

    def forget(self) -> None:
        self._owner.forget(self._grant.agent_id)

    def _meta(self) -> Meta:
        grant = self._grant
        return Meta(
            command_id=f"{grant.agent_id}:{grant.generation}:{next(self._numbers)}",
            principal=self._principal,
            correlation_id=grant.run_id,
            causation_id=str(self.revision or grant.revision),
            generation=grant.generation,
        )
