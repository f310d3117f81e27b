"""The log, the blobs and the live plane in memory: for tests. They do what the real ones do, and keep nothing."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from operator import attrgetter

from crewlog.eventlog.limits import BATCH_ENTRIES_MAX, check_blob, check_entry, check_head, check_kinds
from crewlog.eventlog.live_queue import LiveQueue, subject_of
from crewlog.eventlog.port import AggregateId, BlobMissing, Stored, WrongRevision

_revision = attrgetter("revision")


class MemoryLog:
    """An EventLog for the tasks of one event loop."""

    def __init__(self, epoch: str = "memory") -> None:
        self._epoch = epoch
        self._entries: list[Stored] = []
        self._of: defaultdict[AggregateId, list[Stored]] = defaultdict(list)
        self._grown = asyncio.Event()

    @property
    def epoch(self) -> str:
        return self._epoch

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        check_entry(payload)
        await asyncio.sleep(0)  # others get their chance to be faster, as they do with a server
        entries = self._of[aggregate]
        if (entries[-1].revision if entries else 0) != expected_revision:
            raise WrongRevision(f"{aggregate.subject} is not at {expected_revision}")
        stored = Stored(len(self._entries) + 1, aggregate, bytes(payload))
        self._entries.append(stored)
        entries.append(stored)
        self._grown.set()
        self._grown = asyncio.Event()
        return stored.revision

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        await asyncio.sleep(0)
        entries = self._of.get(aggregate, [])
        return entries[bisect_right(entries, after_revision, key=_revision) :]

    async def last(self, aggregate: AggregateId) -> Stored | None:
        await asyncio.sleep(0)
        entries = self._of.get(aggregate)
        return entries[-1] if entries else None

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        check_kinds((kind,))
        return self._last_of_each(kind)

    async def _last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        lasts = (entries[-1] for aggregate, entries in self._of.items() if entries and aggregate.kind == kind)
        found = sorted(lasts, key=_revision)
        for start in range(0, len(found), BATCH_ENTRIES_MAX):
            yield found[start : start + BATCH_ENTRIES_MAX]

    def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        check_kinds(tuple(kinds))
        return self._follow(after_revision, tuple(kinds))

    async def _follow(self, after_revision: int, kinds: Sequence[str]) -> AsyncGenerator[Sequence[Stored], None]:
        check_head(len(self._entries), after_revision)
        position = after_revision
        while True:
            grown = self._grown
            batch = self._entries[position : position + BATCH_ENTRIES_MAX]
            if not batch:
                await grown.wait()
                continue
            position = batch[-1].revision
            wanted = [stored for stored in batch if not kinds or stored.aggregate.kind in kinds]
            if wanted:
                yield wanted

    async def head(self) -> int:
        return len(self._entries)


class MemoryBlobs:
    """A BlobStore."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}

    async def put(self, content: bytes) -> bytes:
        check_blob(content)
        digest = hashlib.sha256(content).digest()
        self._blobs[digest] = bytes(content)
        return digest

    async def get(self, sha256: bytes) -> bytes:
        try:
            return self._blobs[sha256]
        except KeyError:
            raise BlobMissing(sha256.hex()) from None


class MemoryLive:
    """The live plane within one event loop."""

    def __init__(self) -> None:
        self._readers: defaultdict[str, set[LiveQueue]] = defaultdict(set)

    async def publish(self, tenant: str, run_id: str, payload: bytes) -> None:
        for reader in self._readers.get(subject_of(tenant, run_id), ()):
            reader.put(payload)

    async def subscribe(self, tenant: str, run_id: str) -> AsyncGenerator[bytes, None]:
        queue, subject = LiveQueue(), subject_of(tenant, run_id)
        readers = self._readers[subject]
        readers.add(queue)
        try:
            async for payload in queue.drain():
                yield payload
        finally:
            readers.discard(queue)
            if not readers:
                self._readers.pop(subject, None)
