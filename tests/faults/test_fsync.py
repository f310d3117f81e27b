"""What was acknowledged is on disk: shown by the system calls of the server, as killing it does not show it.

A process that is killed leaves what it has written to the kernel, synced or not. So the calls are looked at: between
the last write of a block file and the acknowledgement that goes to the socket, an fsync of the file has to return.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from crewlog.eventlog.jetstream import connect_log, create_stream
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import AggregateId

ENTRIES = 20
SLOW_SECONDS = 0.2
ATTACH_SECONDS_MAX = 10.0
STREAM = "/EVENTS_test/msgs/"
CALLS = "fsync,fdatasync,sync_file_range,pwrite64,pwritev,write,writev,sendto,sendmsg"

# `pid call(fd<what it is>...`: whole, or the first half of it.
_CALL = re.compile(r"^(?P<pid>\d+) +(?P<call>\w+)\(\d+<(?P<file>[^>]*)>")
_ACKNOWLEDGED = re.compile(r'\\"seq\\":(\d+)')
_SYNCS = ("fsync", "fdatasync")

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed on this machine")


@asynccontextmanager
async def traced(server: NatsServer, output: Path, *options: str) -> AsyncIterator[None]:
    """Writes down the system calls of the server."""
    attach = ("-f", "-yy", "-s", "4000", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(server.pid))
    command = ("strace", *options, *attach)
    strace = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert strace.stderr is not None
    try:
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            said = (await strace.stderr.readline()).decode()
        if "attached" not in said:
            pytest.skip(f"strace may not trace another process on this machine: {said.strip()}")
        yield
    finally:
        if strace.returncode is None:
            strace.terminate()
        await strace.communicate()


async def acknowledged(directory: Path, *, sync_always: bool) -> tuple[list[int], Path]:
    """The revisions of entries that were appended while the server was traced, and the trace."""
    server = NatsServer.start(directory / "nats", sync_always=sync_always)
    try:
        password = server.passwords["operator"]
        await create_stream(server.url, "operator", password, "test")
        log = await connect_log(server.url, "operator", password, name="test")
        run, revisions = AggregateId("local", "run", "r"), [0]
        async with traced(server, directory / "calls"):
            for number in range(ENTRIES):
                revisions.append(await log.append(run, b"entry %d" % number, revisions[-1]))
            others = [AggregateId("local", "run", f"r{number}") for number in range(ENTRIES)]
            revisions += await asyncio.gather(*(log.append(other, b"with others", 0) for other in others))
        await log.close()
    finally:
        server.stop()
    return revisions[1:], directory / "calls"


def unsynced(trace: Path) -> Iterator[tuple[int, bool]]:
    """The revisions whose acknowledgement was sent, in order, each with whether its entry was not synced by then.

    The server writes one entry after the other, and nothing to the file while it syncs it.
    """
    written, synced, syncing = 0, 0, set[str]()
    for line in trace.read_text(errors="replace").splitlines():
        pid, call, file = _parsed(line)
        if file.endswith(".blk") and STREAM in file:
            if call not in _SYNCS:
                written += 1
            elif "unfinished" in line:
                syncing.add(pid)
            else:
                synced = written
        elif "TCP" in file:
            yield from ((int(revision), int(revision) > synced) for revision in _ACKNOWLEDGED.findall(line))
        elif pid in syncing and "resumed>" in line:
            syncing.remove(pid)
            synced = written


def _parsed(line: str) -> tuple[str, str, str]:
    """Process, call and file; of the second half of a call only the process."""
    match = _CALL.match(line)
    return (match["pid"], match["call"], match["file"]) if match else (line.partition(" ")[0], "", "")


@needs_strace
async def test_fault_27_an_acknowledgement_comes_after_the_sync(tmp_path: Path) -> None:
    revisions, trace = await acknowledged(tmp_path, sync_always=True)
    seen = dict(unsynced(trace))
    assert seen.keys() >= {*revisions[:ENTRIES], revisions[-1]}, "the trace does not show the acknowledgements"
    assert [revision for revision, is_dirty in seen.items() if is_dirty] == []


@needs_strace
async def test_fault_27_without_syncing_the_same_look_finds_it(tmp_path: Path) -> None:
    _, trace = await acknowledged(tmp_path, sync_always=False)
    assert any(is_dirty for _, is_dirty in unsynced(trace))


@needs_strace
async def test_fault_29_a_slow_disk_costs_time_and_nothing_else(tmp_path: Path) -> None:
    server = NatsServer.start(tmp_path / "nats")
    try:
        password = server.passwords["operator"]
        await create_stream(server.url, "operator", password, "test")
        log = await connect_log(server.url, "operator", password, name="test")
        runs = [AggregateId("local", "run", f"r{number}") for number in range(ENTRIES)]
        began = time.monotonic()
        async with traced(server, tmp_path / "calls", "-e", f"inject=fsync:delay_enter={int(SLOW_SECONDS * 1e6)}"):
            revisions = await asyncio.gather(*(log.append(run, b"slow", 0) for run in runs))
        assert time.monotonic() - began > SLOW_SECONDS
        assert [[one.revision for one in await log.read(run)] for run in runs] == [[revision] for revision in revisions]
        await log.close()
    finally:
        server.stop()


def test_the_setting_of_the_platform_is_the_safe_one(tmp_path: Path) -> None:
    server = NatsServer.start(tmp_path / "nats")
    server.stop()
    assert "sync_interval: always" in (tmp_path / "nats" / "nats.conf").read_text()
