"""An entry on its way into the log. Its headers are few and short: every reader pays for them."""

from __future__ import annotations

from dataclasses import dataclass

from crewlog.eventlog.port import AggregateId
from crewlog.telemetry import traces


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The bytes and headers that every attempt sends."""

    subject: str
    payload: bytes
    expected_revision: int
    headers: dict[str, str]


def outgoing(stream: str, aggregate: AggregateId, payload: bytes, expected_revision: int) -> Outgoing:
    """The stream is named so that nothing meant for one epoch gets into the next."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_revision), "Nats-Expected-Stream": stream}
    if traces.is_recording():
        traces.inject(headers)
    return Outgoing(aggregate.subject, payload, expected_revision, headers)
