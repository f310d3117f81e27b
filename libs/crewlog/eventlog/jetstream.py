"""The log on NATS JetStream: one stream, one exact subject per aggregate, one message per entry.

appends.py     sending, group commit          indoubt.py   lost acknowledgements
history.py     reading one aggregate          following.py reading everything, for ever
pulls.py       what a consumer delivers
reads.py       one at a time, or many in one pass
direct.py      the next few entries of one aggregate
connection.py  one connection that comes back verdicts.py  what the server's error codes mean
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from crewlog.domain.errors import NotFound, Unavailable, WrongState
from crewlog.domain.names import is_aggregate_id
from crewlog.eventlog import connection as connections
from crewlog.eventlog.appends import Appends
from crewlog.eventlog.connection import CONNECT_SECONDS_MAX, ApiError, Connection, NoAnswer
from crewlog.eventlog.following import Following
from crewlog.eventlog.history import History
from crewlog.eventlog.limits import check_entry, check_kinds
from crewlog.eventlog.outgoing import outgoing
from crewlog.eventlog.port import SUBJECTS, AggregateId, Stored
from crewlog.eventlog.pulls import Consumers
from crewlog.eventlog.reads import Reads
from nats.aio.client import Client

STREAM_PREFIX = "EVENTS_"
IN_DOUBT_SECONDS = 30.0
PAUSE_SECONDS = 0.05
CONSUMERS_MAX = 20_000


class JetStreamLog:
    """An EventLog. Made by `connect_log`; close it at the end. After that, everything raises Unavailable."""

    def __init__(self, connection: Connection, epoch: str, *, replicas: int, in_doubt_seconds: float) -> None:
        self._connection = connection
        self._epoch = epoch
        self._stream = STREAM_PREFIX + epoch
        self._appends = Appends(connection, self._stream, in_doubt_seconds)
        consumers = Consumers(connection, self._stream)
        self._reads = Reads(connection, self._stream, consumers)
        self._history = History(connection, self._stream, self._reads, from_leader=replicas > 1)
        self._following = Following(connection, self._stream, consumers)

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def connection(self) -> Client:
        """For the live plane, which may share it."""
        return self._connection.client

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        """Raises NotPermitted or Unavailable, too: when the log is full or closed, nothing was stored by this call."""
        check_entry(payload)
        return await self._appends.append(outgoing(self._stream, aggregate, payload, expected_revision))

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        return await self._history.read(aggregate, after_revision)

    async def last(self, aggregate: AggregateId) -> Stored | None:
        return await self._history.last(aggregate)

    def last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        check_kinds((kind,))
        return self._last_of_each(kind)

    def follow(self, after_revision: int, kinds: Sequence[str] = ()) -> AsyncGenerator[Sequence[Stored], None]:
        check_kinds(tuple(kinds))
        return self._following.follow(after_revision, tuple(kinds))

    async def head(self) -> int:
        info = await _answer(self._connection, f"STREAM.INFO.{self._stream}", {})
        return int(info["state"]["last_seq"])

    async def _last_of_each(self, kind: str) -> AsyncGenerator[Sequence[Stored], None]:
        async with aclosing(self._following.last_of_each(kind, await self.head())) as batches:
            async for batch in batches:
                yield batch

    async def close(self) -> None:
        await self._connection.close()
        await self._appends.close()
        await self._reads.close()


async def connect_log(
    url: str, user: str, password: str, *, name: str, in_doubt_seconds: float = IN_DOUBT_SECONDS
) -> JetStreamLog:
    """Connects and finds the log. Raises Unavailable, NotAuthenticated, or NotFound when nobody has made a log."""
    connection = await connections.connect(url, user, password, name=name)
    try:
        epoch = await _find_epoch(connection)
        if epoch is None:
            raise NotFound("this nats-server holds no log", what_to_do="start the platform, which makes it")
        info = await _answer(connection, f"STREAM.INFO.{STREAM_PREFIX}{epoch}", {})
        replicas = int(info["config"].get("num_replicas", 1))
        return JetStreamLog(connection, epoch, replicas=replicas, in_doubt_seconds=in_doubt_seconds)
    except BaseException:
        await connection.close()
        raise


async def create_stream(url: str, user: str, password: str, epoch: str, *, replicas: int = 1) -> None:
    """Makes the log, or finds it made. Raises WrongState when the server holds the log of another epoch."""
    if not is_aggregate_id(epoch):
        raise WrongState(f"{epoch!r} cannot be the name of an epoch")
    connection = await connections.connect(url, user, password, name="create-stream")
    try:
        found = await _find_epoch(connection)
        if found not in (None, epoch):
            raise WrongState(f"this nats-server holds the log of epoch {found}, not {epoch}")
        if found is None:
            await _create(connection, epoch, replicas)
    finally:
        await connection.close()


async def find_epoch(url: str, user: str, password: str) -> str | None:
    """The epoch of the log that the server holds, if it holds one."""
    connection = await connections.connect(url, user, password, name="find-epoch")
    try:
        return await _find_epoch(connection)
    finally:
        await connection.close()


def stream_config(epoch: str, replicas: int = 1) -> dict[str, Any]:
    """Nothing in it ever goes away: no age, no limit per subject, no deletion, no purge, no rollup."""
    return {
        "name": STREAM_PREFIX + epoch,
        "subjects": [f"{SUBJECTS}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "max_consumers": CONSUMERS_MAX,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "deny_delete": True,
        "deny_purge": True,
        "allow_rollup_hdrs": False,
        "allow_direct": True,
        "allow_atomic": True,
    }


async def _create(connection: Connection, epoch: str, replicas: int) -> None:
    try:
        await _answer(connection, f"STREAM.CREATE.{STREAM_PREFIX}{epoch}", stream_config(epoch, replicas))
    except Unavailable:
        if await _find_epoch(connection) != epoch:
            raise


async def _find_epoch(connection: Connection) -> str | None:
    answer = await _answer(connection, "STREAM.NAMES", {"subject": f"{SUBJECTS}.>"})
    names = [name for name in answer.get("streams") or () if name.startswith(STREAM_PREFIX)]
    return names[0].removeprefix(STREAM_PREFIX) if names else None


async def _answer(connection: Connection, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """Asks until the server answers: for what may be asked twice. Raises Unavailable."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            while True:
                try:
                    await connection.until_connected()
                    return await connection.api(subject, body)
                except NoAnswer:
                    await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        raise Unavailable("the log did not answer", what_to_do="try again") from None
    except ApiError as error:
        raise Unavailable(f"the log refused: {error}") from error
