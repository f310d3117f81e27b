"""The persons of trials: they pause the run and let it go on, send a message, answer what is asked, and change their
mind.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from crewlog.domain.errors import WrongState
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.budget_service_pb2 import ListGates
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    GateKind,
    GateView,
    PauseRun,
    ResumeRun,
    RetryRun,
    SendMessage,
    TaskStatus,
)

from tests.chaos.client import LOOK_AGAIN_SECONDS, Client
from tests.e2e.world import types_of

RAISE = Amounts(usd_micros=1_000_000)
YES = "yes"
PAUSE_AT = "agent_started"
CANCEL_AT = "edge_taken"
PAUSED_SECONDS_MAX = 2.0


class Person(Client):
    has_paused = False

    async def act(self, entry: RecordedEntry) -> None:
        """What the entry gives reason to."""
        names = types_of(entry)
        if PAUSE_AT in names and not self.has_paused:
            self.has_paused = True
            await self._pause_for_a_moment()
        if "gate_opened" in names:
            await self._answer_gates(entry.revision)

    async def _pause_for_a_moment(self) -> None:
        await self.insist(lambda: self.gateway.runs.Pause(PauseRun(run_id=self.run_id, reason="a moment")))
        await self._until_nobody_works()
        await self.insist(lambda: self.gateway.runs.Resume(ResumeRun(run_id=self.run_id)))

    async def _until_nobody_works(self) -> None:
        """Or for a while: who should park its agent may have died."""
        deadline = time.monotonic() + PAUSED_SECONDS_MAX
        claimed = TaskStatus.TASK_STATUS_CLAIMED
        while time.monotonic() < deadline and any(task.status == claimed for task in (await self.get()).tasks):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _answer_gates(self, revision: int) -> None:
        request = ListGates(run_id=self.run_id, at_least_revision=revision)
        for gate in (await self.insist(lambda: self.gateway.gates.List(request))).gates:
            await self._answer(gate)

    async def _answer(self, gate: GateView) -> None:
        if gate.kind == GateKind.GATE_KIND_QUESTION:
            await self._send(gate)
            answer = AnswerGate(run_id=gate.run_id, gate_id=gate.gate_id, choice=YES)
        elif gate.kind == GateKind.GATE_KIND_APPROVAL:
            answer = AnswerGate(run_id=gate.run_id, gate_id=gate.gate_id, choice="approve")
        else:
            answer = AnswerGate(run_id=gate.run_id, gate_id=gate.gate_id, choice="raise", by=RAISE)
        await self.insist(lambda: self.gateway.gates.Answer(answer))

    async def _send(self, gate: GateView) -> None:
        """To the agent that waits for an answer."""
        message = SendMessage(run_id=self.run_id, task_id=gate.task_id, message_id="hint", text="Take your time.")
        await self.insist(lambda: self.gateway.runs.Send(message))


class Doubter(Person):
    """Cancels the run when it goes back, and then takes it up again."""

    ends = frozenset({"run_succeeded", "run_failed"})

    async def act(self, entry: RecordedEntry) -> None:
        names = types_of(entry)
        if CANCEL_AT in names:
            # It may be over by now: then there is nothing to take up.
            with suppress(WrongState):
                await self.insist(lambda: self.gateway.runs.Cancel(CancelRun(run_id=self.run_id, reason="no")))
        elif "run_cancelled" in names:
            await self.insist(lambda: self.gateway.runs.Retry(RetryRun(run_id=self.run_id, request_id="yes")))
        else:
            await super().act(entry)
