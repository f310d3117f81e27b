"""One connection to the server of the log: it comes back by itself, and whoever waits on it learns of a loss at once.

A request that got no answer raises NoAnswer: whether it was carried out is not known. Nothing is sent while there is no
connection, but what was sent just before a loss may still arrive after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from crewlog.domain.errors import NotAuthenticated, NotPermitted, TooLarge, Unavailable
from crewlog.eventlog import permissions
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, MaxPayloadError

CONNECT_SECONDS_MAX = 10.0
RECONNECT_SECONDS = 0.2
PING_SECONDS = 10
ANSWER_SECONDS = 5.0
NO_RESPONDERS = "503"

_violation = re.compile(r'permissions violation for (?:publish|subscription) to "([^"]+)"')
_logger = logging.getLogger(__name__)


class NoAnswer(Exception):
    """Whether the request was carried out is not known."""


class ApiError(Exception):
    """The server answered that it does not do it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("description", "")))
        self.code = int(error.get("err_code", 0))


@dataclass(frozen=True, slots=True, eq=False)
class Expecting:
    """Somebody who waits for answers to what was sent to `subject`."""

    subject: str
    take: Callable[[Msg], None]
    fail: Callable[[Exception], None]


def status_of(message: Msg) -> str:
    """The status of a message that carries nothing else; empty for every other message."""
    return "" if message.data or not message.headers else message.headers.get("Status", "")


class _Expected:
    """Everybody who waits on a connection, by the token in their reply subject."""

    def __init__(self) -> None:
        self._by_token: dict[str, Expecting] = {}
        self._tokens = count(1)

    @contextmanager
    def register(self, expecting: Expecting) -> Iterator[str]:
        token = str(next(self._tokens))
        self._by_token[token] = expecting
        try:
            yield token
        finally:
            del self._by_token[token]

    async def take(self, message: Msg) -> None:
        expecting = self._by_token.get(message.subject.rpartition(".")[2])
        if expecting is not None:
            expecting.take(message)

    def fail(self, error: Exception, subject: str = "") -> None:
        """Tells all, or those who sent to `subject`."""
        for expecting in tuple(self._by_token.values()):
            if not subject or expecting.subject.lower() == subject:
                expecting.fail(error)


class _Client(Client):
    """What the server and this client write, `name: value`, needs no more care than this; every entry that is read has
    some of it."""

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        lines = raw.decode("utf-8", "replace").split("\r\n")
        return dict([line.split(": ", 1) for line in lines if ": " in line])


class Connection:
    """Made by `connect`; `client` is the client of nats-py."""

    def __init__(self, user: str) -> None:
        self.client: Client = _Client()
        self._user = user
        self._expected = _Expected()
        self._inbox = ""
        self._connected = asyncio.Event()
        self._closed = False
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def user(self) -> str:
        return self._user

    def check_open(self) -> None:
        """Raises Unavailable when it was closed, here or by the server for good."""
        if self._closed:
            raise Unavailable("the connection to the log is closed")

    async def until_connected(self) -> None:
        """Waits for the connection to come back; raises Unavailable when it was closed for good."""
        await self._connected.wait()
        self.check_open()

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, seconds: float = ANSWER_SECONDS
    ) -> Msg:
        """The answer. Raises NoAnswer, NotPermitted, TooLarge, or Unavailable after the end of the connection."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()

        def take(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        with self.expect(Expecting(subject, take, fail)) as reply:
            await self.publish(subject, payload, reply, headers)
            timer = loop.call_later(seconds, fail, NoAnswer("the log did not answer in time"))
            try:
                message = await answer
            finally:
                timer.cancel()
        if status_of(message) == NO_RESPONDERS:
            raise NoAnswer("nobody serves the log")
        return message

    async def api(self, subject: str, body: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """One request to `$JS.API.<subject>`; raises ApiError too."""
        message = await self.request(f"$JS.API.{subject}", json.dumps(body).encode(), seconds=seconds)
        return decoded(message)

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Sends now or raises NoAnswer."""
        if not self.client.is_connected:
            self.check_open()
            raise NoAnswer("there is no connection to the log")
        try:
            await self.client.publish(subject, payload, reply, headers)
        except MaxPayloadError:
            raise TooLarge(f"{len(payload)} bytes are more than the server of the log takes") from None
        except ConnectionClosedError:
            raise Unavailable("the connection to the log is closed") from None
        except Error as error:
            raise NoAnswer(str(error)) from error

    @contextmanager
    def expect(self, expecting: Expecting) -> Iterator[str]:
        """Gives the reply subject whose messages `expecting` takes for as long as the block lasts."""
        with self._expected.register(expecting) as token:
            yield f"{self._inbox}.{token}"

    async def open(self, url: str, password: str, name: str) -> None:
        """Called once, by `connect`."""
        connecting = asyncio.create_task(self._connect(url, password, name))
        try:
            await asyncio.wait(
                (connecting, self._refused), timeout=CONNECT_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
            )
            if self._refused.done():
                raise NotAuthenticated(f"the log refuses the user {self._user!r}: {self._refused.result()}")
            if not connecting.done():
                raise Unavailable(f"no log answers at {url}: {self.client.last_error}", what_to_do="start nats-server")
            connecting.result()
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait((connecting,))

    async def close(self) -> None:
        """Whoever waits gets Unavailable."""
        await self.client.close()
        await self._on_closed()

    async def _connect(self, url: str, password: str, name: str) -> None:
        await self.client.connect(
            url,
            user=self._user,
            password=password,
            name=name,
            inbox_prefix=permissions.inbox_prefix(self._user),
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # it is slept, fractions are fine
            ping_interval=PING_SECONDS,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._expected.take)
        self._connected.set()

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower()
        if "authorization violation" in text and not self._refused.done():
            self._refused.set_result(text)
        violation = _violation.search(text)
        if violation is not None:
            self._expected.fail(NotPermitted(f"the log does not let {self._user!r} use {violation[1]}"), violation[1])

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self._expected.fail(NoAnswer("the connection to the log was lost"))

    async def _on_reconnected(self) -> None:
        _logger.info("connected to the log again")
        self._connected.set()

    async def _on_closed(self) -> None:
        self._closed = True
        self._expected.fail(Unavailable("the connection to the log is closed"))
        self._connected.set()


async def connect(url: str, user: str, password: str, *, name: str) -> Connection:
    """Raises Unavailable when nothing answers for CONNECT_SECONDS_MAX, and NotAuthenticated."""
    connection = Connection(user)
    try:
        await connection.open(url, password, name)
    except BaseException:
        await connection.close()
        raise
    return connection


def decoded(message: Msg) -> dict[str, Any]:
    """The JSON of an answer; raises ApiError when it says that something went wrong."""
    answer: dict[str, Any] = json.loads(message.data)
    error = answer.get("error")
    if error is not None:
        raise ApiError(error)
    return answer
