"""Waits until a process answers: a service says in its health that it serves, anything else accepts a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from crewlog.runtime.channel import target_of
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

ASK_AGAIN_SECONDS = 0.02
CALL_SECONDS_MAX = 2.0
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
)


async def serving(address: str) -> None:
    """Returns when the service serves, at one of its addresses where it has several. Bound it from outside."""
    async with grpc.aio.insecure_channel(target_of(address), options=_OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while not await _serves(health):
            await asyncio.sleep(ASK_AGAIN_SECONDS)


async def true(condition: Callable[[], bool]) -> None:
    """Returns when it holds. Bound it from outside."""
    while not condition():
        await asyncio.sleep(ASK_AGAIN_SECONDS)


async def accepting(host: str, port: int) -> None:
    """Returns when somebody listens. Bound it from outside."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            continue
        writer.close()
        await writer.wait_closed()
        return


async def _serves(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=CALL_SECONDS_MAX)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
