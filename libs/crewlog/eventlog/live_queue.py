"""What all live planes share: the subject of a run, and what waits for one reader: bounded, the newest is kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from crewlog.domain.errors import InvalidCommand
from crewlog.domain.names import is_aggregate_id

SUBJECTS = "crewlog.live"
MESSAGES_MAX = 1_000


def subject_of(tenant: str, run_id: str) -> str:
    """Where the deltas of a run go; raises InvalidCommand for what cannot be part of a subject."""
    for token in (tenant, run_id):
        if not is_aggregate_id(token):
            raise InvalidCommand(f"{token[:80]!r} cannot be part of a subject")
    return f"{SUBJECTS}.{tenant}.{run_id}"


class LiveQueue:
    """`put` never waits; a full queue drops its oldest message."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque(maxlen=MESSAGES_MAX)
        self._filled = asyncio.Event()

    def put(self, payload: bytes) -> None:
        self._messages.append(payload)
        self._filled.set()

    async def drain(self) -> AsyncGenerator[bytes, None]:
        """Every message, as it comes; never ends by itself."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._messages:
                yield self._messages.popleft()
