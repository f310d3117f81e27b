"""Fills a log fast: entries that are known to fit are sent without waiting for each, and counted at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable

from crewlog.eventlog.jetstream import STREAM_PREFIX, JetStreamLog

from bench.growth.histories import Line

WINDOW = 2_000
ANSWER_SECONDS = 30.0


async def fill(log: JetStreamLog, lines: Iterable[Line]) -> int:
    """Appends the lines to a log that nobody else appends to; returns its last revision."""
    client, stream, revision = log.connection, STREAM_PREFIX + log.epoch, await log.head()
    last_of: dict[str, int] = {}
    for line in lines:
        revision += 1
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(last_of.get(line.subject, 0)),
            "Nats-Expected-Stream": stream,
        }
        last_of[line.subject] = revision
        if revision % WINDOW:
            await client.publish(line.subject, line.payload, headers=headers)
            continue
        answer = await client.request(line.subject, line.payload, timeout=ANSWER_SECONDS, headers=headers)
        _check(json.loads(answer.data).get("seq"), revision)
    await client.flush()
    _check(await log.head(), revision)
    return revision


def _check(stored: int | None, expected: int) -> None:
    if stored != expected:
        raise RuntimeError(f"the log is at revision {stored}, and not at {expected}: entries were refused")
