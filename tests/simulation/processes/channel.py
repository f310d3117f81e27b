"""Calls between simulated processes: the generated stubs and servicers talk through it as they do through gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from crewlog.domain.errors import Refused, Unavailable
from crewlog.runtime import auth
from grpc.aio import AioRpcError, Metadata

from tests.simulation.processes.loop import Process
from tests.simulation.processes.network import KEEPALIVE_SECONDS, LOOK_SECONDS, Listener, Network, current, pass_time

CALL_SECONDS = 30.0
Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


class Channel:
    """In place of a grpc.aio.Channel to an address; several addresses are tried in turn."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def close(self, grace: float | None = None) -> None:
        return

    def unary_unary(self, method: str, request_serializer: Encode, response_deserializer: Decode, **_: Any) -> Any:
        async def call(request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
            unary = _Unary(self._network, current(), self._address, method)
            answer = await unary.call(request_serializer(request), timeout or CALL_SECONDS)
            return response_deserializer(answer)

        return call

    def stream_stream(self, method: str, request_serializer: Encode, response_deserializer: Decode, **_: Any) -> Any:
        def call(requests: AsyncIterator[Any], **_: Any) -> AsyncIterator[Any]:
            stream = Stream(self._network, current(), self._address, method)
            return stream.run(requests, request_serializer, response_deserializer)

        return call


class _Unary:
    def __init__(self, network: Network, caller: Process, address: str, method: str) -> None:
        self._network = network
        self._caller = caller
        self._addresses = self._address = address
        self._method = method
        self._answer: asyncio.Future[bytes] = network.loop.create_future()
        self._handling: asyncio.Task[Any] | None = None

    async def call(self, request: bytes, seconds: float) -> bytes:
        carrying = self._network.spawn(self._carry(request))
        try:
            async with asyncio.timeout(seconds):
                return await self._answer
        except TimeoutError:
            raise Unavailable(f"{self._method} took longer than {seconds} s") from None
        finally:
            self._network.later(0.01, self._abandon, carrying)

    def _abandon(self, carrying: asyncio.Task[Any]) -> None:
        """The caller waits no more: as in gRPC, the handler is cancelled, if it can be told."""
        if carrying.done() or (self._handling is None and not self._answer.done()):
            return
        carrying.cancel()
        if self._handling is not None and not self._handling.done():
            self._network.paths["handler cancelled"] += 1
            self._handling.cancel()

    async def _carry(self, request: bytes) -> None:
        network, caller = self._network, self._caller
        listener = network.listener(self._addresses)
        if listener is None:
            await pass_time(0.01)
            self._fail(Unavailable(f"{self._addresses} does not answer"))
            return
        self._address = listener.process.name
        await network.leg(caller.name, self._address)
        if not listener.process.is_alive or not listener.is_open:
            self._fail(Unavailable(f"{self._address} does not answer"))
            return
        handler = listener.methods[self._method]
        listener.process.on_death[self] = lambda: self._fail(Unavailable("the connection was reset"))
        self._handling = listener.process.start(_handled(handler, request, caller))
        self._handling.add_done_callback(_looked_at)
        try:
            await asyncio.wait([self._handling])
        finally:
            listener.process.on_death.pop(self, None)
        await network.leg(self._address, caller.name)
        if network.happens(network.weather.lost_answers):
            network.paths["answer lost"] += 1
            self._fail(Unavailable("the connection was reset"))
        else:
            self._pass_on(self._handling)

    def _pass_on(self, handled: asyncio.Task[bytes]) -> None:
        if self._answer.done():
            return
        if handled.cancelled():
            self._fail(Unavailable("the call was cancelled"))
        elif (error := handled.exception()) is None:
            self._answer.set_result(handled.result())
        elif isinstance(error, Refused):
            self._answer.set_exception(error)
        else:
            self._network.loop.failures.append(f"{self._method}: {error!r}")
            self._fail(Unavailable("the service failed"))

    def _fail(self, error: Refused) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()


def _looked_at(handled: asyncio.Task[Any]) -> None:
    """Nobody waits any more for the answer to a call that was given up."""
    if not handled.cancelled():
        handled.exception()


async def _handled(handler: Any, request: bytes, caller: Process) -> bytes:
    auth.enter(auth.Caller(f"service:{caller.name}"))
    answer = await handler.unary_unary(handler.request_deserializer(request), None)
    encoded: bytes = handler.response_serializer(answer)
    return encoded


class _Pipe:
    """One direction of a stream: in order, and where the weather says so, twice."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.received: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self.put = self._sent.put_nowait
        self._source, self._target = source, target
        self.carrying = network.spawn(self._carry())

    async def _carry(self) -> None:
        while True:
            message = await self._sent.get()
            await self._network.leg(self._source, self._target)
            self.received.put_nowait(message)
            if self._network.happens(self._network.weather.repeated):
                self._network.paths["message repeated"] += 1
                self.received.put_nowait(message)

    def end(self, error: BaseException | None = None) -> None:
        self.carrying.cancel()
        self.received.put_nowait(error)


class Stream:
    """A stream in both directions. Each side learns of its end by itself: by a reset, or because nothing comes back."""

    def __init__(self, network: Network, caller: Process, address: str, method: str) -> None:
        self.network = network
        self.caller = caller
        self._addresses = address
        self.server: Process | None = None
        self._method = method
        listener = network.listener(address)
        server = listener.process.name if listener is not None else address
        self._listener = listener
        self._up = _Pipe(network, caller.name, server)
        self._down = _Pipe(network, server, caller.name)
        self._serving: asyncio.Task[None] | None = None
        self._caller_is_done = False
        self._server_is_done = False

    async def run(self, requests: AsyncIterator[Any], encode: Encode, decode: Decode) -> AsyncIterator[Any]:
        """The caller's side."""
        loop = asyncio.get_running_loop()
        self.network.spawn(self._connect())
        sending = loop.create_task(self._send(requests, encode))
        try:
            while (message := await self._down.received.get()) is not None:
                if isinstance(message, BaseException):
                    raise message
                yield decode(message)
        finally:
            sending.cancel()
            self._caller_is_done = True
            self._tell(self.end_server)

    def end_caller(self, why: str = "reset") -> None:
        if not self._caller_is_done:
            self._caller_is_done = True
            self._down.end(AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=why))

    def end_server(self) -> None:
        """The handler is cancelled, as gRPC does it."""
        if not self._server_is_done:
            self._server_is_done = True
            self._up.carrying.cancel()
            if self._serving is not None:
                self._serving.cancel()

    async def _send(self, requests: AsyncIterator[Any], encode: Encode) -> None:
        async for request in requests:
            self._up.put(encode(request))

    async def _connect(self) -> None:
        listener = self._listener
        await self.network.leg(self.caller.name, listener.process.name if listener is not None else self._addresses)
        if listener is None or not listener.process.is_alive or not listener.is_open:
            self.end_caller("refused")
            return
        self.server = listener.process
        self.caller.on_death[self] = lambda: self._died(self.end_server)
        self.server.on_death[self] = lambda: self._died(self.end_caller)
        listener.streams.append(self.end_server)
        self._serving = self.server.start(self._serve(listener))
        try:
            await self._watch(self.server)
        finally:
            listener.streams.remove(self.end_server)
            self.caller.on_death.pop(self, None)
            self.server.on_death.pop(self, None)

    async def _serve(self, listener: Listener) -> None:
        handler = listener.methods[self._method]
        auth.enter(auth.Caller(f"service:{self.caller.name}"))
        orders = handler.stream_stream(self._requests(handler.request_deserializer), None)
        try:
            async for order in orders:
                self._down.put(handler.response_serializer(order))
        except Refused:
            self.network.paths["stream refused"] += 1
        finally:
            self._server_is_done = True
            self._tell(self.end_caller)
            await orders.aclose()

    async def _requests(self, decode: Decode) -> AsyncIterator[Any]:
        while isinstance(message := await self._up.received.get(), bytes):
            yield decode(message)

    async def _watch(self, server: Process) -> None:
        """Keepalive. Returns when both sides know that it is over."""
        silent, patience = 0.0, [KEEPALIVE_SECONDS * (0.7 + self.network.chance.random()) for _ in range(2)]
        while not (self._caller_is_done and self._server_is_done):
            await pass_time(LOOK_SECONDS)
            is_silent = self.network.is_silent(self.caller, server)
            silent = silent + LOOK_SECONDS if is_silent else 0.0
            if silent >= patience[0] or (not is_silent and (self._server_is_done or not server.is_alive)):
                self.end_caller("keepalive")
            if silent >= patience[1] or (not is_silent and (self._caller_is_done or not self.caller.is_alive)):
                self.end_server()
            self.network.paths["half-open stream"] += self._caller_is_done != self._server_is_done

    def _died(self, tell: Callable[[], None]) -> None:
        self._tell(tell)

    def _tell(self, tell: Callable[[], None]) -> None:
        """The kernel tells the other side, where it can."""
        if self.server is not None and not self.network.is_silent(self.caller, self.server):
            self.network.later(0.002, tell)
