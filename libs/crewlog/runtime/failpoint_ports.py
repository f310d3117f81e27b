"""The log and the blobs with failpoints around what they store; where nobody asks for points, just those."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from crewlog.eventlog.port import AggregateId, BlobStore, EventLog, Stored
from crewlog.runtime import failpoints
from crewlog.v1.entry_pb2 import Entry


def log(inner: EventLog) -> EventLog:
    return _Log(inner) if failpoints.is_configured() else inner


def blobs(inner: BlobStore) -> BlobStore:
    return _Blobs(inner) if failpoints.is_configured() else inner


class _Log:
    """Before an entry is sent, and after its acknowledgement; the name of the point says what happened."""

    def __init__(self, inner: EventLog) -> None:
        self._inner = inner

    @property
    def epoch(self) -> str:
        return self._inner.epoch

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        with failpoints.around(f"append.{aggregate.kind}.{_facts(payload)}"):
            return await self._inner.append(aggregate, payload, expected_revision)

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        return await self._inner.read(aggregate, after_revision)

    async def last(self, aggregate: AggregateId) -> Stored | None:
        return await self._inner.last(aggregate)

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        return self._inner.last_of_each(kind)

    async def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        async with aclosing(self._inner.follow(after_revision, kinds)) as batches:
            async for batch in batches:
                failpoints.reach(f"follow.{batch[-1].aggregate.kind}")
                yield batch

    async def head(self) -> int:
        return await self._inner.head()


class _Blobs:
    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    async def put(self, content: bytes) -> bytes:
        with failpoints.around("blob"):
            return await self._inner.put(content)

    async def get(self, sha256: bytes) -> bytes:
        return await self._inner.get(sha256)


def _facts(payload: bytes) -> str:
    """The events of the entry by name, each once."""
    events = (event for decision in Entry.FromString(payload).decisions for event in decision.events)
    return "+".join(dict.fromkeys(str(event.WhichOneof("fact")) for event in events))
