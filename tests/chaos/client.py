"""A client as clients should be: what does not answer is asked again, and asked with the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crewlog.cli.gateway import Gateway
from crewlog.domain.errors import Unavailable
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.budget_service_pb2 import ListGates
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import AnswerGate, GateView, GetRun, RunView
from crewlog.v1.run_service_pb2 import WatchRun
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.e2e.world import types_of

LOOK_AGAIN_SECONDS = 0.05
INSIST_SECONDS = 60.0
RAISE = Amounts(usd_micros=1_000_000)
ENDS = {"run_succeeded", "run_failed", "run_cancelled"}

T = TypeVar("T")


class Client:
    def __init__(self, gateway: Gateway, patience_seconds: float = INSIST_SECONDS) -> None:
        self._gateway = gateway
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

    async def get(self, run_id: str, revision: int = 0) -> RunView:
        return await self.insist(lambda: self._gateway.runs.Get(GetRun(run_id=run_id, at_least_revision=revision)))

    async def watch_to_the_end(self, run_id: str) -> list[RecordedEntry]:
        """Every entry until the run is over, going on after each loss of the stream; answers what the run asks."""
        seen: list[RecordedEntry] = []
        async with asyncio.timeout(self._patience_seconds):
            while not (seen and ENDS & set(types_of(seen[-1]))):
                try:
                    await self._watch(run_id, seen)
                except (Unavailable, AioRpcError) as error:
                    _check_away(error)
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return seen

    async def _watch(self, run_id: str, seen: list[RecordedEntry]) -> None:
        request = WatchRun(run_id=run_id, from_revision=seen[-1].revision if seen else 0)
        async for message in self._gateway.runs.Watch(request):
            if message.HasField("entry"):
                seen.append(message.entry)
                if "gate_opened" in types_of(message.entry):
                    await self._answer_gates(run_id, message.entry.revision)

    async def _answer_gates(self, run_id: str, revision: int) -> None:
        request = ListGates(run_id=run_id, at_least_revision=revision)
        for gate in (await self.insist(lambda: self._gateway.gates.List(request))).gates:
            await self._answer(gate)

    async def _answer(self, gate: GateView) -> None:
        answer = AnswerGate(run_id=gate.run_id, gate_id=gate.gate_id, choice="raise", by=RAISE)
        await self.insist(lambda: self._gateway.gates.Answer(answer))


def _check_away(error: Unavailable | AioRpcError) -> None:
    """Everything but a service that is away is a failure."""
    if isinstance(error, AioRpcError) and error.code() is not StatusCode.UNAVAILABLE:
        raise error
