"""Leases on the server of the log: each is the one message of its subject, in a bucket of the key-value store.

Each write expects the revision before it, so of many who want a lease one gets it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from crewlog.domain.errors import Unavailable
from crewlog.eventlog import connection as connections
from crewlog.eventlog import indoubt
from crewlog.eventlog.connection import CONNECT_SECONDS_MAX, ApiError, Connection, NoAnswer
from crewlog.eventlog.leases import BUCKET, SUBJECTS, Lease, LeaseLost
from crewlog.eventlog.outgoing import Outgoing
from crewlog.eventlog.port import WrongRevision

STREAM = f"KV_{BUCKET}"
PAUSE_SECONDS = 0.05
_GIVEN_UP = {"KV-Operation": "DEL", "Nats-TTL": "1"}


class JetStreamLeases:
    """Leases on the server of the log."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def look(self, key: str) -> Lease | None:
        try:
            found = await indoubt.last_entry(self._connection, STREAM, _subject(key))
        except NoAnswer as reason:
            raise _unavailable(reason) from reason
        return Lease(key, found[1].decode(), found[0], found[0]) if found and found[1] else None

    async def take(self, key: str, holder: str, seconds: int, *, instead_of: Lease | None = None) -> Lease | None:
        try:
            found = await indoubt.last_entry(self._connection, STREAM, _subject(key))
            revision, has_holder = (found[0], bool(found[1])) if found else (0, False)
            if has_holder and (instead_of is None or instead_of.revision != revision):
                return None
            revision = await self._put(key, holder, revision, {"Nats-TTL": str(seconds)})
        except NoAnswer as reason:
            raise _unavailable(reason) from reason
        except WrongRevision:
            return None
        return Lease(key, holder, revision, revision)

    async def renew(self, lease: Lease, seconds: int) -> Lease:
        try:
            revision = await self._put(lease.key, lease.holder, lease.revision, {"Nats-TTL": str(seconds)})
        except NoAnswer as reason:
            raise _unavailable(reason) from reason
        except WrongRevision:
            return await self.renew(await self._still_held(lease), seconds)
        return replace(lease, revision=revision)

    async def give_up(self, lease: Lease) -> None:
        try:
            await self._put(lease.key, "", lease.revision, _GIVEN_UP)
        except NoAnswer as reason:
            raise _unavailable(reason) from reason
        except WrongRevision:
            with suppress(LeaseLost):
                await self.give_up(await self._still_held(lease))

    async def _still_held(self, lease: Lease) -> Lease:
        """Where the last renewal was stored and its answer was lost."""
        found = await self.look(lease.key)
        if found is None or found.holder != lease.holder:
            raise LeaseLost(f"{lease.key} is held by {found.holder if found else 'nobody'}")
        return replace(lease, revision=found.revision)

    async def _put(self, key: str, holder: str, expected_revision: int, headers: dict[str, str]) -> int:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_revision), **headers}
        outgoing = Outgoing(_subject(key), holder.encode(), expected_revision, headers)
        return await indoubt.send_alone(self._connection, outgoing)


async def create_leases(url: str, user: str, password: str, *, replicas: int = 1) -> None:
    """Makes the bucket, or finds it made. Raises Unavailable."""
    connection = await connections.connect(url, user, password, name="create-leases")
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            while not await _is_made(connection, replicas):
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        raise Unavailable("the log did not answer", what_to_do="try again") from None
    except ApiError as error:
        raise Unavailable(f"the log refused: {error}") from error
    finally:
        await connection.close()


def bucket_config(replicas: int = 1) -> dict[str, Any]:
    """On disk, so that a restart of the server neither ends a lease nor gives a number a second time.

    Without markers for what has expired: a marker would look like a holder.
    """
    return {
        "name": STREAM,
        "subjects": [f"{SUBJECTS}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "deny_delete": True,
    }


async def _is_made(connection: Connection, replicas: int) -> bool:
    try:
        await connection.until_connected()
        names = await connection.api("STREAM.NAMES", {"subject": f"{SUBJECTS}.>"})
        if STREAM not in (names.get("streams") or ()):
            await connection.api(f"STREAM.CREATE.{STREAM}", bucket_config(replicas))
    except NoAnswer:
        return False
    return True


def _subject(key: str) -> str:
    return f"{SUBJECTS}.{key}"


def _unavailable(reason: NoAnswer) -> Unavailable:
    return Unavailable(f"the log did not answer: {reason}", what_to_do="try again")
