"""What may become of the effects of an agent, and what it hands over, as its history shows it: from its facts alone.

intents       an effect is begun once for each attempt, and the model is called only when every call before it has ended
outcomes      an outcome has an open intent of the same attempt before it, and an intent has at most one outcome
doubts        what is put in doubt is settled in the same entry, or by a person
attempts      a call that has failed is tried again as often as the rules say, and no more
late          what came too late belongs to an attempt that was begun, and is recorded once
results       only `finish` hands one over, only where the node asks for one, and it fits; whoever owes one succeeds
              with one, and an end says what was handed over last
refusals      a model that was told often enough that its result does not do is not asked again; an agent that fails
              for that was told so often
commands      ask no model, and begin one thing, which may have the network or can be put back; by its exit code they
              have succeeded or failed
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from crewlog.domain.agent.ends import INVALID_OUTPUTS_MAX
from crewlog.domain.agent.state import COMMAND_TOOL, FINISH_TOOL, INTERRUPTED, INVALID_OUTPUT, MODEL
from crewlog.domain.agent.steps import MODEL_ATTEMPTS_MAX
from crewlog.domain.workflow import planning, schemas
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentSucceeded,
    EffectClass,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    LateOutcomeRecorded,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import AgentNode
from google.protobuf.message import Message

Place = tuple[int, int]
"""Turn and index of an effect."""

AgentEnd = AgentSucceeded | AgentFailed | AgentCancelled

_ONLY_PLACE = (1, 0)
_NO_STOP = ("pause_turn", "max_tokens", "refusal")
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


@dataclass(slots=True)
class OutputConduct:
    """Of an agent with a model. `refused` counts the attempts in a row that did not do."""

    schema: str = ""
    finishing: set[Place] = field(default_factory=set)
    handed_over: str = ""
    refused: int = 0

    @classmethod
    def of(cls, node: AgentNode) -> OutputConduct:
        return cls(planning.schema(node.planning) if node.HasField("planning") else node.output_schema)

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case ToolCallStarted() if fact.call.tool == FINISH_TOOL:
                self.finishing.add(place_of(fact.key))
            case ToolCallSucceeded():
                yield from self._came_of(fact)
            case ToolCallFailed() if fact.failure.reason == INVALID_OUTPUT:
                self.refused += place_of(fact.key) in self.finishing
            case ModelCallSucceeded():
                self.refused += self._hands_nothing_over(fact.answer)
            case ModelCallStarted() if self.refused > INVALID_OUTPUTS_MAX:
                yield f"the model is asked again after {self.refused} results that did not do"
            case AgentSucceeded() | AgentFailed() | AgentCancelled():
                yield from self._end(fact)

    def _came_of(self, fact: ToolCallSucceeded) -> Iterator[str]:
        place, result = place_of(fact.key), fact.output.structured_json
        if bool(result) != (bool(self.schema) and place in self.finishing):
            yield f"effect {place} hands over {result or 'nothing'}, and that is not what it is for"
        if not result:
            return
        if self.schema:
            yield from (f"the result does not fit: {what}" for what in schemas.violations_of(self.schema, result))
        self.handed_over, self.refused = result, 0

    def _hands_nothing_over(self, answer: ModelAnswer) -> bool:
        """The model stops, and owes a result."""
        calls = any(block.HasField("tool_use") for block in answer.content)
        stops = not calls and answer.stop_reason not in _NO_STOP
        return stops and bool(self.schema) and not self.handed_over

    def _end(self, fact: AgentEnd) -> Iterator[str]:
        yield from _check_said(fact, self.handed_over)
        if isinstance(fact, AgentSucceeded) and self.schema and not self.handed_over:
            yield "AgentSucceeded, and no result was handed over"
        is_too_early = self.refused <= INVALID_OUTPUTS_MAX
        if isinstance(fact, AgentFailed) and fact.failure.reason == "output_invalid" and is_too_early:
            yield f"AgentFailed for its result, and only {self.refused} did not do"


@dataclass(slots=True)
class CommandConduct:
    """`result` is what the command has come to."""

    command: CommandNode = field(default_factory=CommandNode)
    result: str = ""

    def enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case ModelCallStarted():
                yield "a command asks a model"
            case ToolCallStarted():
                yield from self._begin(fact)
            case ToolCallSucceeded():
                self.result = fact.output.structured_json
                if self._exit_code is None:
                    yield f"the command has come to {self.result or 'nothing'}, which has no exit code"
            case AgentSucceeded() | AgentFailed() | AgentCancelled():
                yield from self._end(fact)

    @property
    def _exit_code(self) -> int | None:
        try:
            value = json.loads(self.result)
        except ValueError:
            return None
        code = value.get("exit_code") if isinstance(value, dict) else None
        return code if isinstance(code, int) else None

    @property
    def _is_done(self) -> bool:
        return self._exit_code in (0, *self.command.ok_exit_codes)

    def _begin(self, fact: ToolCallStarted) -> Iterator[str]:
        opaque, reversible = EffectClass.EFFECT_CLASS_OPAQUE, EffectClass.EFFECT_CLASS_REVERSIBLE
        if fact.call.tool != COMMAND_TOOL or place_of(fact.key) != _ONLY_PLACE:
            yield f"a command begins {fact.call.tool or 'something'} at {place_of(fact.key)}"
        if fact.effect_class != (opaque if self.command.network else reversible):
            yield f"the command counts as {EffectClass.Name(fact.effect_class)}"

    def _end(self, fact: AgentEnd) -> Iterator[str]:
        yield from _check_said(fact, self.result)
        if isinstance(fact, AgentSucceeded) and not self._is_done:
            yield f"AgentSucceeded, and the command has come to {self.result or 'nothing'}"
        if isinstance(fact, AgentFailed) and fact.failure.reason.startswith("command_") and self._is_done:
            yield f"AgentFailed, and the command has come to {self.result}"


def _check_said(fact: AgentEnd, result: str) -> Iterator[str]:
    """An end says what was handed over."""
    if fact.result.structured_json != result:
        said = fact.result.structured_json or "nothing"
        yield f"{fact.DESCRIPTOR.name} with {said} for a result, and {result or 'nothing'} was handed over"


def place_of(key: EffectKey) -> Place:
    return key.turn, key.index
