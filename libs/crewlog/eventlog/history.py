"""Reading the entries of one aggregate: direct gets in batches, without a consumer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.connection import ANSWER_SECONDS, NO_RESPONDERS, Connection, Expecting, NoAnswer, status_of
from crewlog.eventlog.indoubt import PAUSE_SECONDS, last_entry, next_entry
from crewlog.eventlog.limits import BATCH_BYTES_MAX, BATCH_ENTRIES_MAX
from crewlog.eventlog.port import AggregateId, Stored
from nats.aio.msg import Msg

READ_SECONDS_MAX = 30.0
END_OF_BATCH = "204"
NOT_FOUND = "404"


@dataclass(eq=False, slots=True)
class _Answers:
    """The messages of one batched direct get; `pending` is how many matching ones the server did not send."""

    messages: list[Msg] = field(default_factory=list)
    pending: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def take(self, message: Msg) -> None:
        status = status_of(message)
        if not status:
            self.messages.append(message)
        elif self.pending.done():
            return
        elif status == END_OF_BATCH:
            self.pending.set_result(int((message.headers or {}).get("Nats-Num-Pending", "0")))
        elif status == NOT_FOUND:
            self.pending.set_result(0)
        else:
            what = "nobody serves the log" if status == NO_RESPONDERS else str(message.headers)
            self.pending.set_exception(NoAnswer(what))

    def fail(self, error: Exception) -> None:
        if not self.pending.done():
            self.pending.set_exception(error)


class History:
    """`from_leader`: a replica that answers may be behind, so the leader is asked whether anything is missing."""

    def __init__(self, connection: Connection, stream: str, *, from_leader: bool) -> None:
        self._connection = connection
        self._stream = stream
        self._from_leader = from_leader

    async def read(self, aggregate: AggregateId, after_revision: int) -> list[Stored]:
        """Everything acknowledged before the call; raises Unavailable when the log does not answer for long."""
        entries: list[Stored] = []
        async with _within_time():
            while not await self._read_on(aggregate, after_revision, entries):
                pass
        return entries

    async def last(self, aggregate: AggregateId) -> Stored | None:
        """The last entry, as the leader has it; raises Unavailable when the log does not answer for long."""
        async with _within_time():
            while True:
                try:
                    await self._connection.until_connected()
                    found = await last_entry(self._connection, self._stream, aggregate.subject)
                    return Stored(found[0], aggregate, found[1]) if found else None
                except NoAnswer:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _read_on(self, aggregate: AggregateId, after_revision: int, entries: list[Stored]) -> bool:
        """Adds what comes next; says whether that was all."""
        position = entries[-1].revision if entries else after_revision
        try:
            await self._connection.until_connected()
            more = await self._batch(aggregate, position, entries)
            return not more and not await self._is_missing(aggregate, entries, position)
        except NoAnswer:
            await asyncio.sleep(PAUSE_SECONDS)
            return False

    async def _batch(self, aggregate: AggregateId, position: int, entries: list[Stored]) -> bool:
        answers = _Answers()
        subject = f"$JS.API.DIRECT.GET.{self._stream}"
        with self._connection.expect(Expecting(subject, answers.take, answers.fail)) as reply:
            await self._connection.publish(subject, _next_entries(aggregate, position), reply)
            timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, answers.fail, NoAnswer("no answer in time"))
            try:
                pending = await answers.pending
            finally:
                timer.cancel()
        entries.extend(_stored(aggregate, message) for message in answers.messages)
        return pending > 0

    async def _is_missing(self, aggregate: AggregateId, entries: list[Stored], position: int) -> bool:
        if not self._from_leader:
            return False
        last = entries[-1].revision if entries else position
        return await next_entry(self._connection, self._stream, aggregate.subject, last) is not None


@asynccontextmanager
async def _within_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            yield
    except TimeoutError:
        raise Unavailable(f"the log did not answer for {READ_SECONDS_MAX} s", what_to_do="try again") from None


def _next_entries(aggregate: AggregateId, position: int) -> bytes:
    return json.dumps(
        {
            "seq": position + 1,
            "next_by_subj": aggregate.subject,
            "batch": BATCH_ENTRIES_MAX,
            "max_bytes": BATCH_BYTES_MAX,
        }
    ).encode()


def _stored(aggregate: AggregateId, message: Msg) -> Stored:
    return Stored(int((message.headers or {})["Nats-Sequence"]), aggregate, message.data)
