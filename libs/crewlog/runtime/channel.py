"""Calls services: with a token, a deadline, keepalive, the place in the trace, and refusals as they were raised.

A thin layer over the channel instead of interceptors, which would cost a task for every call.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from crewlog.domain.errors import InvalidCommand
from crewlog.runtime import failpoints, limits, status
from crewlog.runtime.auth import AUTHORIZATION
from crewlog.runtime.auth import claim_metadata as claim_metadata
from crewlog.telemetry import names, traces

Metadata = tuple[tuple[str, str], ...]

_OPTIONS: tuple[tuple[str, int], ...] = (
    *limits.SHARED_CHANNEL_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.ANSWER_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", limits.RECONNECT_MILLIS_MIN),
    ("grpc.min_reconnect_backoff_ms", limits.RECONNECT_MILLIS_MIN),
    ("grpc.max_reconnect_backoff_ms", limits.RECONNECT_MILLIS_MAX),
    ("grpc.dns_min_time_between_resolutions_ms", limits.RESOLVE_AGAIN_MILLIS),
)


def dial(address: str, token: str) -> grpc.aio.Channel:
    """A channel that connects at its first call. Close it. The address may be several: see `target_of`.

    Unary calls raise what the other side has raised, or RemoteFault; await them where they are made. Streams raise
    AioRpcError: `status.refusal_of` says what it means.
    """
    metadata = ((AUTHORIZATION, f"Bearer {token}"),) if token else ()
    return _Channel(grpc.aio.insecure_channel(target_of(address), options=_OPTIONS), metadata)


def target_of(addresses: str) -> str:
    """What gRPC connects to: `host:port`, or several, `ip:port,ip:port`, of which it takes the first that answers and
    stays with it as long as it does. A name that stands for several addresses is the same. Raises InvalidCommand.
    """
    several = [address.strip() for address in addresses.split(",")]
    if len(several) == 1:
        return several[0]
    versions = {_ip_version(address) for address in several}
    if len(versions) > 1:
        raise InvalidCommand(
            f"{addresses!r} mixes IPv4 and IPv6", what_to_do="take one name that stands for all of them"
        )
    return f"ipv{versions.pop()}:{','.join(several)}"


def _ip_version(address: str) -> int:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        raise InvalidCommand(
            f"{address!r} is no IP address with a port, and stands in a list of several",
            what_to_do="give IP addresses, or one name that stands for all of them",
        ) from None


class _Channel(grpc.aio.Channel):
    def __init__(self, inner: grpc.aio.Channel, metadata: Metadata) -> None:
        self._inner = inner
        self._metadata = metadata

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Unary(method, self._inner.unary_unary(method, *args, **kwargs), self._metadata)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Unary(method, self._inner.stream_unary(method, *args, **kwargs), self._metadata)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(method, self._inner.unary_stream(method, *args, **kwargs), self._metadata)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Stream(method, self._inner.stream_stream(method, *args, **kwargs), self._metadata)


class _Unary:
    def __init__(self, method: str, inner: Callable[..., Any], metadata: Metadata) -> None:
        self._method = method.lstrip("/")
        self._point = failpoints.of_rpc("call", method)
        self._inner = inner
        self._metadata = metadata

    async def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        **rest: Any,
    ) -> Any:
        span = traces.start_span(self._method, "client")
        all_metadata = _with_place(self._metadata, metadata, span)
        code = grpc.StatusCode.OK
        try:
            seconds = limits.CALL_SECONDS_DEFAULT if timeout is None else timeout
            with failpoints.around(self._point):
                return await self._inner(request, timeout=seconds, metadata=all_metadata, **rest)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise status.refusal_of(error) from None
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            if span is not None:
                _end(span, self._method, code)


class _Stream:
    def __init__(self, method: str, inner: Callable[..., Any], metadata: Metadata) -> None:
        self._method = method.lstrip("/")
        self._inner = inner
        self._metadata = metadata

    def __call__(self, *args: Any, metadata: Sequence[tuple[str, str | bytes]] | None = None, **rest: Any) -> Any:
        span = traces.start_span(self._method, "client")
        call = self._inner(*args, metadata=_with_place(self._metadata, metadata, span), **rest)
        if span is not None:
            call.add_done_callback(_ending(span, self._method))
        return failpoints.between(failpoints.of_rpc("call", self._method), call)


def _with_place(
    own: Metadata, given: Sequence[tuple[str, str | bytes]] | None, span: traces.Span | None
) -> tuple[tuple[str, str | bytes], ...]:
    traceparent = span.id.traceparent if span else traces.current_traceparent()
    place = ((traces.TRACEPARENT, traceparent),) if traceparent else ()
    return (*own, *(given or ()), *place)


def _ending(span: traces.Span, method: str) -> Callable[[grpc.aio.Call], None]:
    ending: set[asyncio.Task[None]] = set()

    async def end(call: grpc.aio.Call) -> None:
        _end(span, method, await call.code())

    def done(call: grpc.aio.Call) -> None:
        task = asyncio.get_running_loop().create_task(end(call))
        ending.add(task)
        task.add_done_callback(ending.discard)

    return done


def _end(span: traces.Span, method: str, code: grpc.StatusCode) -> None:
    span.attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method, names.RPC_STATUS: code.name}
    failed = code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
    traces.end_span(span, code.name if failed else "")
