"""Pulls of our own from a consumer that lives in memory: what its reader gets, in order, until something is in doubt.

A consumer counts what it delivers. Whatever breaks that count, a lost connection, silence, or word that the consumer is
gone ends it with NoAnswer, and whoever reads makes the next one, behind the last entry that was seen.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.connection import Connection, Expecting, NoAnswer, status_of
from crewlog.eventlog.limits import BATCH_BYTES_MAX, BATCH_ENTRIES_MAX
from crewlog.eventlog.port import SUBJECTS, AggregateId, Stored
from nats.aio.msg import Msg

HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS_MAX = 5.0
PULL_SECONDS = 30.0
CONSUMER_IDLE_SECONDS = 30.0
NANOSECONDS = 1_000_000_000

_HEARTBEAT = "100"
_PULL_ENDED = {"404", "408"}
_PULL_TOO_LARGE = "Message Size Exceeds MaxBytes"
_PULL_BATCH_COMPLETED = "Batch Completed"


@dataclass(frozen=True, slots=True)
class Delivered:
    """`left` is how many entries of the log the consumer has not delivered yet, as far as it knows."""

    entries: Sequence[Stored]
    left: int


class _Pulls:
    """What one consumer delivers to one reader: at most one pull is open, so at most two batches are held here."""

    def __init__(self, position: int) -> None:
        self.entries: deque[Stored] = deque()
        self.left = 0
        self.pull_is_open = False
        self._position = position
        self._delivered = 0
        self._wanted = 0
        self._pull = 0
        self._broken: Exception | None = None
        self._stirred = asyncio.Event()

    def open_pull(self) -> str:
        """The token of a new pull: what the server says of an earlier one is of no interest any more."""
        self.pull_is_open, self._wanted = True, BATCH_ENTRIES_MAX
        self._pull += 1
        return str(self._pull)

    def take(self, message: Msg) -> None:
        status = status_of(message)
        if not status:
            self._deliver(message)
        elif message.subject.rpartition(".")[2] != str(self._pull):
            return
        elif status in _PULL_ENDED or _ended_by_size(message):
            self.pull_is_open = False
        elif status != _HEARTBEAT:
            self.fail(NoAnswer(f"the consumer ended: {message.headers}"))
        self._stirred.set()

    def fail(self, error: Exception) -> None:
        self._broken = self._broken or error
        self._stirred.set()

    def _deliver(self, message: Msg) -> None:
        revision, delivered, left = _place_of(message)
        if delivered != self._delivered + 1:
            self.fail(NoAnswer("the consumer left something out"))
        if self._broken is not None:
            return
        self._delivered, self.left = delivered, left
        self._wanted -= 1
        self.pull_is_open = self._wanted > 0
        if revision > self._position:
            self._position = revision
            self.entries.append(Stored(revision, AggregateId.of_subject(message.subject), message.data))

    async def wait(self) -> None:
        """Returns when there are entries or a pull has ended; raises what broke it, and NoAnswer after silence."""
        while not self.entries and self.pull_is_open:
            if self._broken is not None:
                raise self._broken
            self._stirred.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    await self._stirred.wait()
            except TimeoutError:
                raise NoAnswer("not even a heartbeat") from None
        if not self.entries and self._broken is not None:
            raise self._broken


class Consumers:
    """Makes the consumers of one connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._name = connection.client.new_inbox().rpartition(".")[2]
        self._numbers = count(1)

    async def consume(
        self, subjects: Sequence[str], start: Mapping[str, Any], position: int = 0
    ) -> AsyncGenerator[Delivered, None]:
        """Entries of these subjects, or of all, from where `start` says, without those up to `position`.

        What comes first says how much there is, and has no entries. Never ends by itself. Raises NoAnswer as soon as
        something is in doubt, and ApiError.
        """
        pulls = _Pulls(position)
        async with _inbox(self._connection, pulls) as inbox, self._consumer(subjects, start) as (name, left):
            yield Delivered((), left)
            while True:
                if not pulls.pull_is_open:
                    await self._pull(name, f"{inbox}.{pulls.open_pull()}")
                batch = tuple(pulls.entries)
                pulls.entries.clear()
                if batch:
                    yield Delivered(batch, pulls.left)
                else:
                    await pulls.wait()

    async def _pull(self, name: str, reply: str) -> None:
        request = {
            "batch": BATCH_ENTRIES_MAX,
            "max_bytes": BATCH_BYTES_MAX,
            "expires": int(PULL_SECONDS * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"
        await self._connection.publish(subject, json.dumps(request).encode(), reply)

    @asynccontextmanager
    async def _consumer(self, subjects: Sequence[str], start: Mapping[str, Any]) -> AsyncIterator[tuple[str, int]]:
        name = f"{self._connection.user}-{self._name}{next(self._numbers)}"
        try:
            yield name, await self._create(name, subjects, start)
        finally:
            await self._delete(name)

    async def _create(self, name: str, subjects: Sequence[str], start: Mapping[str, Any]) -> int:
        config = {
            "name": name,
            **start,
            "filter_subjects": list(subjects),
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(CONSUMER_IDLE_SECONDS * NANOSECONDS),
        }
        made = await self._connection.api(
            f"CONSUMER.CREATE.{self._stream}.{name}", {"stream_name": self._stream, "config": config}
        )
        return int(made["num_pending"])

    async def _delete(self, name: str) -> None:
        """Says so and does not wait: a consumer that nobody asks ends by itself, too."""
        with suppress(NoAnswer, Unavailable):
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")


def subjects_of(kind: str) -> str:
    """What every aggregate of a kind is appended to."""
    return f"{SUBJECTS}.*.{kind}.*"


@asynccontextmanager
async def _inbox(connection: Connection, pulls: _Pulls) -> AsyncIterator[str]:
    """An inbox of its own, `<inbox>.<pull>`, for what comes in numbers."""
    inbox = connection.client.new_inbox()

    async def on_message(message: Msg) -> None:
        pulls.take(message)

    with connection.expect(Expecting(inbox, pulls.take, pulls.fail)):
        subscription = await connection.client.subscribe(f"{inbox}.*", cb=on_message)
        try:
            yield inbox
        finally:
            if not connection.client.is_closed:
                await subscription.unsubscribe()


def _ended_by_size(message: Msg) -> bool:
    description = (message.headers or {}).get("Description", "")
    return description in (_PULL_TOO_LARGE, _PULL_BATCH_COMPLETED)


def _place_of(message: Msg) -> tuple[int, int, int]:
    """Revision, number of the delivery and what is left after it, from `$JS.ACK...`, which has two forms."""
    tokens = message.reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3])
