"""Serves gRPC, and runs the main function of a service until it is told to stop.

A server that stops says so in its health, ends its streams, lets calls finish within the drain time, and is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import uvloop
from crewlog.runtime import config, limits
from crewlog.runtime.auth import Access as Access
from crewlog.runtime.auth import Verifier as Verifier
from crewlog.runtime.guard import Guard
from crewlog.telemetry import traces
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

DRAIN_SECONDS = 2.0
ORPHAN_SECONDS_MAX = 5.0
GARBAGE_THRESHOLDS = (20_000, 20, 50)
"""Objects more than were freed, then collections of the younger generations; the interpreter has (700, 10, 10)."""

Main = Callable[[asyncio.Event], Awaitable[None]]

_OPTIONS: tuple[tuple[str, int], ...] = (
    *limits.SHARED_CHANNEL_OPTIONS,
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls without a word
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", limits.ANSWER_BYTES_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.PING_INTERVAL_SECONDS_MIN * 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.PING_INTERVAL_SECONDS_MIN * 1000),
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A service: its full name, the generated function that adds it, what serves it, and who may call it."""

    name: str
    add: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    access: Access


class RunningServer:
    """A server that answers. `stopping` is set first thing when it stops."""

    def __init__(
        self, server: grpc.aio.Server, guard: Guard, readiness: health.aio.HealthServicer, address: str, drain: float
    ) -> None:
        self._server = server
        self._guard = guard
        self._readiness = readiness
        self._drain_seconds = drain
        self.address = address
        self.stopping = guard.stopping

    async def set_ready(self, ready: bool) -> None:
        """What health says from now on."""
        states = health_pb2.HealthCheckResponse
        await self._readiness.set("", states.SERVING if ready else states.NOT_SERVING)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Returns when every call has ended, at the latest after the drain time. Doing it twice is doing it once."""
        await self._readiness.enter_graceful_shutdown()
        self._guard.end_streams()
        await self._server.stop(self._drain_seconds if drain_seconds is None else drain_seconds)


async def start_server(
    registrations: Sequence[Registration],
    *,
    address: str,
    verifier: Verifier,
    drain_seconds: float = DRAIN_SECONDS,
    ready: bool = True,
) -> RunningServer:
    """Serves at host:port (port 0: a free one) with health, for everybody, and reflection, for clients.

    Raises OSError when the port is taken.
    """
    access = {registration.name: registration.access for registration in registrations}
    guard = Guard(verifier, {**access, reflection.SERVICE_NAME: Access.CLIENT})
    server = grpc.aio.server(interceptors=[guard], options=_OPTIONS)
    for registration in registrations:
        registration.add(registration.servicer, server)
    readiness = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    reflection.enable_server_reflection((*access, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    running = RunningServer(server, guard, readiness, _bind(server, address), drain_seconds)
    await running.set_ready(ready)
    await server.start()
    return running


def _bind(server: grpc.aio.Server, address: str) -> str:
    host = address.rpartition(":")[0]
    try:
        return f"{host}:{server.add_insecure_port(address)}"
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: it is taken, or no address of this host") from error


def run(main: Main) -> int:
    """Runs `main` to its end and returns the exit status 0. What it raises is raised."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run_until_signalled(main))
        finally:
            traces.close()
    return 0


async def run_until_signalled(main: Main) -> None:
    """SIGTERM, SIGINT and the end of the launcher set the event that `main` is given."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    fd = config.parent_fd()
    if fd is not None:
        threading.Thread(target=_stop_with_parent, args=(fd, loop, stop), daemon=True).start()
    _look_for_garbage_less()
    await main(stop)


def _look_for_garbage_less() -> None:
    """Modules are never garbage, and states and messages, most of what comes and goes, hold no cycles: with the
    thresholds of the interpreter a busy service spends a good part of its time on looking through them in vain."""
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _stop_with_parent(fd: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """A thread, because it has to work even when the loop is stuck."""
    while os.read(fd, 1024):
        pass
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)
    time.sleep(ORPHAN_SECONDS_MAX)
    os._exit(1)
