"""RunService: runs are started by the scheduler; what is read comes from the projection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from crewlog.eventlog.port import Live
from crewlog.gateway import checks, control_checks, money_checks, pages, watch
from crewlog.gateway.control import Control, no_run
from crewlog.gateway.projection import Projection
from crewlog.gateway.projects import Projects
from crewlog.gateway.queries import EntryFilter, Queries, RunFilter
from crewlog.gateway.starting import Starting
from crewlog.gateway.watch import Delivered, LiveFeed
from crewlog.gateway.withdrawing import attempts_at
from crewlog.runtime.auth import current_principal
from crewlog.telemetry import traces
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.run_pb2 import GetRun, ListRuns, RunList, RunStatus, RunView, StartRun
from crewlog.v1.run_service_pb2 import Heartbeat, WatchRun, WatchRunMessage

FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Its service, which commands are forwarded to. `charged` completes the named budgets of a run in a project with
    those above them."""

    commands: Any
    charged: Callable[[str, Iterable[str]], Awaitable[list[str]]]


class RunServer(Control):
    def __init__(
        self, projection: Projection, projects: Projects, starting: Starting, scheduler: Scheduler, live: Live
    ) -> None:
        super().__init__(projection, scheduler.commands)
        self._projects = projects
        self._starting = starting
        self._scheduler = scheduler
        self._live = live

    async def Start(self, request: StartRun, context: Any) -> Receipt:
        checks.check_all(
            partial(checks.check_start, request),
            partial(money_checks.start_money, request),
            partial(control_checks.run_limits, request.limits),
        )
        path = await self._projects.path_of(request.project_id)
        budgets = await self._scheduler.charged(request.project_id, request.budgets)
        command = await self._starting.complete(
            request, path, principal=current_principal(), traceparent=traces.current_traceparent()
        )
        command.budgets[:] = budgets
        traces.link_current(traces.traceparent_of_run(request.run_id), "run")
        receipt: Receipt = await self._commands.Start(command)
        return receipt

    async def Get(self, request: GetRun, context: Any) -> RunView:
        checks.run_id("run_id", request.run_id)
        await self._projection.reached(request.at_least_revision)
        view = await self._projection.read(Queries.run, request.run_id)
        if view is None:
            raise no_run(request.run_id)
        return view

    async def List(self, request: ListRuns, context: Any) -> RunList:
        wanted = RunFilter(
            request.project_id,
            tuple(sorted(set(request.statuses))),
            request.parent_run_id,
            request.with_children,
        )
        _check_filter(wanted)
        before = pages.number(request.page_token, "runs", wanted)
        size = pages.size(request.page_size)
        await self._projection.reached(request.at_least_revision)
        rows = await self._projection.read(Queries.runs, wanted, before or FOREVER, size + 1)
        runs = [view for _, view in rows[:size]]
        count = pages.fitting(runs)
        token = pages.token(rows[count - 1][0], "runs", wanted) if len(rows) > count else ""
        return RunList(runs=runs[:count], next_page_token=token)

    async def Watch(self, request: WatchRun, context: Any) -> AsyncIterator[WatchRunMessage]:
        checks.run_id("run_id", request.run_id)
        await self._check_known(request)
        until = await self._projection.caught_up() if request.until_now else None
        async with AsyncExitStack() as stack:
            inbox = stack.enter_context(self._projection.watching(EntryFilter(run_id=request.run_id)))
            feed = None
            if request.with_live and not request.until_now:
                feed = LiveFeed(await self._projection.read(attempts_at, request.run_id, request.from_revision))
                await stack.enter_async_context(feed.listening(self._live, request.run_id, inbox.changed))
            async for delivered in watch.entries(self._projection, inbox, request.from_revision, until):
                for message in _messages(delivered, feed, with_stored=request.with_stored):
                    yield message

    async def _check_known(self, request: WatchRun) -> None:
        """A run that was just started is in the log, but perhaps not yet in the projection."""
        await watch.check_position(self._projection, request.from_revision)
        if not await self._projection.read(Queries.has_run, request.run_id):
            await self._projection.caught_up()
            if not await self._projection.read(Queries.has_run, request.run_id):
                raise no_run(request.run_id)


def _messages(delivered: Delivered, feed: LiveFeed | None, *, with_stored: bool) -> Iterator[WatchRunMessage]:
    """What is live waits until the stream has caught up: only then it is known which attempts are over."""
    for revision, payload in delivered.entries:
        entry = watch.recorded(revision, payload, with_stored=with_stored)
        for withdrawal in feed.withdrawals(entry.entry) if feed else ():
            yield WatchRunMessage(live=withdrawal)
        yield WatchRunMessage(entry=entry)
    for delta in feed.drain() if feed and delivered.is_all else ():
        yield WatchRunMessage(live=delta)
    if delivered.is_idle:
        yield WatchRunMessage(heartbeat=Heartbeat(revision=delivered.up_to))


def _check_filter(wanted: RunFilter) -> None:
    if wanted.project_id:
        checks.project_id("project_id", wanted.project_id)
    if wanted.parent_run_id:
        checks.run_id("parent_run_id", wanted.parent_run_id)
    for status in wanted.statuses:
        if status not in RunStatus.values() or not status:
            checks.refuse("statuses", status, "has to be a status of a run")
