"""What waits for one reader of live output: bounded, the newest is kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

MESSAGES_MAX = 1_000


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
