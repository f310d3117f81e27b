"""An entry whose acknowledgement was lost: look, and only where nothing is, send the same bytes again.

What counts is the entry that follows the expected revision, not the last one: somebody may have appended behind ours.
It is read from the leader. The first attempt may still be on its way: then one of the two is refused, and we look.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping

from crewlog.domain.errors import Unavailable
from crewlog.eventlog import verdicts
from crewlog.eventlog.connection import ApiError, Connection, NoAnswer, decoded
from crewlog.eventlog.outgoing import Outgoing
from crewlog.eventlog.port import AppendInDoubt, WrongRevision
from crewlog.eventlog.verdicts import Verdict

PAUSE_SECONDS = 0.05


async def send_alone(connection: Connection, outgoing: Outgoing) -> int:
    """One attempt. Raises NoAnswer when it is in doubt, WrongRevision, or Unavailable when the log does not take it."""
    answer = await connection.request(outgoing.subject, outgoing.payload, outgoing.headers)
    try:
        return int(decoded(answer)["seq"])
    except ApiError as error:
        verdict = verdicts.of_single(error.code)
        if verdict is Verdict.WRONG_REVISION:
            raise WrongRevision(f"{outgoing.subject} is not at {outgoing.expected_revision}: {error}") from None
        if verdict is Verdict.IN_DOUBT:
            raise NoAnswer(str(error)) from error
        raise Unavailable(
            f"the log does not take entries: {error}", what_to_do="look at its disk and limits"
        ) from error


async def next_entry(connection: Connection, stream: str, subject: str, after: int) -> tuple[int, bytes] | None:
    """The first entry of a subject, or of those that it stands for, after a revision, as the leader has it."""
    return await _entry(connection, stream, {"seq": after + 1, "next_by_subj": subject})


async def last_entry(connection: Connection, stream: str, subject: str) -> tuple[int, bytes] | None:
    """The last entry of a subject, as the leader has it."""
    return await _entry(connection, stream, {"last_by_subj": subject})


async def _entry(connection: Connection, stream: str, which: Mapping[str, object]) -> tuple[int, bytes] | None:
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", which)
    except ApiError as error:
        if error.code == verdicts.NO_MESSAGE_FOUND:
            return None
        raise NoAnswer(str(error)) from error
    message = answer["message"]
    return int(message["seq"]), base64.b64decode(message.get("data", ""))


class Resolver:
    """Finds out what became of entries, for `seconds` at most."""

    def __init__(self, connection: Connection, stream: str, seconds: float) -> None:
        self._connection = connection
        self._stream = stream
        self._seconds = seconds

    async def resolve(self, outgoing: Outgoing) -> int:
        """The revision of the entry, stored once. Raises WrongRevision, or AppendInDoubt after the deadline."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._resolve(outgoing)
        except TimeoutError:
            raise AppendInDoubt(f"no answer about {outgoing.subject} for {self._seconds} s") from None

    async def _resolve(self, outgoing: Outgoing) -> int:
        refusal: WrongRevision | None = None
        while True:
            try:
                await self._connection.until_connected()
                found = await next_entry(self._connection, self._stream, outgoing.subject, outgoing.expected_revision)
                if found is not None:
                    return _revision_if_ours(outgoing, *found)
                if refusal is not None:
                    raise refusal
                try:
                    return await send_alone(self._connection, outgoing)
                except WrongRevision as wrong:
                    refusal = wrong
            except NoAnswer:
                await asyncio.sleep(PAUSE_SECONDS)


def _revision_if_ours(outgoing: Outgoing, revision: int, payload: bytes) -> int:
    if payload != outgoing.payload:
        raise WrongRevision(f"{outgoing.subject} is not at {outgoing.expected_revision}: {revision} follows")
    return revision
