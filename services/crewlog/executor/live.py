"""What an effect says while it runs, for those who watch. Nothing is decided on it, and it may be lost."""

from __future__ import annotations

import asyncio

from crewlog.eventlog.port import Live
from crewlog.v1.agent_pb2 import EffectKey
from crewlog.v1.run_service_pb2 import LiveDelta

INTERVAL_SECONDS = 0.04
PIECE_CHARACTERS_MAX = 32_000
OUTPUT_CHARACTERS_MAX = 262_144
NOT_SHOWN_TEXT = "\n[the rest is not shown live]\n"


class LiveStream:
    """Collects the pieces of one effect and sends them in intervals, so that a quick model is not a message a token."""

    def __init__(self, live: Live, tenant: str, run_id: str, agent_id: str, key: EffectKey) -> None:
        self._live = live
        self._tenant = tenant
        self._delta = LiveDelta(run_id=run_id, agent_id=agent_id, turn=key.turn, attempt=key.attempt, index=key.index)
        self._pieces: list[str] = []
        self._left = OUTPUT_CHARACTERS_MAX
        self._sending: asyncio.Task[None] | None = None

    def __call__(self, text: str) -> None:
        if self._left <= 0:
            return
        self._pieces.append(text[: self._left])
        self._left -= len(text)
        if self._left <= 0:
            self._pieces.append(NOT_SHOWN_TEXT)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def close(self) -> None:
        """The outcome is known: what was not sent is not needed any more."""
        self._pieces.clear()
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        while self._pieces:
            text, self._pieces = "".join(self._pieces), []
            shown = text[-PIECE_CHARACTERS_MAX:]
            self._delta.text, self._delta.offset = shown, self._delta.offset + len(text) - len(shown)
            await self._live.publish(self._tenant, self._delta.run_id, self._delta.SerializeToString())
            self._delta.offset += len(shown)
            await asyncio.sleep(INTERVAL_SECONDS)
        self._sending = None
