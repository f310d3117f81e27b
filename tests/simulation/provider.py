"""A provider that keeps a ledger of its own: every call that it sees, and what it charges for it."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from crewlog.domain.amounts import Amounts
from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import (
    EffectKey,
    EffectPutInDoubt,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelFailure,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Reservation, Usage
from crewlog.v1.entry_pb2 import Entry
from google.protobuf.message import Message

from tests.simulation.faults import FaultyLog

Place = tuple[str, int, int]
"""Agent, turn and attempt."""
REFUSED, LOST, ABOVE = 0.05, 0.05, 0.02


@dataclass(frozen=True, slots=True)
class Call:
    reserved: Amounts
    charged: Amounts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the provider sends back: one of both."""

    answer: ModelAnswer | None = None
    failure: ModelFailure | None = None


class Provider:
    def __init__(self, log: FaultyLog, chance: Random) -> None:
        self.ledger: dict[Place, Call] = {}
        self.unpaid: list[str] = []
        self.above = 0
        self._log = log
        self._chance = chance

    async def call(self, agent_id: str, key: EffectKey, reservation: Reservation) -> Outcome:
        """Some calls are refused and cost nothing, some are charged and their answers lost, some cost too much."""
        await sleep(0)
        place = (agent_id, key.turn, key.attempt)
        self._check_paid(place, reservation)
        roll = self._chance.random()
        if roll < REFUSED:
            self.ledger[place] = Call(_worst(reservation), Amounts())
            return Outcome(failure=ModelFailure(failure=Failure(reason="model_rate_limited", retryable=True)))
        answer = self._answer(reservation)
        self.ledger[place] = Call(_worst(reservation), used(answer))
        await sleep(0)
        if roll < REFUSED + LOST:
            lost = Failure(reason="model_unreachable", retryable=True)
            return Outcome(failure=ModelFailure(failure=lost, may_have_charged=True))
        return Outcome(answer=answer)

    def _check_paid(self, place: Place, reservation: Reservation) -> None:
        if place in self.ledger:
            self.unpaid.append(f"{place} is called twice on one reservation")
        intents = intents_of(self._log.history("agent", place[0]))
        reserved = intents.get(place[1:])
        if reserved is None or reserved[0] != reservation:
            self.unpaid.append(f"{place} is called and the log has no such reservation")
        elif isinstance(reserved[1], (ModelCallSucceeded, ModelCallFailed)):
            self.unpaid.append(f"{place} is called after its reservation was settled")

    def _answer(self, reservation: Reservation) -> ModelAnswer:
        share = self._chance.choice((0.1, 0.5, 0.9, 1.0))
        if self._chance.random() < ABOVE:
            share, self.above = 1.2, self.above + 1
        usage = Usage(
            input_tokens=int(reservation.input_tokens_max * share),
            output_tokens=int(reservation.output_tokens_max * share),
        )
        return ModelAnswer(usage=usage, cost_usd_micros=int(reservation.usd_micros * share), stop_reason="end_turn")


def used(answer: ModelAnswer) -> Amounts:
    return Amounts(answer.cost_usd_micros, answer.usage.input_tokens, answer.usage.output_tokens, 1)


def intents_of(history: Iterable[Entry]) -> dict[tuple[int, int], tuple[Reservation, Message | None]]:
    """The reservations in a history with what has become of each, by turn and attempt."""
    found: dict[tuple[int, int], tuple[Reservation, Message | None]] = {}
    for entry in history:
        for fact in codec.facts(entry):
            if isinstance(fact, ModelCallStarted):
                found[fact.key.turn, fact.key.attempt] = (fact.reservation, None)
            elif isinstance(fact, (ModelCallSucceeded, ModelCallFailed, EffectPutInDoubt)):
                place = (fact.key.turn, fact.key.attempt)
                found[place] = (found[place][0], fact)
    return found


def bill(provider: Provider, agent_id: str, history: Iterable[Entry]) -> Amounts:
    """What an agent owes by the ledger: what was charged, and all that was reserved where the answer was lost."""
    owed = Amounts()
    for place, (reservation, fate) in intents_of(history).items():
        seen = provider.ledger.get((agent_id, *place))
        if isinstance(fate, ModelCallSucceeded):
            owed += seen.charged if seen is not None else Amounts()
        elif not isinstance(fate, ModelCallFailed) or fate.failure.may_have_charged:
            owed += _worst(reservation)
    return owed


def _worst(reservation: Reservation) -> Amounts:
    return Amounts(reservation.usd_micros, reservation.input_tokens_max, reservation.output_tokens_max, 1)
