"""The Messages API over the network. The only module that imports the provider's client library: import it lazily.

The library builds, signs and sends the request and raises its errors. Its retries, its tracing, its answer parser and
everything that it reads from the environment are off.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import anthropic.resources.messages  # noqa: F401 - otherwise the library imports it in the first call
import httpx2
from anthropic import APIConnectionError, APIError, APIStatusError, AsyncAnthropic, AsyncStream
from crewlog.models import failures
from crewlog.models.answer import Answer, Unreadable
from crewlog.models.failures import ModelError
from crewlog.models.timeouts import Timeouts, in_time

if TYPE_CHECKING:
    from anthropic._streaming import ServerSentEvent

T = TypeVar("T")

CONNECTIONS_MAX = 256
# After the last event the connection is given this long to end, so that the next call can use it again.
END_SECONDS = 0.2
# What is shorter is no secret, and would be found in any text.
SECRET_CHARACTERS_MIN = 8
_NOTHING_WAS_SENT = (httpx2.ConnectError, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


def warm_up() -> None:
    """What importing this module does not do yet."""
    _tls()


class MessagesApi:
    """One client, for many calls at once."""

    def __init__(self, api_key: str, base_url: str, timeouts: Timeouts) -> None:
        self._api_key = api_key
        self._timeouts = timeouts
        self._client = _client(api_key, base_url, timeouts)

    async def close(self) -> None:
        await self._client.close()

    async def stream(
        self, body: dict[str, Any], answer: Answer, on_text: Callable[[str], None], timeouts: Timeouts
    ) -> str:
        """Folds the answer to `body` into `answer` until it is complete; returns the provider's id of the request.
        Raises ModelError."""
        try:
            async with AsyncExitStack() as opened:
                begin = self._begin(body, opened)
                message = "the answer did not begin within {}"
                response, events, first = await in_time(begin, timeouts.first_byte_seconds, message)
                await self._fold(first, events, answer, on_text, timeouts)
                return str(response.headers.get("request-id", ""))
        except Unreadable as error:
            raise failures.error_of(failures.UNREADABLE, str(error)) from error

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """The provider's count of the input of `body`, at least 1. Raises ModelError."""
        try:
            answer = self._answer_to(self._client.messages.count_tokens(**body))
            counted = await in_time(answer, self._timeouts.first_byte_seconds, "no answer within {}")
        except (APIError, ValueError, RecursionError) as error:
            raise failures.error_of(failures.UNREADABLE, "the answer is not JSON") from error
        count = getattr(counted, "input_tokens", None)
        if type(count) is not int or count < 1:
            raise failures.error_of(failures.UNREADABLE, "the answer has no count of tokens")
        return count

    async def _begin(
        self, body: dict[str, Any], opened: AsyncExitStack
    ) -> tuple[httpx2.Response, AsyncIterator[ServerSentEvent], dict[str, Any]]:
        """The answer up to its first event, which is also returned, and what reads the others."""
        stream: AsyncStream[Any] = await self._answer_to(self._client.messages.create(**body, stream=True))
        await opened.enter_async_context(stream)
        _check_events(stream.response)
        # The raw events, as the library's own parser hides pings and refuses malformed tool input.
        events = AsyncStream.raw_events(stream.response)
        return stream.response, events, await self._next(events)

    async def _fold(
        self,
        first: dict[str, Any],
        events: AsyncIterator[ServerSentEvent],
        answer: Answer,
        on_text: Callable[[str], None],
        timeouts: Timeouts,
    ) -> None:
        event = first
        while True:
            if text := answer.take(event):
                on_text(text)
            if answer.complete:
                return await _end(events)
            event = await in_time(
                self._next(events), timeouts.silence_seconds, "silence for {} in the middle of the answer"
            )

    async def _answer_to(self, call: Awaitable[T]) -> T:
        """What the call returns. Raises ModelError."""
        try:
            return await call
        except APIStatusError as error:
            raise self._answered(error.status_code, error.body, error.response.headers) from error
        except APIConnectionError as error:
            raise self._unconnected(error) from error

    async def _next(self, events: AsyncIterator[ServerSentEvent]) -> dict[str, Any]:
        try:
            event = await anext(events)
        except StopAsyncIteration as error:
            raise failures.error_of(failures.DISCONNECTED, "the answer ended before it was whole") from error
        except httpx2.HTTPError as error:
            raise failures.error_of(failures.DISCONNECTED, f"the answer broke off: {error}") from error
        except UnicodeDecodeError as error:
            raise Unreadable("the answer is not UTF-8") from error
        return self._parsed(event)

    def _parsed(self, event: ServerSentEvent) -> dict[str, Any]:
        try:
            parsed = json.loads(event.data) if event.data else {"type": event.event}
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"an event of type {event.event!r} is not JSON") from error
        if event.event == "error":
            raise self._answered(200, parsed, httpx2.Headers())
        if not isinstance(parsed, dict):
            raise Unreadable(f"an event of type {event.event!r} is not an object")
        return parsed

    def _unconnected(self, error: APIConnectionError) -> ModelError:
        cause = error.__cause__
        if isinstance(cause, httpx2.ConnectTimeout):
            message = f"no connection within {self._timeouts.connect_seconds:g} s"
            return failures.error_of(failures.UNREACHABLE, message)
        detail = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        kind = failures.UNREACHABLE if isinstance(cause, _NOTHING_WAS_SENT) else failures.DISCONNECTED
        return failures.error_of(kind, detail)

    def _answered(self, status: int, body: object, headers: httpx2.Headers) -> ModelError:
        error = failures.answered_error(status, body, headers, time.time())
        if len(self._api_key) >= SECRET_CHARACTERS_MIN:
            error.failure.message = error.failure.message.replace(self._api_key, "[key]")
        return error


def _client(api_key: str, base_url: str, timeouts: Timeouts) -> AsyncAnthropic:
    timeout = httpx2.Timeout(
        None,  # what is read has the finer limits of this module
        connect=timeouts.connect_seconds,
        pool=timeouts.connect_seconds,
        write=timeouts.first_byte_seconds,
    )
    limits = httpx2.Limits(max_connections=CONNECTIONS_MAX)
    http = httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=limits),
        trust_env=False,
        timeout=timeout,
        follow_redirects=False,
    )
    client = AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        webhook_key="",
        timeout=timeout,
        max_retries=0,
        open_telemetry=False,
        http_client=http,
    )
    # The constructor puts ANTHROPIC_CUSTOM_HEADERS here, which may hold somebody's key, and has no switch for it.
    client._custom_headers = {}
    return client


@functools.cache
def _tls() -> ssl.SSLContext:
    # Once, as reading the certificates takes 20 ms.
    return httpx2.create_ssl_context(trust_env=False)


def _check_events(response: httpx2.Response) -> None:
    content_type = response.headers.get("content-type", "")
    if content_type.partition(";")[0].strip() != "text/event-stream":
        raise failures.error_of(failures.UNREADABLE, f"the answer is {content_type or 'of no type'}, not a stream")


async def _end(events: AsyncIterator[ServerSentEvent]) -> None:
    with contextlib.suppress(TimeoutError, StopAsyncIteration, httpx2.HTTPError, UnicodeDecodeError):
        async with asyncio.timeout(END_SECONDS):
            await anext(events)
