"""Following the log for ever, and looking once at the last entry of every aggregate of a kind.

Both read from consumers, which are made anew whenever one is in doubt, behind the last entry that was seen: so nothing
is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from crewlog.domain.errors import Unavailable
from crewlog.eventlog import verdicts
from crewlog.eventlog.connection import ApiError, Connection, NoAnswer
from crewlog.eventlog.indoubt import next_entry
from crewlog.eventlog.limits import check_head
from crewlog.eventlog.port import Stored
from crewlog.eventlog.pulls import Consumers, Delivered, subjects_of

PAUSE_SECONDS = 0.05
BEHIND_SECONDS_MAX = 5.0


class Following:
    """The readers of one connection."""

    def __init__(self, connection: Connection, stream: str, consumers: Consumers) -> None:
        self._connection = connection
        self._stream = stream
        self._consumers = consumers

    async def follow(self, after_revision: int, kinds: Sequence[str]) -> AsyncGenerator[Sequence[Stored], None]:
        """As the port says; raises Unavailable when the connection is closed, and WrongState."""
        position, subjects = after_revision, [subjects_of(kind) for kind in kinds]
        while True:
            try:
                await self._connection.until_connected()
                await self._check_head(position)
                start = {"deliver_policy": "by_start_sequence", "opt_start_seq": position + 1}
                async with aclosing(self._consumers.consume(subjects, start, position)) as deliveries:
                    async for delivered in deliveries:
                        if delivered.entries:
                            position = delivered.entries[-1].revision
                            yield delivered.entries
            except (NoAnswer, ApiError) as error:
                await _pause_after(error)

    async def last_of_each(self, kind: str, head: int) -> AsyncGenerator[Sequence[Stored], None]:
        """As the port says, for a log that ended at `head` just now."""
        position = 0
        while True:
            try:
                await self._connection.until_connected()
                start = {"deliver_policy": "last_per_subject"}
                async with aclosing(self._consumers.consume([subjects_of(kind)], start, position)) as deliveries:
                    async for delivered in deliveries:
                        if delivered.entries:
                            position = delivered.entries[-1].revision
                            yield delivered.entries
                        if await self._is_all(kind, delivered, position, head):
                            return
            except (NoAnswer, ApiError) as error:
                await _pause_after(error)

    async def _check_head(self, position: int) -> None:
        """Raises WrongState where the log ends before that; a leader that has just become one may need a moment."""
        deadline = asyncio.get_running_loop().time() + BEHIND_SECONDS_MAX
        while position:
            info = await self._connection.api(f"STREAM.INFO.{self._stream}", {})
            head = int(info["state"]["last_seq"])
            if head >= position:
                return
            if asyncio.get_running_loop().time() > deadline:
                check_head(head, position)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _is_all(self, kind: str, delivered: Delivered, position: int, head: int) -> bool:
        """A replica that holds the consumer may be behind, so the leader is asked whether anything is missing."""
        if delivered.left or position >= head:
            return position >= head
        following = await next_entry(self._connection, self._stream, subjects_of(kind), position)
        return following is None or following[0] > head


async def _pause_after(error: NoAnswer | ApiError) -> None:
    """Before the next consumer; raises Unavailable where there is no hope for one."""
    if isinstance(error, ApiError) and not verdicts.may_pass(error.code):
        raise Unavailable(f"the log cannot be followed: {error}") from error
    await asyncio.sleep(PAUSE_SECONDS)
