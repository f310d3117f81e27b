"""The checks of histories see what they are for: each of these is one thing that must never be written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.invariants import violations
from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentSucceeded,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.budget_pb2 import Limit, Reservation
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from crewlog.v1.run_pb2 import RunStarted, RunSucceeded, TaskClaimed
from google.protobuf.message import Message

STARTED = AgentStarted(allotment=Limit(usd_micros=100))


def key(turn: int = 1, index: int = -1, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=attempt)


def call(reserved: int = 10, turn: int = 1, attempt: int = 1) -> ModelCallStarted:
    return ModelCallStarted(key=key(turn, attempt=attempt), reservation=Reservation(usd_micros=reserved))


def answered(cost: int = 10, turn: int = 1) -> ModelCallSucceeded:
    return ModelCallSucceeded(key=key(turn), answer=ModelAnswer(cost_usd_micros=cost))


TOOL, TOOL_DONE = ToolCallStarted(key=key(index=0)), ToolCallSucceeded(key=key(index=0))


def entries(*facts: Message, kind: str = "agent") -> list[Entry]:
    return [
        Entry(
            aggregate=Aggregate(kind=kind, id="x"),
            ordinal=number,
            generation=1,
            decisions=[Decision(events=[codec.pack(fact)])],
        )
        for number, fact in enumerate(facts, 1)
    ]


@pytest.mark.parametrize(
    "facts",
    [
        [STARTED, call(), answered(), AgentSucceeded()],
        [STARTED, call(), answered(), TOOL, TOOL_DONE, call(turn=2), answered(turn=2), AgentSucceeded()],
        [STARTED, call(), EffectPutInDoubt(key=key()), EffectReconciled(key=key()), call(attempt=2)],
    ],
)
def test_a_history_as_it_should_be(facts: Sequence[Message]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([STARTED, answered()], "not open"),
        ([STARTED, call(), answered(), answered()], "not open"),
        ([STARTED, call(), call()], "begun again"),
        ([STARTED, call(), ModelCallFailed(key=key()), call()], "begun twice"),
        ([STARTED, call(), answered(), TOOL, call(turn=2)], "no outcome"),
        ([STARTED, call(reserved=101)], "above the allotment"),
        ([STARTED, call(reserved=60), answered(cost=60), call(reserved=41, turn=2)], "above the allotment"),
        ([STARTED, call(reserved=60), EffectPutInDoubt(key=key()), EffectReconciled(key=key()), call(41)], "above"),
        ([STARTED, AgentSucceeded(), call()], "follows the end"),
        ([STARTED, call(), AgentSucceeded()], "no outcome"),
        (
            [
                STARTED,
                TOOL,
                EffectReconciled(key=key(index=0), resolution=EffectReconciled.RESOLUTION_RUN_AGAIN),
                TOOL_DONE,
            ],
            "not open",
        ),
    ],
)
def test_what_must_never_be_written_to_an_agent_is_seen(facts: Sequence[Message], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


def test_allotments_above_the_budget_are_seen() -> None:
    started = RunStarted(budget=Limit(usd_micros=100))
    claims = [TaskClaimed(task_id=f"t-{n}", allotment=Limit(usd_micros=51)) for n in (1, 2)]
    assert any("above the budget" in what for what in violations(entries(started, *claims, kind="run")))
    assert any("end" in what for what in violations(entries(started, RunSucceeded(), claims[0], kind="run")))


def test_a_gap_and_an_older_generation_are_seen() -> None:
    first, second = entries(STARTED, call())
    assert any("follows entry 0" in what for what in violations([second]))
    older = Entry()
    older.CopyFrom(second)
    older.generation = 0
    assert any("generation 0" in what for what in violations([first, older]))
