"""How long a model call may take: the whole of it, until its answer begins, and without a sign of life after that.

Each limit ends the call with a message of its own. Waiting for a connection is part of waiting for the first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from crewlog.models import failures
from crewlog.v1.run_pb2 import AgentLimits

T = TypeVar("T")

CONNECT_SECONDS = 10.0
FIRST_BYTE_SECONDS = 120.0  # a large prompt waits in the provider's queue
SILENCE_SECONDS = 60.0  # a live stream sends a ping every few seconds
TOTAL_SECONDS = 1800.0


@dataclass(frozen=True)
class Timeouts:
    """`first_byte_seconds` ends with the first event of the answer; `silence_seconds` is the time without a single
    event, pings included, from then on."""

    connect_seconds: float = CONNECT_SECONDS
    first_byte_seconds: float = FIRST_BYTE_SECONDS
    silence_seconds: float = SILENCE_SECONDS
    total_seconds: float = TOTAL_SECONDS


def timeouts_of(limits: AgentLimits) -> Timeouts:
    """Those of an agent, where 0 is the default."""
    return Timeouts(
        first_byte_seconds=limits.first_byte_seconds_max or FIRST_BYTE_SECONDS,
        silence_seconds=limits.silence_seconds_max or SILENCE_SECONDS,
        total_seconds=limits.model_call_seconds_max or TOTAL_SECONDS,
    )


async def in_time(work: Awaitable[T], seconds: float, message: str) -> T:
    """What the work comes to. Ends it when the time is over, with ModelError: `message` has a place for the time."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise failures.error_of(failures.TIMED_OUT, message.format(f"{seconds:g} s")) from error
