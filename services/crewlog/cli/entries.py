"""`crewlog events`: the entries of the log, as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import grpc
from crewlog.cli import story, telling, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, to_json, write_line, write_message
from crewlog.cli.story import Story
from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.eventlog.codec import EVENT_TYPES
from crewlog.runtime.status import refusal_of
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.run_pb2 import GetRun

PAUSE_SECONDS = 0.5
TRIES_MAX = 120
KINDS = ("run", "agent", "workspace", "change", "project", "budget", "admission")


@dataclass(frozen=True, slots=True)
class Wanted:
    follow: bool
    run_id: str
    project_id: str
    kinds: Sequence[str]
    types: Sequence[str]
    from_revision: int


async def write(gateway: Gateway, wanted: Wanted, output: Output) -> int:
    _check("kind", wanted.kinds, KINDS)
    _check("type", wanted.types, EVENT_TYPES)
    if wanted.run_id:
        await gateway.runs.Get(GetRun(run_id=wanted.run_id))  # refuses where there is no such run
    if output is Output.JSON and not wanted.follow:
        await _write_array(gateway, wanted)
        return 0
    told = Story()
    async for recorded in _entries(gateway, wanted):
        if output is Output.TABLE:
            told = _write_lines(told, recorded)
        else:
            write_message(recorded, Output.JSONL, with_defaults=False)
    return 0


async def _entries(gateway: Gateway, wanted: Wanted) -> AsyncGenerator[RecordedEntry]:
    """Each entry once, over lost connections, too."""
    revision, tries = wanted.from_revision, 0
    while True:
        try:
            async for message in gateway.events.Watch(_request(wanted, revision)):
                tries = 0
                if message.HasField("entry") and message.entry.revision > revision:
                    revision = message.entry.revision
                    yield message.entry
                elif message.HasField("heartbeat"):
                    revision = max(revision, message.heartbeat.revision)
            if not wanted.follow:
                return
        except grpc.aio.AioRpcError as error:
            meaning = refusal_of(error)
            if not wanted.follow or not isinstance(meaning, Unavailable) or tries == TRIES_MAX:
                raise meaning from None
        if not tries:
            say(f"the connection is lost; trying again from revision {revision}")
        tries += 1
        await asyncio.sleep(PAUSE_SECONDS)


def _request(wanted: Wanted, revision: int) -> WatchEvents:
    return WatchEvents(
        from_revision=revision,
        kinds=wanted.kinds,
        types=wanted.types,
        run_id=wanted.run_id,
        project_id=wanted.project_id,
        until_now=not wanted.follow,
    )


async def _write_array(gateway: Gateway, wanted: Wanted) -> None:
    found = [to_json(recorded, with_defaults=False) async for recorded in _entries(gateway, wanted)]
    write_line(json.dumps(found, indent=2, ensure_ascii=False))


def _write_lines(told: Story, recorded: RecordedEntry) -> Story:
    told, lines = story.tell(told, recorded)
    aggregate = recorded.entry.aggregate
    for line in lines:
        place = f"{recorded.revision:>8}  {wording.time_of_day(line.at_unix_micros)}  {aggregate.kind}/{aggregate.id}"
        write_line(f"{wording.plain(place)}  {telling.in_words(line)}")
    return told


def _check(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidCommand(f"there is no {option} {unknown[0]!r}", what_to_do=f"use one of: {', '.join(known)}")
