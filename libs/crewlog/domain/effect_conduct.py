"""What may become of the effects of an agent, as its history shows it: counted from its facts alone.

intents       an effect is begun once for each attempt, and the model is called only when every call before it has ended
outcomes      an outcome has an open intent of the same attempt before it, and an intent has at most one outcome
doubts        what is put in doubt is settled in the same entry, or by a person
attempts      a call that has failed is tried again as often as the rules say, and no more
late          what came too late belongs to an attempt that was begun, and is recorded once
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crewlog.domain.agent_state import INTERRUPTED, MODEL
from crewlog.domain.agent_steps import MODEL_ATTEMPTS_MAX
from crewlog.v1.agent_pb2 import (
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    LateOutcomeRecorded,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from google.protobuf.message import Message

Place = tuple[int, int]
"""Turn and index of an effect."""

_STAYS = (EffectReconciled.RESOLUTION_TOLD_UNKNOWN, EffectReconciled.RESOLUTION_ASKED)


@dataclass(slots=True)
class EffectConduct:
    """`open` holds the attempts of intents by their place, `doubtful` the places that nobody has settled yet, `asked`
    those that a person settles; `settled` are the resolutions of this entry, of tool calls."""

    open: dict[Place, int] = field(default_factory=dict)
    attempts: dict[Place, int] = field(default_factory=dict)
    doubtful: set[Place] = field(default_factory=set)
    asked: set[Place] = field(default_factory=set)
    settled: list[int] = field(default_factory=list)
    doubts: set[Place] = field(default_factory=set)
    answers: int = 0
    outcomes: int = 0
    failures: int = 0
    is_hopeless: bool = False
    late: set[tuple[int, Place, int]] = field(default_factory=set)

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case ModelCallStarted() | ToolCallStarted():
                yield from self._intended(fact)
            case ModelCallSucceeded() | ModelCallFailed() | ToolCallSucceeded() | ToolCallFailed():
                yield from self._came_of(fact)
            case EffectPutInDoubt():
                yield from self._check_open(fact.key, "a doubt")
                self.doubtful.add(place_of(fact.key))
                self.doubts.add(place_of(fact.key))
            case EffectReconciled():
                yield from self._reconciled(fact)
            case LateOutcomeRecorded():
                yield from self._too_late(fact)

    def end_of_entry(self) -> Iterator[str]:
        for place in sorted(self.doubtful):
            yield f"effect {place} is in doubt, and nothing is done about it"
        self.doubtful.clear()
        self.doubts.clear()
        self.settled.clear()

    def start_anew(self) -> None:
        """Somebody has done something about what a provider refused."""
        self.failures, self.is_hopeless = 0, False

    def _intended(self, fact: ModelCallStarted | ToolCallStarted) -> Iterator[str]:
        place = place_of(fact.key)
        if place in self.open:
            yield f"effect {place} is begun again while it is open"
        if fact.key.attempt <= self.attempts.get(place, 0):
            yield f"attempt {fact.key.attempt} of effect {place} is begun twice"
        if isinstance(fact, ModelCallStarted):
            yield from self._calls_the_model()
        self.attempts[place] = self.open[place] = fact.key.attempt

    def _calls_the_model(self) -> Iterator[str]:
        if self.open:
            yield f"the model is called while effects {sorted(self.open)} have no outcome"
        if self.is_hopeless:
            yield "the model is called after a failure that no retry mends"
        if self.failures >= MODEL_ATTEMPTS_MAX:
            yield f"the model is called after {self.failures} failures in a row"

    def _came_of(
        self, fact: ModelCallSucceeded | ModelCallFailed | ToolCallSucceeded | ToolCallFailed
    ) -> Iterator[str]:
        yield from self._check_open(fact.key, "an outcome")
        place = place_of(fact.key)
        self.open.pop(place, None)
        self.doubtful.discard(place)
        self.asked.discard(place)
        match fact:
            case ModelCallSucceeded():
                self.answers += 1
                self.start_anew()
            case ModelCallFailed():
                failure = fact.failure.failure
                counts = failure.reason != INTERRUPTED
                self.failures += counts
                self.is_hopeless = counts and bool(failure.reason) and not failure.retryable
            case _:
                self.outcomes += 1

    def _reconciled(self, fact: EffectReconciled) -> Iterator[str]:
        yield from self._check_open(fact.key, "a doubt")
        place = place_of(fact.key)
        if place not in self.doubtful | self.asked:
            yield f"effect {place} is settled, and was not in doubt"
        self.doubtful.discard(place)
        self.asked.discard(place)
        attempt = self.open.pop(place, 0)
        if fact.key.index == MODEL:
            return
        self.settled.append(fact.resolution)
        self.attempts[place] = self.open[place] = attempt + (fact.resolution not in _STAYS)
        if fact.resolution == EffectReconciled.RESOLUTION_ASKED:
            self.asked.add(place)

    def _too_late(self, fact: LateOutcomeRecorded) -> Iterator[str]:
        place = place_of(fact.key)
        key = (fact.generation, place, fact.key.attempt)
        if fact.key.attempt > self.attempts.get(place, 0):
            yield f"a late outcome of effect {place}, attempt {fact.key.attempt}, which was not begun"
        if key in self.late:
            yield f"the late outcome of effect {place} is recorded twice"
        self.late.add(key)

    def _check_open(self, key: EffectKey, what: str) -> Iterator[str]:
        if self.open.get(place_of(key), 0) != key.attempt:
            yield f"{what} of effect {place_of(key)}, attempt {key.attempt}, which is not open"


def place_of(key: EffectKey) -> Place:
    return key.turn, key.index
