"""The stream to the scheduler: says what is worked on, hears what to start, what to stop and what was said.

Level-triggered: each report says everything, so nothing has to be remembered about the ones before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import grpc
from crewlog.executor.control import Leave
from crewlog.executor.hosting import Hosting
from crewlog.v1.scheduler_pb2 import ExecutorReport, Grant, RunningTask, SchedulerOrder, Stop, StopKind

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

REPORT_SECONDS = 1.0
RECONNECT_SECONDS = 0.2
DRAIN_SECONDS = 10.0
"""In which agents are handed over when the executor is to end; what is under way longer than that is in doubt."""

Key = tuple[str, str]
logger = logging.getLogger(__name__)


_LEAVES = {StopKind.STOP_KIND_CANCEL: Leave.CANCEL, StopKind.STOP_KIND_PAUSE: Leave.PAUSE}


class Running:
    """A grant that is being worked on."""

    def __init__(self, host: Hosting, grant: Grant) -> None:
        self.host = host
        self.grant = grant
        self.task: asyncio.Task[None] | None = None


class Worker:
    """Works on up to `slots` grants at once, each with the host that `host_for` makes for it."""

    def __init__(
        self, executor_id: str, slots: int, labels: Sequence[str], host_for: Callable[[Grant], Hosting]
    ) -> None:
        self._executor_id = executor_id
        self._slots = slots
        self._labels = labels
        self._host_for = host_for
        self._running: dict[Key, Running] = {}
        self._last_grant = 0
        self._changed = asyncio.Event()
        self._is_draining = False

    async def run(self, scheduler: SchedulerServiceAsyncStub) -> None:
        """Keeps the stream open until it is cancelled."""
        while True:
            try:
                async for order in scheduler.Synchronize(self._reports()):
                    self._obey(order)
            except grpc.aio.AioRpcError as error:
                logger.info("the scheduler does not answer: %s", error.code().name)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def drain(self) -> None:
        """Takes nothing more, and hands over what it has: each agent lets go at its next recorded step."""
        self._is_draining = True
        self._changed.set()
        for running in self._running.values():
            running.host.ask_to_leave(Leave.HAND_OVER)
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)

    async def stop(self) -> None:
        """Drops everything: another executor goes on from what is recorded."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reports(self) -> AsyncIterator[ExecutorReport]:
        while True:
            self._changed.clear()
            yield self._report()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPORT_SECONDS)

    def _report(self) -> ExecutorReport:
        return ExecutorReport(
            executor_id=self._executor_id,
            slots=0 if self._is_draining else self._slots,
            labels=self._labels,
            last_grant=self._last_grant,
            running=[
                RunningTask(
                    run_id=running.grant.run_id,
                    task_id=running.grant.task_id,
                    generation=running.grant.generation,
                    progress_revision=running.host.progress_revision,
                    step_seconds_max=math.ceil(running.host.step_seconds),
                    messages=running.host.messages,
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
        for message in order.messages:
            running = self._running.get((message.run_id, message.task_id))
            if running is not None and running.grant.generation == message.generation:
                running.host.hear(message)

    def _start(self, grant: Grant) -> None:
        key = (grant.run_id, grant.task_id)
        known = self._running.get(key)
        if known is not None and known.grant.generation >= grant.generation:
            return
        if known is not None and known.task is not None:
            known.task.cancel()
        running = Running(self._host_for(grant), grant)
        self._running[key] = running
        if self._is_draining:
            running.host.ask_to_leave(Leave.HAND_OVER)
        running.task = asyncio.get_running_loop().create_task(self._perform(key, running))

    def _stop(self, stop: Stop) -> None:
        """One task, of one generation: its successor goes on."""
        running = self._running.get((stop.run_id, stop.task_id))
        if running is None or running.task is None or running.grant.generation != stop.generation:
            return
        leave = _LEAVES.get(stop.kind)
        if leave is not None:
            running.host.ask_to_leave(leave, stop.grace_seconds)
        else:
            running.task.cancel()

    async def _perform(self, key: Key, running: Running) -> None:
        try:
            await running.host.run()
        except Exception:
            # The claim lapses, because this executor does not report the task any more.
            logger.exception("agent %s stops here", running.grant.agent_id)
        finally:
            if self._running.get(key) is running:
                del self._running[key]
