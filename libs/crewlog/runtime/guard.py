"""Stands before every handler: who calls, how long it may take, what a refusal looks like on the wire, one span.

Handlers raise Refused and never touch the context. Anything else that they raise is a bug: the caller learns an error
id, and the log has the traceback. Open streams end by themselves when the server stops.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
from crewlog.domain.errors import Refused, Unavailable
from crewlog.runtime import auth, failpoints, limits, status
from crewlog.runtime.auth import Access, Verifier
from crewlog.telemetry import names, traces
from crewlog.telemetry.ids import parse_traceparent
from google.protobuf.message import Message

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Body = Callable[[], Awaitable[Any]]

_log = logging.getLogger(__name__)
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Guard(grpc.aio.ServerInterceptor):
    """The one interceptor. A method whose service is not in `access` is open: only health is."""

    def __init__(self, verifier: Verifier, access: Mapping[str, Access]) -> None:
        self._verifier = verifier
        self._access = access
        self._guarded: dict[str, Handler] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self.stopping = asyncio.Event()

    def end_streams(self) -> None:
        """Ends every open stream as UNAVAILABLE, and those that are opened from now on."""
        self.stopping.set()
        for stream in self._streams:
            stream.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        known = self._guarded.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        access = self._access.get(method.split("/")[1], Access.OPEN)
        if handler is None or access is Access.OPEN:
            return handler
        self._guarded[method] = self._guard(method.lstrip("/"), handler, access)
        return self._guarded[method]

    def _guard(self, method: str, handler: Handler, access: Access) -> Handler:
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            behavior = handler.stream_stream or handler.unary_stream
            make = grpc.stream_stream_rpc_method_handler
            if not handler.request_streaming:
                make = cast(Any, grpc.unary_stream_rpc_method_handler)
            return make(cast(Any, self._stream(method, cast(Any, behavior), access)), **coding)
        unary = self._unary(method, cast(Any, handler.unary_unary), access)
        return grpc.unary_unary_rpc_method_handler(cast(Any, unary), **coding)

    def _unary(self, method: str, behavior: Callable[[Any, Context], Awaitable[Any]], access: Access) -> Any:
        point = failpoints.of_rpc("serve", method)

        async def call(request: Any, context: Context) -> Any:
            async def body() -> Any:
                with failpoints.around(point):
                    if context.time_remaining() is not None:
                        return await behavior(request, context)
                    async with asyncio.timeout(limits.CALL_SECONDS_MAX):
                        return await behavior(request, context)

            return await self._serve(method, context, access, body)

        return call

    def _stream(self, method: str, behavior: Callable[[Any, Context], AsyncIterator[Any]], access: Access) -> Any:
        point = failpoints.of_rpc("serve", method)

        async def call(request: Any, context: Context) -> None:
            async def body() -> None:
                async with aclosing(cast(Any, behavior(request, context))) as messages:
                    async for message in messages:
                        with failpoints.around(point):
                            await context.write(message)

            await self._serve(method, context, access, lambda: self._until_stop(body))

        return call

    async def _until_stop(self, body: Body) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if self.stopping.is_set():
                raise _stopping()
            await body()
        except asyncio.CancelledError:
            if not self.stopping.is_set():
                raise
            task.uncancel()
            raise _stopping() from None
        finally:
            self._streams.discard(task)

    async def _serve(self, method: str, context: Context, access: Access, body: Body) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        place = parse_traceparent(str(metadata.get(traces.TRACEPARENT, "")))
        span = traces.start_span(method, "server", place)
        traces.enter(place, span)
        code = grpc.StatusCode.OK
        try:
            auth.enter(self._verifier.identify(access, metadata))
            return await body()
        except BaseException as error:
            wire = _wire_of(method, error)
            code = wire.code if wire else grpc.StatusCode.CANCELLED
            if wire is not None:
                await context.abort(wire.code, wire.message, wire.trailing_metadata)
            raise
        finally:
            if span is not None:
                _end(span, method, code)


def _wire_of(method: str, error: BaseException) -> status.Wire | None:
    """None where gRPC itself knows what to do: the caller is gone."""
    if isinstance(error, Refused):
        return status.to_wire(error)
    if isinstance(error, TimeoutError):
        return status.to_wire(Unavailable(f"{method} took too long", what_to_do="try again"))
    if not isinstance(error, Exception):
        return None
    error_id = secrets.token_hex(8)
    _log.error("%s failed", method, exc_info=error, extra={"error_id": error_id})
    return status.internal(error_id)


def _stopping() -> Unavailable:
    return Unavailable("the service is stopping", what_to_do="connect again, from the last revision that arrived")


def _end(span: traces.Span, method: str, code: grpc.StatusCode) -> None:
    span.attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method, names.RPC_STATUS: code.name}
    traces.end_span(span, code.name if code.name in _SERVER_FAULTS else "")
