"""Histories made by hand, for everything that only reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crewlog.eventlog import codec
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, RecordedEntry
from google.protobuf.message import Message

Record = Callable[..., RecordedEntry]


@pytest.fixture
def record() -> Record:
    """record("run", "demo", RunStarted(...), ...): one entry, at the next revision, a second after the one before."""
    revision = 0

    def next_entry(kind: str, id: str, *facts: Message) -> RecordedEntry:
        nonlocal revision
        revision += 1
        entry = Entry(
            aggregate=Aggregate(tenant="local", kind=kind, id=id),
            recorded_at_unix_micros=revision * 1_000_000,
            decisions=[Decision(command_id=f"c{revision}", events=[codec.pack(fact) for fact in facts])],
        )
        return RecordedEntry(revision=revision, entry=entry)

    return next_entry
