"""Where an agent lets go of its executor: until a person has answered, its children have ended, or the provider may be
asked again."""

from __future__ import annotations

from dataclasses import dataclass

from crewlog.domain.agent.state import Effect, Place, is_interrupted
from crewlog.domain.agent.steps import Ask, Wait, WaitForChildren
from crewlog.eventlog.owner import Clock
from crewlog.eventlog.port import BlobStore
from crewlog.executor import questions, tool_calls
from crewlog.executor.children import Children
from crewlog.executor.session import Session
from crewlog.v1.agent_pb2 import FinishToolCall, ParkAgent
from crewlog.v1.run_pb2 import ParkCause


@dataclass(frozen=True, slots=True)
class Waiting:
    session: Session
    children: Children
    blobs: BlobStore
    clock: Clock
    tools: frozenset[str]

    async def ask(self, step: Ask) -> None:
        if self._is_interrupted(step.place, step.effect):
            return
        asked = await questions.question_of(step, self.blobs, self.tools)
        if isinstance(asked, FinishToolCall):
            self.session.do(asked)
        else:
            self.session.do(ParkAgent(cause=ParkCause.PARK_CAUSE_QUESTION, question=asked))

    def for_children(self, step: WaitForChildren) -> None:
        """The outcome stands in the entry in which the agent lets go: it goes on behind it."""
        if self._is_interrupted(step.place, step.effect):
            return
        outcome, are_there = self.children.waited(step.place, step.effect)
        self.session.do(outcome)
        if are_there:
            self.session.do(ParkAgent(cause=ParkCause.PARK_CAUSE_CHILDREN))

    def for_provider(self, step: Wait) -> None:
        """It will not answer for now: nobody has to hold the agent until then."""
        at = self.clock() + step.millis * 1_000 if step.millis else 0
        cause = ParkCause.PARK_CAUSE_MODEL
        self.session.do(ParkAgent(cause=cause, failure=step.failure, not_before_unix_micros=at))

    def _is_interrupted(self, place: Place, effect: Effect) -> bool:
        """Then the call is not begun: somebody wants to be heard first."""
        if is_interrupted(self.session.agent):
            self.session.do(tool_calls.not_begun(place, effect))
            return True
        return False
