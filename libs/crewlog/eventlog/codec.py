"""Facts in and out of the stored message."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from crewlog.domain.errors import UnknownEvent
from crewlog.v1.entry_pb2 import Entry, Event
from google.protobuf.message import Message

_FIELD_OF: dict[str, str] = {
    field.message_type.full_name: field.name
    for field in Event.DESCRIPTOR.oneofs_by_name["fact"].fields
    if field.message_type
}
EVENT_TYPES: tuple[str, ...] = tuple(_FIELD_OF.values())


def event_type(fact: Message) -> str:
    """The name of the fact in the catalogue, such as `task_claimed`."""
    return _FIELD_OF[fact.DESCRIPTOR.full_name]


def pack(fact: Message) -> Event:
    event = Event()
    getattr(event, _FIELD_OF[fact.DESCRIPTOR.full_name]).CopyFrom(fact)
    return event


def unpack(event: Event) -> Message | None:
    """The fact, or None when this release does not know it."""
    field = event.WhichOneof("fact")
    return getattr(event, field) if field else None


def facts(entry: Entry) -> Iterator[Message]:
    """Every fact of the entry, in order; raises UnknownEvent, as a decider must not guess."""
    for decision in entry.decisions:
        for event in decision.events:
            fact = unpack(event)
            if fact is None:
                raise UnknownEvent(f"{entry.aggregate.kind} {entry.aggregate.id}, entry {entry.ordinal},")
            yield fact


def known_facts(entries: Iterable[Entry]) -> Iterator[Message]:
    """Every fact that this release knows: for what is only shown."""
    for entry in entries:
        for decision in entry.decisions:
            for event in decision.events:
                fact = unpack(event)
                if fact is not None:
                    yield fact


def hash_of(payload: bytes) -> bytes:
    """What the next entry of the aggregate holds as `previous_hash`."""
    return hashlib.sha256(payload).digest()
