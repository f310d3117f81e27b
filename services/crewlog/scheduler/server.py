"""What the scheduler answers: commands on runs, and one stream for each executor."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.domain.names import is_aggregate_id
from crewlog.domain.run import children as run_children
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Clock, Meta, Owner
from crewlog.runtime.auth import current_principal
from crewlog.scheduler.claims import Claims
from crewlog.scheduler.fleet import Executor
from crewlog.scheduler.money_server import RunMoney
from crewlog.scheduler.reactor import Reactor
from crewlog.scheduler.waiting import Explainer
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.recovery_pb2 import RecoverRun
from crewlog.v1.run_pb2 import (
    CancelRun,
    CancelTask,
    PauseRun,
    ResumeRun,
    RetryRun,
    SendMessage,
    SignalRun,
    SpawnChild,
    StartRun,
)
from crewlog.v1.scheduler_pb2 import ExecutorReport, GrantedAllotment, RequestAllotment, SchedulerOrder, SpawnedChild
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting

SLOTS_MAX = 10_000

Control = CancelRun | CancelTask | PauseRun | ResumeRun | RetryRun | SendMessage | SignalRun


class SchedulerServer(SchedulerServiceServicer):
    def __init__(
        self,
        owner: Owner[Run],
        reactor: Reactor,
        claims: Claims,
        money: RunMoney,
        explainer: Explainer,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._claims = claims
        self._money = money
        self._explainer = explainer
        self._clock = clock

    async def Start(self, request: StartRun, context: object) -> Receipt:
        _check_run_id(request.run_id)
        request.at_unix_micros = request.at_unix_micros or self._clock()
        outcome = await self._owner.handle(request.run_id, request, self._meta(request.run_id, request.requested_by))
        if outcome.events:
            self._reactor.changed(request.run_id, outcome)
            self._reactor.opened(request.run_id)
        return Receipt(revision=outcome.revision)

    async def Cancel(self, request: CancelRun, context: object) -> Receipt:
        return await self._handle(request, request.by)

    async def CancelTask(self, request: CancelTask, context: object) -> Receipt:
        return await self._handle(request, request.by)

    async def Pause(self, request: PauseRun, context: object) -> Receipt:
        return await self._handle(request, request.by)

    async def Resume(self, request: ResumeRun, context: object) -> Receipt:
        return await self._handle(request, request.by)

    async def Retry(self, request: RetryRun, context: object) -> Receipt:
        receipt = await self._handle(request, request.requested_by)
        self._reactor.opened(request.run_id)
        return receipt

    async def Send(self, request: SendMessage, context: object) -> Receipt:
        return await self._handle(request, request.sent_by)

    async def Signal(self, request: SignalRun, context: object) -> Receipt:
        return await self._handle(request, request.by)

    async def Spawn(self, request: SpawnChild, context: object) -> SpawnedChild:
        _check_run_id(request.run_id)
        request.at_unix_micros = self._clock()
        meta = self._meta(request.run_id, f"{request.run_id}_{request.task_id}")
        outcome = await self._owner.handle(request.run_id, request, meta)
        self._reactor.changed(request.run_id, outcome)
        spawned = run_children.spawned_by(outcome.state, request)
        if spawned is None:
            raise NotFound("the child is not there any more")
        return SpawnedChild(task_id=f"{spawned.node_id}-1", revision=outcome.revision)

    async def Recover(self, request: RecoverRun, context: object) -> Receipt:
        _check_run_id(request.run_id)
        run, revision = await self._owner.state(request.run_id)
        if not revision:
            raise NotFound(f"there is no run {request.run_id!r}", what_to_do="see `crewlog runs`")
        await self._claims.recover(run)
        return Receipt(revision=revision)

    async def Explain(self, request: ExplainWaiting, context: object) -> Waiting:
        if request.run_id:
            _check_run_id(request.run_id)
        return await self._explainer.explain(request)

    async def Grow(self, request: RequestAllotment, context: object) -> GrantedAllotment:
        return await self._money.grow(request)

    async def Synchronize(
        self, request_iterator: AsyncIterator[ExecutorReport], context: Any
    ) -> AsyncIterator[SchedulerOrder]:
        """Ends when the executor's side does, or opens another one: what is told here is not heard any more then."""
        executor: Executor | None = None
        reports = aiter(request_iterator)
        try:
            first = await anext(reports)
            executor = self._connect(first)
            stream = executor.streams
            reader = asyncio.get_running_loop().create_task(self._read(executor, stream, reports))
            reader.add_done_callback(lambda _: executor.wanted.set())
            try:
                while not reader.done():
                    await executor.wanted.wait()
                    if executor.streams != stream:
                        return
                    if (order := executor.order()).ByteSize():
                        yield order
            finally:
                reader.cancel()
        except StopAsyncIteration:
            return
        finally:
            if executor is not None:
                self._claims.disconnected(executor)

    async def _handle(self, request: Control, by: str) -> Receipt:
        _check_run_id(request.run_id)
        request.at_unix_micros = self._clock()
        outcome = await self._owner.handle(request.run_id, request, self._meta(request.run_id, by))
        self._reactor.changed(request.run_id, outcome)
        return Receipt(revision=outcome.revision)

    def _connect(self, first: ExecutorReport) -> Executor:
        if not is_aggregate_id(first.executor_id) or not 0 <= first.slots <= SLOTS_MAX:
            raise InvalidCommand(f"executor_id has to be a name, and slots 0 to {SLOTS_MAX}")
        executor = self._claims.connected(first.executor_id)
        self._claims.reported(executor, first)
        return executor

    async def _read(self, executor: Executor, stream: int, reports: AsyncIterator[ExecutorReport]) -> None:
        async for report in reports:
            if executor.streams != stream:
                return
            self._claims.reported(executor, report)

    def _meta(self, run_id: str, on_behalf_of: str) -> Meta:
        return Meta(secrets.token_hex(8), current_principal(), correlation_id=run_id, on_behalf_of=on_behalf_of)


def _check_run_id(run_id: str) -> None:
    if not is_aggregate_id(run_id):
        raise InvalidCommand("run_id is missing or has other characters than a-z, 0-9 and '-'")
