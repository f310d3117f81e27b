"""What an agent may do, as its history shows it: counted from its facts alone.

claims           a generation begins only for the executor that the run has given the task to
effects          crewlog.domain.conduct.effects, and what is handed over
children         crewlog.domain.conduct.fan
waiting          an agent that is parked appends nothing until somebody takes it over
taking over      what was under way is put in doubt at once, and the receipt says what there is
messages         heard in their order, as they were sent, and read once
ends             nothing follows the end but evidence, and nothing is left open or unread when the agent succeeds
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crewlog.domain.agent.state import MODEL
from crewlog.domain.conduct.effects import CommandConduct, EffectConduct, OutputConduct, Place
from crewlog.domain.conduct.fan import ParentConduct
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentStarted,
    AgentSucceeded,
    AgentTakenOver,
    EffectReconciled,
    LateOutcomeRecorded,
    MessageReceived,
    ModelCallStarted,
    ResumeReceipt,
)
from google.protobuf.message import Message

if TYPE_CHECKING:
    from crewlog.domain.conduct.run import RunConduct

_RESOLVED = (
    ("tool_calls_run_again", EffectReconciled.RESOLUTION_RUN_AGAIN),
    ("tool_calls_restored", EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN),
    ("tool_calls_told_unknown", EffectReconciled.RESOLUTION_TOLD_UNKNOWN),
    ("tool_calls_asked", EffectReconciled.RESOLUTION_ASKED),
)


@dataclass(slots=True)
class AgentConduct:
    """`run` is None where only the agent is looked at. `begun` is what was under way when this entry took it over."""

    task_id: str
    run: RunConduct | None = None
    is_over: bool = False
    is_parked: bool = False
    generation: int = 0
    effects: EffectConduct = field(default_factory=EffectConduct)
    work: OutputConduct | CommandConduct = field(default_factory=OutputConduct)
    parent: ParentConduct = field(default_factory=ParentConduct)
    heard: list[MessageReceived] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    taken_over: AgentTakenOver | None = None
    begun: set[Place] = field(default_factory=set)

    def enter(self, fact: Message, together_with: tuple[Message, ...]) -> Iterator[str]:
        name = fact.DESCRIPTOR.name
        if self.is_over and not isinstance(fact, LateOutcomeRecorded):
            yield f"{name} follows the end"
        if self.is_parked and not isinstance(fact, (AgentTakenOver, LateOutcomeRecorded)):
            yield f"{name}, while the agent waits"
        yield from self.work.enter(fact)
        yield from self.parent.enter(fact)
        match fact:
            case AgentStarted():
                yield from self._start(fact)
            case AgentTakenOver():
                yield from self._take_over(fact)
            case AgentParked():
                yield from self._park()
            case AgentSucceeded() | AgentFailed() | AgentCancelled():
                yield from self._end(fact)
            case MessageReceived():
                yield from self._hear(fact)
            case ModelCallStarted():
                yield from self.effects.enter(fact)
                yield from self._read(fact)
            case LateOutcomeRecorded() if fact.generation >= self.generation:
                yield f"an outcome of generation {fact.generation} comes too late for generation {self.generation}"
            case _:
                yield from self.effects.enter(fact)

    def end_of_entry(self) -> Iterator[str]:
        taken_over, self.taken_over = self.taken_over, None
        if taken_over is not None:
            for place in sorted(self.begun - self.effects.doubts):
                yield f"effect {place} was under way, and was not put in doubt"
            if taken_over.HasField("receipt"):
                yield from self._check_settled(taken_over.receipt)
        yield from self.effects.end_of_entry()

    def _start(self, fact: AgentStarted) -> Iterator[str]:
        yield from self._check_claim(fact.generation, fact.executor_id)
        self.generation = fact.generation
        is_command = fact.HasField("command")
        self.work = CommandConduct(fact.command) if is_command else OutputConduct.of(fact.node)

    def _take_over(self, fact: AgentTakenOver) -> Iterator[str]:
        if fact.generation <= self.generation:
            yield f"generation {fact.generation} takes over from generation {self.generation}"
        yield from self._check_claim(fact.generation, fact.executor_id)
        if fact.HasField("receipt"):
            yield from self._check_found(fact.receipt)
        self.begun = set() if self.is_parked else self.effects.open.keys() - self.effects.asked
        if self.is_parked:
            self.effects.start_anew()
        self.generation, self.is_parked, self.taken_over = fact.generation, False, fact

    def _check_claim(self, generation: int, executor_id: str) -> Iterator[str]:
        if self.run is not None and self.run.claims.get((self.task_id, generation)) != executor_id:
            yield f"generation {generation} is of {executor_id!r}, which has no such claim"

    def _check_found(self, receipt: ResumeReceipt) -> Iterator[str]:
        """Against what was recorded before."""
        not_begun = len(self.effects.open) if self.is_parked else 0
        yield from _compare("model_answers_reused", receipt, self.effects.answers)
        yield from _compare("tool_outcomes_reused", receipt, self.effects.outcomes)
        yield from _compare("tool_calls_not_begun", receipt, not_begun)

    def _check_settled(self, receipt: ResumeReceipt) -> Iterator[str]:
        """Against what is done in the same entry."""
        lost = sum(index == MODEL for _, index in self.effects.doubts)
        yield from _compare("model_calls_lost", receipt, lost)
        for name, resolution in _RESOLVED:
            yield from _compare(name, receipt, self.effects.settled.count(resolution))

    def _park(self) -> Iterator[str]:
        if any(index == MODEL for _, index in self.effects.open):
            yield "AgentParked, and a model call has no outcome"
        self.is_parked = True

    def _end(self, fact: AgentSucceeded | AgentFailed | AgentCancelled) -> Iterator[str]:
        self.is_over = True
        if isinstance(fact, AgentSucceeded):
            if self.effects.open:
                yield f"AgentSucceeded, and {len(self.effects.open)} effects have no outcome"
            for number in sorted({message.number for message in self.heard} - self.read):
                yield f"AgentSucceeded, and message {number} was not read"
        if set(fact.result.messages_read) != self.read:
            yield f"the result says that messages {list(fact.result.messages_read)} were read: {sorted(self.read)} were"

    def _hear(self, fact: MessageReceived) -> Iterator[str]:
        if fact.number != len(self.heard) + 1:
            yield f"message {fact.number} follows message {len(self.heard)}"
        self.heard.append(fact)
        sent = self.run.sent.get(self.task_id, ()) if self.run is not None else None
        said = (fact.number, fact.message_id, fact.mode, fact.text)
        if sent is not None and said not in [(one.number, one.message_id, one.mode, one.text) for one in sent]:
            yield f"message {fact.number} was not sent like this"

    def _read(self, fact: ModelCallStarted) -> Iterator[str]:
        for number in fact.messages:
            if number > len(self.heard):
                yield f"the model reads message {number}, which the agent has not heard"
            if number in self.read:
                yield f"the model reads message {number} a second time"
        self.read.update(fact.messages)


def _compare(name: str, receipt: ResumeReceipt, found: int) -> Iterator[str]:
    said = getattr(receipt, name)
    if said != found:
        yield f"the receipt says {name} {said}, and it is {found}"
