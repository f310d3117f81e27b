"""The stream to the scheduler: says what is worked on, hears what to start and what to stop.

Level-triggered: each report says everything, so nothing has to be remembered about the ones before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import grpc
from crewlog.executor.desk import Desk
from crewlog.executor.host import Host, Shared
from crewlog.v1.scheduler_pb2 import ExecutorReport, Grant, RunningTask, SchedulerOrder, Stop

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

REPORT_SECONDS = 1.0
RECONNECT_SECONDS = 0.2

Key = tuple[str, str]
logger = logging.getLogger(__name__)


class Running:
    """A grant that is being worked on."""

    def __init__(self, host: Host, grant: Grant) -> None:
        self.host = host
        self.grant = grant
        self.task: asyncio.Task[None] | None = None
        self.stopping = False


class Worker:
    def __init__(self, shared: Shared, slots: int, desk_for: Callable[[Grant], Desk]) -> None:
        self._shared = shared
        self._slots = slots
        self._desk_for = desk_for
        self._running: dict[Key, Running] = {}
        self._last_grant = 0

    async def run(self, scheduler: SchedulerServiceAsyncStub) -> None:
        """Keeps the stream open until it is cancelled."""
        while True:
            try:
                async for order in scheduler.Synchronize(self._reports()):
                    self._obey(order)
            except grpc.aio.AioRpcError as error:
                logger.info("the scheduler does not answer: %s", error.code().name)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def stop(self) -> None:
        """Drops everything: another executor goes on from what is recorded."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reports(self) -> AsyncIterator[ExecutorReport]:
        while True:
            yield self._report()
            await asyncio.sleep(REPORT_SECONDS)

    def _report(self) -> ExecutorReport:
        return ExecutorReport(
            executor_id=self._shared.executor_id,
            slots=self._slots,
            last_grant=self._last_grant,
            running=[
                RunningTask(
                    run_id=running.grant.run_id,
                    task_id=running.grant.task_id,
                    generation=running.grant.generation,
                    progress_revision=running.host.progress_revision,
                )
                for running in self._running.values()
            ],
        )

    def _obey(self, order: SchedulerOrder) -> None:
        for grant in order.grants:
            self._last_grant = max(self._last_grant, grant.revision)
            self._start(grant)
        for stop in order.stops:
            self._stop(stop)
        for changed in order.allotments:
            running = self._running.get((changed.run_id, changed.task_id))
            if running is not None:
                running.host.change_allotment(changed)

    def _start(self, grant: Grant) -> None:
        key = (grant.run_id, grant.task_id)
        known = self._running.get(key)
        if known is not None and known.grant.generation >= grant.generation:
            return
        if known is not None and known.task is not None:
            known.task.cancel()
        running = Running(Host(self._shared, self._desk_for(grant), grant), grant)
        self._running[key] = running
        running.task = asyncio.get_running_loop().create_task(self._perform(key, running))

    def _stop(self, stop: Stop) -> None:
        """One task, of one generation: its successor goes on."""
        running = self._running.get((stop.run_id, stop.task_id))
        if running is None or running.task is None or running.stopping:
            return
        if running.grant.generation == stop.generation:
            running.stopping = True
            running.task.cancel()

    async def _perform(self, key: Key, running: Running) -> None:
        try:
            await self._run(running)
        except Exception:
            # The claim lapses, because this executor does not report the task any more.
            logger.exception("agent %s stops here", running.grant.agent_id)
        finally:
            if self._running.get(key) is running:
                del self._running[key]

    async def _run(self, running: Running) -> None:
        try:
            await running.host.run()
        except asyncio.CancelledError:
            if not running.stopping:
                raise
            await running.host.cancel()
