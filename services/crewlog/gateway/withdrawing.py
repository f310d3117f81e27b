"""What of the live output is not to be shown any more, worked out from the log for one stream of a run.

An attempt at an effect is over when its outcome is recorded, or its loss: what it says after that, such as an executor
that does not know yet that it has lost its claim, is not passed on. Where nothing came of it (the model call failed,
the effect was put in doubt, the agent ended in the middle of it), what it has said is withdrawn. Live output may be
lost, entries are not: so a withdrawal comes for certain, before the entry that it follows from. Whoever loses the
connection in between gets both again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from crewlog.domain.agent.state import MODEL, Agent, Place, is_over, place_of
from crewlog.eventlog import codec
from crewlog.gateway.queries import Queries
from crewlog.gateway.writer import refold
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentSucceeded,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_service_pb2 import LiveDelta
from google.protobuf.message import Message

FOREVER = 2**62


@dataclass(slots=True)
class Mark:
    """How far an agent is: the attempts that are over by the index of their effect, of its latest turn; those of the
    turns before are all over. `open` are the attempts without an outcome."""

    turn: int = 0
    over: dict[int, int] = field(default_factory=dict)
    open: dict[Place, int] = field(default_factory=dict)

    def begin(self, place: Place, attempt: int) -> None:
        self._enter(place[0])
        self.open[place] = attempt

    def end(self, place: Place, attempt: int) -> None:
        self._enter(place[0])
        self.open.pop(place, None)
        if place[0] == self.turn:
            self.over[place[1]] = max(attempt, self.over.get(place[1], 0))

    def is_over(self, delta: LiveDelta) -> bool:
        return delta.turn < self.turn or (delta.turn == self.turn and delta.attempt <= self.over.get(delta.index, 0))

    def _enter(self, turn: int) -> None:
        if turn > self.turn:
            self.turn, self.over = turn, {}


class Attempts:
    """Follows the entries of one stream. Used by that stream alone."""

    def __init__(self, marks: dict[str, Mark] | None = None) -> None:
        self._marks = marks or {}

    def is_wanted(self, delta: LiveDelta) -> bool:
        """Whether the attempt that the piece comes from is not over, as far as the stream has come."""
        mark = self._marks.get(delta.agent_id)
        return mark is None or not mark.is_over(delta)

    def withdrawals(self, entry: Entry) -> Iterator[LiveDelta]:
        """For the attempts of which the entry says that nothing came of them."""
        if entry.aggregate.kind != "agent":
            return
        agent_id = entry.aggregate.id
        mark = self._marks.setdefault(agent_id, Mark())
        for fact in codec.known_facts((entry,)):
            for (turn, index), attempt in _given_up(mark, fact):
                run_id = agent_id.partition("_")[0]
                yield LiveDelta(
                    run_id=run_id, agent_id=agent_id, turn=turn, index=index, attempt=attempt, withdrawn=True
                )


def _given_up(mark: Mark, fact: Message) -> list[tuple[Place, int]]:
    """The attempts that the fact ends without a result."""
    match fact:
        case ModelCallStarted() | ToolCallStarted():
            mark.begin(place_of(fact.key), fact.key.attempt)
        case ModelCallSucceeded() | ToolCallSucceeded() | ToolCallFailed():
            mark.end(place_of(fact.key), fact.key.attempt)
        case ModelCallFailed() | EffectPutInDoubt():
            mark.end(place_of(fact.key), fact.key.attempt)
            return [(place_of(fact.key), fact.key.attempt)]
        case EffectReconciled():
            _again(mark, fact.key, fact.resolution)
        case AgentSucceeded() | AgentFailed() | AgentCancelled():
            left = sorted(mark.open.items())
            mark.turn, mark.open = FOREVER, {}
            return left
    return []


def _again(mark: Mark, key: EffectKey, resolution: EffectReconciled.Resolution.ValueType) -> None:
    """A tool call runs again without a new intent; a model call has one."""
    again = (EffectReconciled.RESOLUTION_RUN_AGAIN, EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN)
    if key.index != MODEL and resolution in again:
        mark.begin(place_of(key), key.attempt + 1)


def attempts_at(queries: Queries, run_id: str, revision: int) -> Attempts:
    """As the entries up to the revision say. Only the agents that were at work then are folded."""
    query = "select agent_id, revision, view_revision from agent where run_id = ? and started <= ?"
    marks = dict[str, Mark]()
    with queries.snapshot() as connection:
        for agent_id, last, at_rest in connection.execute(query, (run_id, revision)).fetchall():
            if last == at_rest and last <= revision:
                marks[agent_id] = Mark(FOREVER)
            else:
                folded = refold(connection, ("agent", agent_id), before=revision + 1)
                assert folded is not None, f"agent {agent_id} has started before revision {revision}"
                marks[agent_id] = _mark_of(cast(Agent, folded.state))
    return Attempts(marks)


def _mark_of(agent: Agent) -> Mark:
    if is_over(agent):
        return Mark(FOREVER)
    running = {place: effect.attempt for place, effect in agent.open.items() if not effect.is_asked}
    if agent.attempts:
        turn = len(agent.turns) + 1
        return Mark(turn, {MODEL: agent.attempts - ((turn, MODEL) in agent.open)}, running)
    ended = dict.fromkeys((MODEL, *(agent.turns[-1].outcomes if agent.turns else ())), FOREVER)
    before = {index: effect.attempt - (not effect.is_asked) for (_, index), effect in agent.open.items()}
    return Mark(len(agent.turns), {**ended, **before}, running)
