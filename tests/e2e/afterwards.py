"""What has to hold of a data directory whatever was done with it, checked once nobody uses it any more.

From the log alone: revisions without gaps, hashes, nothing that must never happen, every agent able to go on from each
of its entries, every blob with the hash that names it. Beside it: the gateway's projection says what one says that is
made anew from the log; the branches are at the commits that the log says were delivered; the model server was asked no
more than there are intents; and nothing that is secret was written.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing, suppress
from pathlib import Path

from crewlog.cli.verifying import blobs_of, check_history
from crewlog.domain import names
from crewlog.eventlog import codec
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import EventLog, Stored
from crewlog.gateway.projection import Projection
from crewlog.v1.agent_pb2 import ModelCallStarted
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from crewlog.v1.project_pb2 import ProjectRegistered
from crewlog.v1.run_pb2 import RunCancelled, RunFailed, RunStarted, RunSucceeded
from crewlog.v1.workspace_pb2 import Change
from google.protobuf.message import Message

LEDGER = "model-ledger"
"""Where tests leave how many requests the model server has answered."""
CANARY = b"canary-"
"""Stands in every secret that a test gives to a platform."""
SECONDS_MAX = 60.0


def data_directories(folder: Path) -> list[Path]:
    """Those below a folder which hold a log."""
    return sorted(path.parent for path in folder.glob("**/epoch") if (path.parent / "nats" / "jetstream").is_dir())


async def check(directory: Path, scratch: Path) -> None:
    """Raises Difference or AssertionError with what is not as it has to be. Nobody may use the directory."""
    check_secrets(directory)
    server = NatsServer.start(directory / "nats", sync_always=False)
    try:
        log = await connect_log(server.url, "operator", server.passwords["operator"], name="afterwards")
        try:
            await check_log(log, directory, scratch)
        finally:
            await log.close()
    finally:
        server.stop()


async def check_log(log: EventLog, directory: Path, scratch: Path) -> None:
    stored = await everything(log)
    assert [one.revision for one in stored] == list(range(1, len(stored) + 1)), "the log has a gap"
    entries = [recorded(one) for one in stored]
    assert {one.entry.epoch for one in entries} <= {(directory / "epoch").read_text().strip()}
    if entries:
        check_history(entries)
        check_blobs(entries, directory / "blobs")
        check_branches(entries)
        check_requests(entries, directory.parent / LEDGER)
    if (directory / "gateway" / "projection.sqlite").exists():
        await check_projection(log, directory / "gateway" / "projection.sqlite", scratch)


async def everything(log: EventLog) -> list[Stored]:
    """The log up to where it ends now."""
    head, found = await log.head(), list[Stored]()
    async with asyncio.timeout(SECONDS_MAX), aclosing(log.follow(0)) as batches:
        while not found or found[-1].revision < head:
            if not head:
                break
            found += await anext(batches)
    return found


def recorded(stored: Stored) -> RecordedEntry:
    entry = Entry.FromString(stored.payload)
    return RecordedEntry(revision=stored.revision, entry=entry, stored=stored.payload)


def facts_of(entries: Sequence[RecordedEntry]) -> Iterator[tuple[RecordedEntry, Message]]:
    for one in entries:
        yield from ((one, fact) for fact in codec.facts(one.entry))


def check_secrets(directory: Path) -> None:
    """The client's token stands in its file and nowhere else, and what a test has hidden stands nowhere."""
    token = (directory / "token").read_bytes().strip() if (directory / "token").exists() else CANARY
    for path in directory.rglob("*"):
        if path.is_file() and path != directory / "token":
            content = path.read_bytes()
            assert CANARY not in content and token not in content, f"a secret is in {path}"


def check_blobs(entries: Sequence[RecordedEntry], blobs: Path) -> None:
    for sha256, size in blobs_of(entries).items():
        content = (blobs / sha256.hex()[:2] / sha256.hex()).read_bytes()
        assert (hashlib.sha256(content).digest(), len(content)) == (sha256, size), f"blob {sha256.hex()} was changed"


def check_branches(entries: Sequence[RecordedEntry]) -> None:
    paths = {fact.project_id: Path(fact.path) for _, fact in facts_of(entries) if isinstance(fact, ProjectRegistered)}
    projects: dict[str, Path] = {}
    delivered: dict[str, Change] = {}
    for one, fact in facts_of(entries):
        run_id = names.run_of(one.entry.aggregate.id)
        if isinstance(fact, RunStarted):
            projects[run_id] = paths[fact.project_id]
        elif isinstance(fact, RunSucceeded | RunFailed | RunCancelled) and fact.change.branch:
            delivered[run_id] = fact.change
    for run_id, change in delivered.items():
        if projects[run_id].is_dir():
            head = tip_of(projects[run_id], change.branch)
            assert head == change.commit, f"{change.branch} is at {head}, and the log says {change.commit}"


def tip_of(repository: Path, branch: str) -> str:
    asked = ("git", "-C", str(repository), "rev-parse", "--verify", f"refs/heads/{branch}")
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def check_requests(entries: Sequence[RecordedEntry], ledger: Path) -> None:
    """A server that was killed has forgotten what it had answered, so there may be fewer."""
    with suppress(FileNotFoundError):
        intents = sum(isinstance(fact, ModelCallStarted) for _, fact in facts_of(entries))
        asked = int(ledger.read_text())
        assert asked <= intents, f"the model was asked {asked} times, and there are {intents} intents"


async def check_projection(log: EventLog, path: Path, scratch: Path) -> None:
    """The file as it was left, continued, says the same as one that is made anew."""
    kept, anew = scratch / "kept", scratch / "anew"
    for folder in (kept, anew):
        folder.mkdir(parents=True)
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy2(file, kept)
    tables = [await followed(log, folder / path.name) for folder in (kept, anew)]
    for table, rows in tables[1].items():
        assert tables[0][table] == rows, f"{table} is not what the log says"
    assert ("unknown_events", "0") in tables[1]["meta"]


async def followed(log: EventLog, path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the projection, once it shows the whole log."""
    projection = Projection(path, log)
    await projection.open()
    following = asyncio.create_task(projection.follow())
    try:
        await projection.caught_up(SECONDS_MAX)
    finally:
        following.cancel()
        await asyncio.wait((following,))
        await projection.close()
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        return {table: sorted(database.execute(f"select * from {table}").fetchall(), key=repr) for table in tables}
