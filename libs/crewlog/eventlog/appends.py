"""Appends: one entry is one message; what waits under load goes as one atomic batch, which costs one fsync.

An entry is sent at once as long as few are on their way. Nothing ever waits for others to come: a batch is made only of
what is waiting already. A refused batch stores nothing, and its members are sent one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from crewlog.domain.errors import Refused
from crewlog.eventlog import verdicts
from crewlog.eventlog.connection import ApiError, Connection, NoAnswer, decoded
from crewlog.eventlog.indoubt import Resolver, send_alone
from crewlog.eventlog.limits import BATCH_BYTES_MAX, BATCH_ENTRIES_MAX
from crewlog.eventlog.outgoing import Outgoing
from crewlog.eventlog.verdicts import Verdict

ALONE_IN_FLIGHT_MAX = 4
BATCH_FROM = 9


@dataclass(eq=False, slots=True)
class _Waiting:
    """`turn` gets the revision when the entry went with a batch, or None when it is to be sent alone."""

    outgoing: Outgoing
    turn: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Appends:
    """All appends of one connection."""

    def __init__(self, connection: Connection, stream: str, in_doubt_seconds: float) -> None:
        self._connection = connection
        self._resolver = Resolver(connection, stream, in_doubt_seconds)
        self._batch_name = connection.client.new_inbox().rpartition(".")[2]
        self._batch_numbers = count(1)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_alone: deque[_Waiting] = deque()
        self._alone_in_flight = 0
        self._batch: asyncio.Task[None] | None = None

    async def append(self, outgoing: Outgoing) -> int:
        """The revision. Raises WrongRevision, AppendInDoubt, TooLarge, NotPermitted or Unavailable."""
        try:
            return await self._first_attempt(outgoing)
        except NoAnswer:
            return await self._resolver.resolve(outgoing)

    async def close(self) -> None:
        """Waits for the batch that is on its way; close the connection first, which ends it."""
        if self._batch is not None:
            await asyncio.wait((self._batch,))

    async def _first_attempt(self, outgoing: Outgoing) -> int:
        if self._waiting or self._batch is not None or self._alone_in_flight >= ALONE_IN_FLIGHT_MAX:
            revision = await self._turn_of(_Waiting(outgoing))
            if revision is not None:
                return revision
        else:
            self._alone_in_flight += 1
        try:
            return await send_alone(self._connection, outgoing)
        finally:
            self._alone_in_flight -= 1
            self._go_on()

    async def _turn_of(self, waiting: _Waiting) -> int | None:
        self._waiting.append(waiting)
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.result() is None:
                self._alone_in_flight -= 1
                self._go_on()
            raise

    def _go_on(self) -> None:
        while self._alone_in_flight < ALONE_IN_FLIGHT_MAX and self._waiting_alone:
            self._send_alone(self._waiting_alone.popleft())
        if self._batch is None and len(self._waiting) >= BATCH_FROM:
            self._send_batch(self._take_batch())
        while self._batch is None and self._waiting and self._alone_in_flight < ALONE_IN_FLIGHT_MAX:
            self._send_alone(self._waiting.popleft())

    def _send_alone(self, waiting: _Waiting) -> None:
        if not waiting.turn.done():
            self._alone_in_flight += 1
            waiting.turn.set_result(None)

    def _take_batch(self) -> list[_Waiting]:
        """What may go together: different aggregates. The others stay, in order; so do all when too few may go."""
        batch: dict[str, _Waiting] = {}
        rest: deque[_Waiting] = deque()
        size = 0
        for waiting in self._waiting:
            if waiting.turn.done():
                continue
            fits = len(batch) < BATCH_ENTRIES_MAX and size + len(waiting.outgoing.payload) <= BATCH_BYTES_MAX
            if fits and waiting.outgoing.subject not in batch:
                batch[waiting.outgoing.subject] = waiting
                size += len(waiting.outgoing.payload)
            else:
                rest.append(waiting)
        if len(batch) < BATCH_FROM:
            return []
        self._waiting = rest
        return list(batch.values())

    def _send_batch(self, members: Sequence[_Waiting]) -> None:
        if members:
            self._batch = asyncio.get_running_loop().create_task(self._run_batch(members))

    async def _run_batch(self, members: Sequence[_Waiting]) -> None:
        try:
            last = await self._store([member.outgoing for member in members])
            for revision, member in enumerate(members, last - len(members) + 1):
                if not member.turn.done():
                    member.turn.set_result(revision)
        except (ApiError, Refused) as error:
            if _stored_nothing(error):
                self._waiting_alone.extend(members)
                members = ()
        except NoAnswer:
            pass  # what became of each of them is found out by those who wait for it
        finally:
            _put_in_doubt(members)
            self._batch = None
            self._go_on()

    async def _store(self, batch: Sequence[Outgoing]) -> int:
        """The revision of the last one: a batch is stored whole, its entries one after the other, or not at all."""
        name = f"{self._batch_name}{next(self._batch_numbers)}"
        for number, outgoing in enumerate(batch[:-1], 1):
            await self._connection.publish(
                outgoing.subject, outgoing.payload, headers=outgoing.headers | _batch_headers(name, number)
            )
        last = batch[-1]
        headers = last.headers | _batch_headers(name, len(batch)) | {"Nats-Batch-Commit": "1"}
        return int(decoded(await self._connection.request(last.subject, last.payload, headers))["seq"])


def _batch_headers(name: str, number: int) -> dict[str, str]:
    return {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(number)}


def _stored_nothing(error: ApiError | Refused) -> bool:
    return isinstance(error, Refused) or verdicts.of_batch(error.code) is Verdict.REFUSED


def _put_in_doubt(members: Sequence[_Waiting]) -> None:
    for member in members:
        if not member.turn.done():
            member.turn.set_exception(NoAnswer("the batch was not acknowledged"))
