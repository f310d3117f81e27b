"""Reads of aggregates: few of them as direct gets, many of them, or one that is long, in one pass over the log.

The entries of an aggregate may lie far apart. To look for those of a hundred aggregates one after the other is to go a
hundred times through the log; a pass is a consumer that gets what all of them ask for. There is one pass at a time, and
nothing waits for others to come: it is made of what waits already.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from crewlog.domain.errors import Refused
from crewlog.eventlog import direct
from crewlog.eventlog.connection import ApiError, Connection, NoAnswer
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.eventlog.pulls import Consumers

DIRECT_AT_ONCE_MAX = 4
PASS_FROM = 8
PASS_AGGREGATES_MAX = 64


@dataclass(eq=False, slots=True)
class _Waiting:
    """`turn` gets the entries that a pass has found, all of them, or None when it is the turn for a direct get."""

    aggregate: AggregateId
    position: int
    is_long: bool
    turn: asyncio.Future[list[Stored] | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Reads:
    """All reads of one connection."""

    def __init__(self, connection: Connection, stream: str, consumers: Consumers) -> None:
        self._connection = connection
        self._stream = stream
        self._consumers = consumers
        self._waiting: deque[_Waiting] = deque()
        self._direct = 0
        self._pass: asyncio.Task[None] | None = None

    async def next_entries(self, aggregate: AggregateId, position: int) -> list[Stored]:
        """Everything that follows the position, as far as the server that answers knows it. Raises NoAnswer."""
        found, has_more = await self._first_entries(aggregate, position)
        if has_more:
            found += await self._rest(aggregate, found[-1].revision if found else position)
        return found

    async def close(self) -> None:
        """Ends the pass that is on its way; close the connection first."""
        if self._pass is not None:
            self._pass.cancel()
            await asyncio.wait((self._pass,))

    async def _first_entries(self, aggregate: AggregateId, position: int) -> tuple[list[Stored], bool]:
        if self._waiting or self._direct >= DIRECT_AT_ONCE_MAX:
            found = await self._turn_of(_Waiting(aggregate, position, is_long=False))
            if found is not None:
                return found, False
        else:
            self._direct += 1
        try:
            entries, has_more = await direct.next_entries(self._connection, self._stream, aggregate, position)
            return list(entries), has_more
        finally:
            self._direct -= 1
            self._go_on()

    async def _rest(self, aggregate: AggregateId, position: int) -> list[Stored]:
        return await self._turn_of(_Waiting(aggregate, position, is_long=True)) or []

    async def _turn_of(self, waiting: _Waiting) -> list[Stored] | None:
        self._waiting.append(waiting)
        self._go_on()
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.result() is None:
                self._direct -= 1
                self._go_on()
            raise

    def _go_on(self) -> None:
        """Long reads and many reads begin a pass; what it leaves gets its turn where there is room."""
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.turn.done())
        if self._pass is None and self._is_worth_a_pass():
            members = [self._waiting.popleft() for _ in range(min(len(self._waiting), PASS_AGGREGATES_MAX))]
            self._pass = asyncio.get_running_loop().create_task(self._run_pass(members))
        for waiting in [waiting for waiting in self._waiting if not waiting.is_long]:
            if self._direct >= DIRECT_AT_ONCE_MAX:
                return
            self._direct += 1
            self._waiting.remove(waiting)
            waiting.turn.set_result(None)

    def _is_worth_a_pass(self) -> bool:
        return len(self._waiting) >= PASS_FROM or any(waiting.is_long for waiting in self._waiting)

    async def _run_pass(self, members: list[_Waiting]) -> None:
        try:
            found = await self._go_through(members)
            for member in members:
                if not member.turn.done():
                    entries = found[member.aggregate.subject]
                    member.turn.set_result([stored for stored in entries if stored.revision > member.position])
        except (ApiError, NoAnswer, Refused) as error:
            _fail(members, error)
        finally:
            _fail(members, NoAnswer("the pass was given up"))
            self._pass = None
            self._go_on()

    async def _go_through(self, members: Iterable[_Waiting]) -> defaultdict[str, list[Stored]]:
        subjects = list(dict.fromkeys(member.aggregate.subject for member in members))
        position = min(member.position for member in members)
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", {})
        head = int(info["state"]["last_seq"])
        found: defaultdict[str, list[Stored]] = defaultdict(list)
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": position + 1}
        async with aclosing(self._consumers.consume(subjects, start, position)) as deliveries:
            async for delivered in deliveries:
                for stored in delivered.entries:
                    found[stored.aggregate.subject].append(stored)
                    position = stored.revision
                if not delivered.left or position >= head:
                    break
        return found


def _fail(members: Iterable[_Waiting], error: ApiError | NoAnswer | Refused) -> None:
    """Whoever waits tries again, as after every answer that was lost; a refusal is told as it is."""
    for member in members:
        if not member.turn.done():
            member.turn.set_exception(error if isinstance(error, Refused) else NoAnswer(str(error)))
