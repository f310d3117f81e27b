"""Histories of runs that were really made, and as many others like them as wanted: other ids, hash chains that fit.

Every id of a copy is as long as the one that it replaces, so the bytes are changed where they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from crewlog.domain import names
from crewlog.eventlog.port import Stored
from crewlog.v1.entry_pb2 import Entry


@dataclass(frozen=True, slots=True)
class Line:
    """What is appended: to which subject, behind how many entries of it, and the bytes."""

    subject: str
    ordinal: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class History:
    """The entries of one run, of its agents and of its files, in the order in which they were appended."""

    run_id: str
    entries: Sequence[tuple[Stored, Entry]]

    @classmethod
    def of(cls, run_id: str, log: Iterable[Stored]) -> History:
        of_run = (stored for stored in log if names.run_of(stored.aggregate.id) == run_id)
        return cls(run_id, [(stored, Entry.FromString(stored.payload)) for stored in of_run])

    def copy(self, run_id: str) -> Iterator[Line]:
        """The same, of another run."""
        if len(run_id) != len(self.run_id):
            raise ValueError(f"{run_id!r} has another length than {self.run_id!r}")
        before, after, hashes = self.run_id.encode(), run_id.encode(), dict[str, bytes]()
        for stored, entry in self.entries:
            subject = stored.aggregate.subject.replace(self.run_id, run_id)
            payload = stored.payload.replace(before, after)
            if entry.previous_hash:
                payload = payload.replace(entry.previous_hash, hashes[subject])
            hashes[subject] = hashlib.sha256(payload).digest()
            yield Line(subject, entry.ordinal, payload)


def spread(closed: Iterator[Line], still_open: Sequence[Sequence[Line]], count: int) -> Iterator[Line]:
    """`count` lines: the open runs' entries, taken in turn, stand apart from one another over the whole of it."""
    waiting = [lines[place] for place in range(len(still_open[0])) for lines in still_open]
    step = count / len(waiting)
    placed = 0
    for number in range(count):
        if placed < len(waiting) and number >= placed * step:
            yield waiting[placed]
            placed += 1
        else:
            yield next(closed)
