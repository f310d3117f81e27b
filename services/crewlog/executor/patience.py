"""Waiting for a service that is being started again. Every call that is made this way may be repeated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crewlog.domain.errors import Unavailable

ATTEMPTS_MAX = 60
RETRY_SECONDS = 1.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


async def patiently(call: Callable[[], Awaitable[T]], service: str) -> T:
    """The answer. Raises Unavailable once the attempts are used up, and whatever else is refused."""
    for _ in range(ATTEMPTS_MAX):
        try:
            return await call()
        except Unavailable as reason:
            logger.warning("the %s service does not answer: %s", service, reason)
            await asyncio.sleep(RETRY_SECONDS)
    raise Unavailable(f"the {service} service does not answer", what_to_do="look at its log, then `crewlog retry`")
