"""An agent in a process of its own: what it does to its memory, its event loop or its life, it does to itself alone.

A process that has loaded everything and started nothing is forked for each grant, so an agent costs its memory and not
the time of its imports. The executor passes on what the scheduler says, and is told how far the agent is. When either
side is gone the other one sees the end of the pipe between them; what is recorded is enough for the next claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import uvloop
from crewlog.eventlog.blobs import FileBlobs
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.live import NatsLive
from crewlog.executor import parts
from crewlog.executor.config import Config
from crewlog.executor.control import BOOKKEEPING_SECONDS_MAX, Leave
from crewlog.executor.host import Host
from crewlog.runtime import failpoint_ports, failpoints, log
from crewlog.telemetry import traces
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Grant, TaskMessage

TELL_SECONDS = 0.25
END_SECONDS = 5.0
PRELOADED = ("crewlog.executor.agent_process", "crewlog.models.messages_api")

logger = logging.getLogger(__name__)


class Nursery:
    """Where the processes of agents come from. One per executor."""

    def __init__(self, config: Config, executor_id: str) -> None:
        self._config = config
        self._executor_id = executor_id
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))

    def host_for(self, grant: Grant) -> AgentProcess:
        return AgentProcess(self._begin, grant)

    def _begin(self, grant: Grant) -> tuple[ForkServerProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=main, args=(self._config, self._executor_id, grant.SerializeToString(), theirs), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours


class AgentProcess:
    """Hosts one grant in a child process."""

    def __init__(self, begin: Callable[[Grant], tuple[ForkServerProcess, Connection]], grant: Grant) -> None:
        self._begin = begin
        self._grant = grant
        self._outbox = _Outbox()
        self.progress_revision = 0
        self.step_seconds = BOOKKEEPING_SECONDS_MAX
        self.messages = 0

    async def run(self) -> None:
        process, pipe = await asyncio.to_thread(self._begin, self._grant)
        ended = asyncio.Event()
        try:
            with _heard(pipe, self._take, ended.set):
                self._outbox.open(pipe)
                await ended.wait()
        finally:
            await asyncio.shield(_part(process, pipe, self._outbox))
        if process.exitcode:
            logger.warning("the process of agent %s ended with %s", self._grant.agent_id, process.exitcode)

    def ask_to_leave(self, leave: Leave, grace_seconds: float = 0.0) -> None:
        self._outbox.put("leave", int(leave), grace_seconds)

    def hear(self, message: TaskMessage) -> None:
        self._outbox.put("hear", message.SerializeToString())

    def change_allotment(self, changed: ChangedAllotment) -> None:
        self._outbox.put("allotment", changed.SerializeToString())

    def _take(self, message: tuple[int, float, int]) -> None:
        self.progress_revision, self.step_seconds, self.messages = message


class _Outbox:
    """Writes from a thread of its own: a process that does not read holds up nobody but itself."""

    def __init__(self) -> None:
        self._unsent: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, *message: Any) -> None:
        self._unsent.put(message)

    def open(self, pipe: Connection) -> None:
        self._thread = threading.Thread(target=self._write, args=(pipe,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Blocks until nothing is written any more, which is at once when the pipe has been shut down."""
        self._unsent.put(None)
        if self._thread is not None:
            self._thread.join()

    def _write(self, pipe: Connection) -> None:
        with contextlib.suppress(OSError):  # what cannot be said any more has no listener
            while (message := self._unsent.get()) is not None:
                pipe.send(message)


@contextmanager
def _heard(pipe: Connection, take: Callable[[Any], None], ended: Callable[[], object]) -> Iterator[None]:
    """While it lasts, every message is taken as it comes; `ended` when the other side is gone."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            while pipe.poll():
                take(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            ended()

    descriptor = pipe.fileno()
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


async def _part(process: ForkServerProcess, pipe: Connection, outbox: _Outbox) -> None:
    """Both sides see the end of the pipe, also one that is in the middle of writing."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as end, contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    await asyncio.to_thread(outbox.close)
    pipe.close()
    await _gone(process)


async def _gone(process: ForkServerProcess) -> None:
    """It ends when its pipe does; when it does not, it is killed with all that it has started."""
    await asyncio.to_thread(process.join, END_SECONDS)
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.join, END_SECONDS)


def main(config: Config, executor_id: str, grant: bytes, pipe: Connection) -> None:
    """The child: one host, until it has ended or the executor is gone."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.configure("executor")
    traces.configure("executor")
    failpoints.configure("executor")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_host(config, executor_id, Grant.FromString(grant), pipe))
    traces.close()


async def _host(config: Config, executor_id: str, grant: Grant, pipe: Connection) -> None:
    stream = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="executor")
    blobs = failpoint_ports.blobs(FileBlobs(config.data_directory / "blobs"))
    live, entries = NatsLive(stream.connection), failpoint_ports.log(stream)
    try:
        async with parts.opened(config, entries, live, blobs, executor_id) as opened:
            await _until_over(opened.host_for(grant), pipe)
    finally:
        await stream.close()


async def _until_over(host: Host, pipe: Connection) -> None:
    working = asyncio.create_task(host.run())
    with _heard(pipe, lambda message: _obey(host, *message), working.cancel):
        while not working.done():
            with contextlib.suppress(OSError):
                pipe.send((host.progress_revision, host.step_seconds, host.messages))
            await asyncio.wait((working,), timeout=TELL_SECONDS)
    with contextlib.suppress(asyncio.CancelledError):
        await working


def _obey(host: Host, what: str, *about: Any) -> None:
    match what:
        case "leave":
            host.ask_to_leave(Leave(about[0]), about[1])
        case "hear":
            host.hear(TaskMessage.FromString(about[0]))
        case _:
            host.change_allotment(ChangedAllotment.FromString(about[0]))
