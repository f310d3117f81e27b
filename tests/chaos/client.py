"""A client as clients should be: what does not answer is asked again, and asked with the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crewlog.cli.gateway import Gateway
from crewlog.domain.errors import Unavailable
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import GetRun, RunView
from crewlog.v1.run_service_pb2 import WatchRun
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.e2e.world import types_of

LOOK_AGAIN_SECONDS = 0.05
INSIST_SECONDS = 60.0

T = TypeVar("T")


class Client:
    """Of one run. Nothing that it asks for takes longer than its patience. `ends` are the events after which nothing
    more is to come."""

    ends = frozenset({"run_succeeded", "run_failed", "run_cancelled"})

    def __init__(self, gateway: Gateway, run_id: str, patience_seconds: float = INSIST_SECONDS) -> None:
        self.gateway = gateway
        self.run_id = run_id
        self._patience_seconds = patience_seconds

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Asks until it is answered."""
        async with asyncio.timeout(self._patience_seconds):
            while True:
                try:
                    return await call()
                except (Unavailable, AioRpcError) as error:
                    _check_away(error)
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def get(self, revision: int = 0) -> RunView:
        request = GetRun(run_id=self.run_id, at_least_revision=revision)
        return await self.insist(lambda: self.gateway.runs.Get(request))

    async def watch_to_the_end(self, on_entry: Callable[[RecordedEntry], Awaitable[None]]) -> list[RecordedEntry]:
        """Every entry until the run is over for good, going on after each end of the stream."""
        seen: list[RecordedEntry] = []
        async with asyncio.timeout(self._patience_seconds):
            while not (seen and self.ends & set(types_of(seen[-1]))):
                try:
                    await self._watch(seen, on_entry)
                except (Unavailable, AioRpcError) as error:
                    _check_away(error)
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return seen

    async def _watch(self, seen: list[RecordedEntry], on_entry: Callable[[RecordedEntry], Awaitable[None]]) -> None:
        request = WatchRun(run_id=self.run_id, from_revision=seen[-1].revision if seen else 0)
        async for message in self.gateway.runs.Watch(request):
            if message.HasField("entry"):
                seen.append(message.entry)
                await on_entry(message.entry)


def _check_away(error: Unavailable | AioRpcError) -> None:
    """Everything but a service that is away is a failure."""
    if isinstance(error, AioRpcError) and error.code() is not StatusCode.UNAVAILABLE:
        raise error
