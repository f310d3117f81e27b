"""An executor that is broken on purpose: its log says that an intent is stored, and stores it with the next entry.

For the negative control. As long as it lives nobody notices; when it dies in the middle of a model call, nothing says
that the call was made.
"""

from __future__ import annotations

import sys

from crewlog.eventlog import jetstream
from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.eventlog.port import AggregateId
from crewlog.executor import app
from crewlog.executor.__main__ import main
from crewlog.v1.entry_pb2 import Entry

UNTRUE = 2**40


class ForgetfulLog:
    def __init__(self, inner: JetStreamLog) -> None:
        self._inner = inner
        self._held: dict[AggregateId, tuple[bytes, int]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        if aggregate in self._held:
            expected_revision = await self._inner.append(aggregate, *self._held.pop(aggregate))
        if Entry.FromString(payload).decisions[-1].events[-1].HasField("model_call_started"):
            self._held[aggregate] = (payload, expected_revision)
            return UNTRUE
        return await self._inner.append(aggregate, payload, expected_revision)


async def connect_log(url: str, user: str, password: str, *, name: str) -> ForgetfulLog:
    return ForgetfulLog(await jetstream.connect_log(url, user, password, name=name))


if __name__ == "__main__":
    setattr(app, "connect_log", connect_log)  # noqa: B010
    sys.exit(main())
