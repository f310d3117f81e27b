"""The next few entries of one aggregate, without a consumer: one direct get, which answers with a batch.

The server does nothing else for the connection while it looks for them, so one get asks for few.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from crewlog.eventlog.connection import ANSWER_SECONDS, NO_RESPONDERS, Connection, Expecting, NoAnswer, status_of
from crewlog.eventlog.limits import BATCH_BYTES_MAX
from crewlog.eventlog.port import AggregateId, Stored
from nats.aio.msg import Msg

ENTRIES_MAX = 8
END_OF_BATCH = "204"
NOT_FOUND = "404"


@dataclass(eq=False, slots=True)
class _Answers:
    """The messages of one batched direct get; `pending` is how many matching ones the server did not send."""

    messages: list[Msg] = field(default_factory=list)
    pending: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def take(self, message: Msg) -> None:
        status = status_of(message)
        if not status:
            self.messages.append(message)
        elif self.pending.done():
            return
        elif status == END_OF_BATCH:
            self.pending.set_result(int((message.headers or {}).get("Nats-Num-Pending", "0")))
        elif status == NOT_FOUND:
            self.pending.set_result(0)
        else:
            what = "nobody serves the log" if status == NO_RESPONDERS else str(message.headers)
            self.pending.set_exception(NoAnswer(what))

    def fail(self, error: Exception) -> None:
        if not self.pending.done():
            self.pending.set_exception(error)


async def next_entries(
    connection: Connection, stream: str, aggregate: AggregateId, position: int
) -> tuple[Sequence[Stored], bool]:
    """What follows the position, and whether there is more. Raises NoAnswer."""
    answers = _Answers()
    subject = f"$JS.API.DIRECT.GET.{stream}"
    with connection.expect(Expecting(subject, answers.take, answers.fail)) as reply:
        await connection.publish(subject, _request(aggregate, position), reply)
        timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, answers.fail, NoAnswer("no answer in time"))
        try:
            pending = await answers.pending
        finally:
            timer.cancel()
    return [_stored(aggregate, message) for message in answers.messages], pending > 0


def _request(aggregate: AggregateId, position: int) -> bytes:
    return json.dumps(
        {
            "seq": position + 1,
            "next_by_subj": aggregate.subject,
            "batch": ENTRIES_MAX,
            "max_bytes": BATCH_BYTES_MAX,
        }
    ).encode()


def _stored(aggregate: AggregateId, message: Msg) -> Stored:
    return Stored(int((message.headers or {})["Nats-Sequence"]), aggregate, message.data)
