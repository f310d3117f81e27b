"""Follows a run: whole entries in order, each once, whatever happens to the connection; live deltas beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import grpc
from crewlog.cli import board
from crewlog.cli.board import Board
from crewlog.cli.gateway import Gateway
from crewlog.domain.errors import Unavailable
from crewlog.runtime.status import refusal_of
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_service_pb2 import WatchRun, WatchRunMessage

PAUSE_SECONDS_MIN = 0.1
PAUSE_SECONDS_MAX = 2.0
SILENCE_SECONDS_MAX = 60.0


async def follow(
    gateway: Gateway,
    run_id: str,
    state: Board | None = None,
    *,
    with_live: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> AsyncGenerator[WatchRunMessage]:
    """Goes on after `state`, or begins, and ends when the run is over, and all of it was delivered: a run that was
    taken up again was over before.

    When the gateway comes back within a minute, it goes on where it was. Raises what the gateway refuses, and
    Unavailable when it stays away.
    """
    state, lost = state or Board(), _Connection(say)
    while True:
        try:
            async for message in gateway.runs.Watch(
                WatchRun(run_id=run_id, from_revision=state.revision, with_live=with_live)
            ):
                lost.heard()
                if message.HasField("entry"):
                    if message.entry.revision <= state.revision:
                        continue
                    state = board.fold(state, message.entry)
                yield message
            if board.is_over(state):
                return
            await lost.pause(Unavailable("the gateway ended the stream"))
        except grpc.aio.AioRpcError as error:
            meaning = refusal_of(error)
            if not isinstance(meaning, Unavailable):
                raise meaning from None
            await lost.pause(meaning)


async def until_now(gateway: Gateway, run_id: str, *, with_stored: bool = False) -> list[RecordedEntry]:
    """Everything of the run that is in the log now."""
    request = WatchRun(run_id=run_id, until_now=True, with_stored=with_stored)
    return [message.entry async for message in gateway.runs.Watch(request) if message.HasField("entry")]


class _Connection:
    """How long it was silent, and what is said about it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lost_at = 0.0
        self._pause = PAUSE_SECONDS_MIN

    def heard(self) -> None:
        if self._lost_at:
            self._say("connected again")
        self._lost_at, self._pause = 0.0, PAUSE_SECONDS_MIN

    async def pause(self, why: Unavailable) -> None:
        """Waits before the next try; raises when it was tried for long enough."""
        if not self._lost_at:
            self._lost_at = time.monotonic()
            self._say("the connection is lost; trying again")
        if time.monotonic() - self._lost_at > SILENCE_SECONDS_MAX:
            raise why
        await asyncio.sleep(self._pause)
        self._pause = min(PAUSE_SECONDS_MAX, self._pause * 2)
