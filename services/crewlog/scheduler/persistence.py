"""Calls of the git service that are made until it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crewlog.domain.errors import Unavailable

RETRY_SECONDS = 1.0
T = TypeVar("T")

logger = logging.getLogger(__name__)


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """What the service refuses is raised; that it does not answer is waited out."""
    while True:
        try:
            return await call()
        except Unavailable as reason:
            logger.warning("the git service does not answer: %s", reason)
            await asyncio.sleep(RETRY_SECONDS)
