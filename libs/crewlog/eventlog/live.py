"""The live plane on core NATS: nothing is stored, and who does not listen hears nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from crewlog.eventlog.live_queue import LiveQueue, subject_of
from nats.aio.client import Client
from nats.aio.msg import Msg


class NatsLive:
    """A Live on the connection of a log. While there is no connection, what is published is lost."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection

    async def publish(self, tenant: str, run_id: str, payload: bytes) -> None:
        if self._connection.is_connected:
            await self._connection.publish(subject_of(tenant, run_id), payload)

    async def subscribe(self, tenant: str, run_id: str) -> AsyncGenerator[bytes, None]:
        queue = LiveQueue()

        async def on_message(message: Msg) -> None:
            queue.put(message.data)

        subscription = await self._connection.subscribe(subject_of(tenant, run_id), cb=on_message)
        try:
            async for payload in queue.drain():
                yield payload
        finally:
            if not self._connection.is_closed:
                await subscription.unsubscribe()
