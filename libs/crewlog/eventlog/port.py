"""The port to the log: append, read, follow; and to the blobs that entries name.

tests/contract holds what every adapter has to do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.names import is_aggregate_id

SUBJECTS = "crewlog.events"
INLINE_BYTES_MAX = 64 * 1024
ENTRY_BYTES_MAX = 4 * 1024 * 1024
BLOB_BYTES_MAX = 64 * 1024 * 1024
SUBJECTS_REMEMBERED_MAX = 4_096
"""Most entries that are read are of an aggregate that has just had another one."""


@dataclass(frozen=True, slots=True)
class AggregateId:
    """What an entry belongs to; each part is one token of the subject. Raises InvalidCommand for a bad token."""

    tenant: str
    kind: str
    id: str

    def __post_init__(self) -> None:
        for token in (self.tenant, self.kind, self.id):
            if not is_aggregate_id(token):
                raise InvalidCommand(f"{token[:80]!r} cannot be part of a subject: use a-z, 0-9, '-' and '_'")

    @property
    def subject(self) -> str:
        return f"{SUBJECTS}.{self.tenant}.{self.kind}.{self.id}"

    @classmethod
    @lru_cache(SUBJECTS_REMEMBERED_MAX)
    def of_subject(cls, subject: str) -> AggregateId:
        return cls(*subject.split(".")[2:])


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry as it stands in the log: `payload` is the serialised Entry, byte for byte."""

    revision: int
    aggregate: AggregateId
    payload: bytes


class WrongRevision(Exception):
    """Somebody else has appended to the aggregate since `expected_revision`. Nothing was written."""


class AppendInDoubt(Exception):
    """The log did not answer within the deadline, and whether the entry was stored could not be found out.

    Whoever holds state of the aggregate has to read it again before it decides anything.
    """


class EventLog(Protocol):
    """An append-only sequence of entries. Revisions grow; those of one aggregate need not be consecutive."""

    @property
    def epoch(self) -> str:
        """Names this log among its predecessors and copies."""

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        """Stores the entry durably if the last one of the aggregate has `expected_revision` (0: there is none).

        Returns the revision of the entry. A lost acknowledgement is resolved inside: the entry is stored once or not
        at all. Raises WrongRevision, AppendInDoubt, TooLarge over ENTRY_BYTES_MAX, NotPermitted, or Unavailable when
        the log takes no entries (it is full, or was closed).
        """

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        """The entries of one aggregate after a revision, in order; everything acknowledged before the call is there.

        Raises Unavailable when the log does not answer.
        """

    async def last(self, aggregate: AggregateId) -> Stored | None:
        """The last entry of one aggregate, no older than the last one acknowledged before the call; None without one.

        Raises Unavailable when the log does not answer.
        """

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        """The last entry of every aggregate of a kind, by revision, in batches that are not empty; then it ends.

        It grows with the aggregates and not with their entries. Shows the log as it is at the first step or later: an
        aggregate that gets an entry meanwhile may come again with that. Raises Unavailable and NotPermitted.
        """

    def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        """Every entry after a revision, of these kinds or of all, in order and once, in batches that are not empty.

        Never ends by itself; survives restarts of the server. Close the iterator to stop. Raises Unavailable when the
        log was closed, NotPermitted, and WrongState when the log ends before what was read of it: what was acknowledged
        is lost, or the log was put back from an older copy.
        """

    async def head(self) -> int:
        """The revision of the last entry; 0 for an empty log."""


class BlobMissing(Exception):
    """There is no blob of this hash."""


class BlobCorrupt(Exception):
    """The stored bytes do not have the hash that names them."""


class BlobStore(Protocol):
    """Content-addressed storage for bodies that are too large for an entry."""

    async def put(self, content: bytes) -> bytes:
        """Stores durably and returns the SHA-256 (32 bytes). The same content twice is one blob.

        Raises TooLarge over BLOB_BYTES_MAX.
        """

    async def get(self, sha256: bytes) -> bytes:
        """The content; raises BlobMissing or BlobCorrupt."""


class Live(Protocol):
    """The ephemeral plane: output while it is being made. May lose messages; the recorded outcome replaces them."""

    async def publish(self, tenant: str, run_id: str, payload: bytes) -> None:
        """Sends one serialised LiveDelta to whoever watches the run now."""

    def subscribe(self, tenant: str, run_id: str) -> AsyncGenerator[bytes, None]:
        """The deltas of a run from now on. A slow reader loses the oldest. Close the iterator to stop."""
