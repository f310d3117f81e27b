"""A wire between a client and a server that can lose what it carries."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

CHUNK = 65_536


class Wire:
    """A TCP proxy. What `holds` is part of is neither delivered nor refused, like on a network that has stopped."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._clients: list[asyncio.StreamWriter] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._held_for_server: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.holds: bytes | None = None
        self.loses_answers = False
        self.connections = 0

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def held(self) -> bytes:
        """What was sent and has not arrived."""
        return b"".join(data for _, data in self._held_for_server)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        for pump in tuple(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        """The clients lose their connections; later ones work. What is held for the server stays on the way."""
        self.holds, self.loses_answers = None, False
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def deliver_late(self) -> None:
        """What was held arrives after all."""
        for writer, data in self._held_for_server:
            writer.write(data)
            await writer.drain()
        self._held_for_server.clear()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        from_server, to_server = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._clients.append(to_client)
        self._writers += [to_client, to_server]
        for pump in (self._requests(from_client, to_server), self._answers(from_server, to_client)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            if self.holds is not None and self.holds in data:
                self._held_for_server.append((writer, data))
            else:
                writer.write(data)
        if not any(held is writer for held, _ in self._held_for_server):
            writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            if not self.loses_answers and not writer.is_closing():
                writer.write(data)
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK)
    except ConnectionError:
        return b""
