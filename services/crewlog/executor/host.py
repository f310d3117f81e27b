"""Performs one task: asks the rules for the next step, makes it durable, performs it, records what came of it.

A host keeps nothing that matters: killed at any point, another one folds the same events and does the next thing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crewlog.domain.agent_state import Agent, is_noop, is_over
from crewlog.domain.agent_steps import (
    SUMMARY_CHARACTERS_MAX,
    CallModel,
    Fail,
    RunTools,
    Step,
    Succeed,
    next_step,
    output_of,
)
from crewlog.domain.errors import Refused, StaleClaim
from crewlog.eventlog import bodies
from crewlog.eventlog.owner import Clock, Owner
from crewlog.eventlog.port import BlobStore
from crewlog.executor import model_calls, paying, spans, tool_calls
from crewlog.executor.desk import Desk
from crewlog.executor.model_turn import ModelTurn
from crewlog.executor.session import Session
from crewlog.models.prices import PriceList
from crewlog.tools.registry import TOOLS
from crewlog.v1.agent_pb2 import FinishAgent, FinishToolCall, HostAgent, RaiseAllotment, ToolSpec
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import TaskFailure, TaskResult
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Grant

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What hosts share: the log of the agents they own, the blobs, the time, and where tasks get their desk."""

    owner: Owner[Agent]
    blobs: BlobStore
    clock: Clock
    executor_id: str
    scheduler: SchedulerServiceAsyncStub
    price_list: PriceList


class Host:
    """Performs one grant. `run` ends when the agent has ended, or another executor has the task."""

    def __init__(self, shared: Shared, desk: Desk, grant: Grant) -> None:
        self._shared = shared
        self._desk = desk
        self._grant = grant
        self._session = Session(shared.owner, grant, f"service:executor:{shared.executor_id}")
        self._payer = paying.payer(grant, self._session, desk, shared.scheduler, shared.price_list)
        self._model_turn = ModelTurn(
            grant,
            self._session,
            desk,
            self._payer,
            model_calls.Conversation(shared.blobs),
            shared.blobs,
            shared.clock,
            shared.price_list,
            self._stop_here,
        )

    @property
    def progress_revision(self) -> int:
        return self._session.revision

    async def run(self) -> None:
        try:
            with spans.within_agent(self._grant):
                await self._run()
        except StaleClaim as reason:
            logger.info("agent %s was taken over: %s", self._grant.agent_id, reason)
        finally:
            self._session.forget()

    def change_allotment(self, changed: ChangedAllotment) -> None:
        """The run has less for the task than before, or more: the next call has to fit into that."""
        if self._session.agent.generation == changed.generation and not is_over(self._session.agent):
            self._session.do(
                RaiseAllotment(
                    agent_id=self._grant.agent_id,
                    generation=changed.generation,
                    allotment=changed.allotment,
                    run_revision=changed.run_revision,
                    at_unix_micros=self._shared.clock(),
                )
            )

    async def cancel(self) -> None:
        """Records that the work was stopped, with the files as they are. Call it once `run` has ended."""
        await self._session.open()
        if is_over(self._session.agent) or self._session.agent.generation != self._grant.generation:
            return
        result = await self._result(output_of(self._session.agent))
        self._finish(FinishAgent(cancelled=result))
        await self._session.flush()
        self._session.forget()

    async def _run(self) -> None:
        await self._session.open()
        prompt = await bodies.store(self._shared.blobs, self._grant.prompt.encode(errors="replace"))
        self._session.do(host_command(self._grant, prompt, self._shared.executor_id, self._shared.clock()))
        if not is_noop(self._session.agent) and not is_over(self._session.agent):
            await self._session.flush()
            await self._refusable(self._desk.set_up(self._session.agent.snapshot))
            if self._grant.has_to_stop:
                await self._refusable(self._stop_here(self._payer.own_budget))
        while not is_over(self._session.agent) and not self._session.agent.is_parked:
            await self._refusable(self._take(next_step(self._session.agent, self._shared.clock())))
        await self._session.flush()
        if is_over(self._session.agent):
            spans.agent(self._grant, self._session.agent)

    async def _refusable(self, work: Awaitable[None]) -> None:
        """What the git service, the gateway or the price list refuses ends the agent, with the reason."""
        try:
            await work
        except StaleClaim:
            raise
        except Refused as refusal:
            self._fail(Failure(reason="refused", message=refusal.message, what_to_do=refusal.what_to_do), "")
        except Exception as bug:
            logger.exception("agent %s cannot go on", self._grant.agent_id)
            message = f"the executor failed: {type(bug).__name__}"
            self._fail(Failure(reason="internal_error", message=message, what_to_do="look at the executor's log"), "")

    async def _take(self, step: Step) -> None:
        match step:
            case RunTools(calls=calls):
                await self._run_tools(calls)
            case CallModel():
                await self._model_turn.take(step)
            case Succeed(output=output):
                result = TaskResult() if is_noop(self._session.agent) else await self._result(output)
                self._finish(FinishAgent(succeeded=result))
            case Fail(failure=failure, output=output):
                self._finish(FinishAgent(failed=TaskFailure(failure=failure, result=await self._result(output))))

    async def _stop_here(self, budget_id: str) -> None:
        agent = self._session.agent
        result = await self._result(output_of(agent))
        self._finish(FinishAgent(failed=TaskFailure(failure=paying.failure(agent, budget_id), result=result)))

    async def _run_tools(self, calls: Sequence[tool_calls.Call]) -> None:
        """The intents stand in the log before anything runs; every group's outcomes do before the next one."""
        if not is_noop(self._session.agent):
            await self._session.flush()
        for group in tool_calls.groups(calls):
            await self._session.flush()
            finished_calls = await asyncio.gather(*(self._run_tool(call) for call in group))
            for call, finished in zip(group, finished_calls, strict=True):
                finished.agent_id, finished.generation = self._grant.agent_id, self._grant.generation
                finished.at_unix_micros = self._shared.clock()
                self._session.do(finished)
                spans.tool_call(self._grant, call, finished)

    async def _run_tool(self, call: tool_calls.Call) -> FinishToolCall:
        if is_noop(self._session.agent):
            return tool_calls.noop(*call)
        with spans.within_effect(self._grant, tool_calls.key_of(*call)):
            return await self._desk.tools().perform(*call)

    async def _result(self, output: str) -> TaskResult:
        commit, snapshot = await self._desk.commit(self._session.agent, self._session.revision)
        return TaskResult(
            output=await bodies.store(self._shared.blobs, output.encode(errors="replace")),
            summary=output.strip()[:SUMMARY_CHARACTERS_MAX],
            commit=commit,
            snapshot=snapshot,
        )

    def _fail(self, failure: Failure, output: str) -> None:
        result = TaskResult(output=Body(inline=output.encode()))
        self._finish(FinishAgent(failed=TaskFailure(failure=failure, result=result)))

    def _finish(self, command: FinishAgent) -> None:
        command.agent_id, command.generation = self._grant.agent_id, self._grant.generation
        command.at_unix_micros = self._shared.clock()
        self._session.do(command)


def host_command(grant: Grant, prompt: Body, executor_id: str, at: int) -> HostAgent:
    """Takes the task that was granted, for the first time or over from another executor."""
    node, role = grant.node, grant.node.agent.role
    return HostAgent(
        agent_id=grant.agent_id,
        run_id=grant.run_id,
        task_id=grant.task_id,
        generation=grant.generation,
        executor_id=executor_id,
        node=node.agent if node.HasField("agent") else None,
        noop=node.noop if node.HasField("noop") else None,
        model=grant.model,
        prompt=prompt,
        tools=[ToolSpec(name=name, effect_class=TOOLS[name].effect_class) for name in role.tools if name in TOOLS],
        limits=role.limits,
        allotment=grant.allotment,
        at_unix_micros=at,
    )
