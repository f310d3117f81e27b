"""What an effect says while it runs: as much as people can read, and then a word that the rest is not shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from crewlog.eventlog.memory import MemoryLive
from crewlog.executor.live import NOT_SHOWN_TEXT, OUTPUT_CHARACTERS_MAX, LiveStream
from crewlog.v1.agent_pb2 import EffectKey
from crewlog.v1.run_service_pb2 import LiveDelta


async def test_the_rest_of_a_flood_is_not_shown_and_said_so_once() -> None:
    live = MemoryLive()
    async with aclosing(live.subscribe("local", "r")) as deltas:
        heard = asyncio.ensure_future(_until_it_is_said(deltas))
        await asyncio.sleep(0)  # until it listens
        stream = LiveStream(live, "local", "r", "r_a-1", EffectKey(turn=1, attempt=1))
        for _ in range(300):
            stream("x" * 1_000)
        async with asyncio.timeout(10):
            last = await heard
    stream.close()
    assert last.text.endswith(NOT_SHOWN_TEXT) and last.text.count(NOT_SHOWN_TEXT) == 1
    assert last.offset + len(last.text) == OUTPUT_CHARACTERS_MAX + len(NOT_SHOWN_TEXT)


async def _until_it_is_said(deltas: AsyncGenerator[bytes, None]) -> LiveDelta:
    async for payload in deltas:
        delta = LiveDelta.FromString(payload)
        if NOT_SHOWN_TEXT in delta.text:
            return delta
    raise AssertionError("the feed has ended")
