"""Entries as somebody could have written them, in the order of the log: for whatever checks histories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import AgentStarted, AgentTakenOver
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from google.protobuf.message import Message

Fact = Message | tuple[Message, ...]
"""An entry: one fact, or several that are decided together."""


def entries(*facts: Fact, kind: str = "agent") -> list[Entry]:
    """The entries of one aggregate."""
    return log(*((kind, "x", fact) for fact in facts))


def log(*written: tuple[str, str, Fact]) -> list[Entry]:
    """The entries of several aggregates: kind, id and what was written."""
    ordinals: dict[tuple[str, str], int] = {}
    generations: dict[tuple[str, str], int] = {}
    found = []
    for kind, id, fact in written:
        facts = fact if isinstance(fact, tuple) else (fact,)
        key = (kind, id)
        ordinals[key] = ordinals.get(key, 0) + 1
        generations[key] = max([generations.get(key, 1), *_begun(facts)])
        found.append(
            Entry(
                aggregate=Aggregate(tenant="local", kind=kind, id=id),
                ordinal=ordinals[key],
                generation=generations[key],
                decisions=[Decision(events=[codec.pack(one) for one in facts])],
            )
        )
    return found


def _begun(facts: Sequence[Message]) -> Iterable[int]:
    return [fact.generation for fact in facts if isinstance(fact, (AgentStarted, AgentTakenOver))]
