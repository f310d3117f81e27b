"""Ends agents that nobody hosts and nobody shall host any more: their run is stopped, their task was cancelled, or too
many executors have lost them.

The scheduler has claimed the task before. It takes the agent over in its log, which shuts out whoever may still work on
it and puts on the bill what that one had reserved, and ends it. What is spent is final then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from crewlog.domain import names
from crewlog.domain.agent import state as agent_state
from crewlog.domain.agent.state import Agent
from crewlog.domain.errors import Contention, Unavailable
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import CLAIMS_MAX, Run, Task
from crewlog.eventlog.owner import Clock, Meta, Owner
from crewlog.scheduler.ends import end_of_state
from crewlog.scheduler.entries import PRINCIPAL
from crewlog.v1.agent_pb2 import FinishAgent, HostAgent
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import TaskFailure, TaskResult

EXECUTOR_ID = "scheduler"
RETRY_SECONDS = 0.2

Wake = Callable[..., None]
logger = logging.getLogger(__name__)


class Closer:
    """`wake` is the reactor's."""

    def __init__(self, agents: Owner[Agent], clock: Clock) -> None:
        self._agents = agents
        self._clock = clock
        self._at_work: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.wake: Wake

    def close(self, run: Run, task: Task) -> None:
        """Ends the agent of a task that the scheduler has claimed for that, in the background."""
        key = (run.started.run_id, task.task_id)
        if key not in self._at_work:
            closing = asyncio.get_running_loop().create_task(self._close(run, task))
            self._at_work[key] = closing
            closing.add_done_callback(lambda _: self._at_work.pop(key, None))

    def stop(self) -> None:
        for closing in self._at_work.values():
            closing.cancel()

    async def _close(self, run: Run, task: Task) -> None:
        run_id, agent_id = run.started.run_id, names.agent_id(run.started.run_id, task.task_id)
        while True:
            try:
                agent = await self._end(run, task, agent_id)
                break
            except (Unavailable, Contention) as reason:
                logger.warning("agent %s is not closed yet: %s", agent_id, reason)
                await asyncio.sleep(RETRY_SECONDS)
        self._agents.forget(agent_id)
        self.wake(run_id, end_of_state(agent, run_id, task.task_id, self._clock()))

    async def _end(self, run: Run, task: Task, agent_id: str) -> Agent:
        at = self._clock()
        taken = await self._do(run, task, agent_id, _host(run, task, agent_id, at))
        if agent_state.is_over(taken):
            return taken
        finish = FinishAgent(agent_id=agent_id, generation=task.generation, at_unix_micros=at)
        if task.lapses >= CLAIMS_MAX:
            finish.failed.CopyFrom(TaskFailure(failure=claims_exhausted(), result=TaskResult()))
        else:
            finish.cancelled.CopyFrom(TaskResult())
        return await self._do(run, task, agent_id, finish)

    async def _do(self, run: Run, task: Task, agent_id: str, command: HostAgent | FinishAgent) -> Agent:
        """The name of the command makes it the same one after a restart."""
        meta = Meta(
            command_id=f"{agent_id}:{task.generation}:{type(command).__name__}",
            principal=PRINCIPAL,
            correlation_id=run.started.run_id,
            generation=task.generation,
        )
        return (await self._agents.handle(agent_id, command, meta)).state


def claims_exhausted() -> Failure:
    return Failure(
        reason="claims_exhausted",
        message=f"{CLAIMS_MAX} executors in a row have lost the task",
        what_to_do="look at the executors' logs, then take the run up again with `crewlog retry`",
    )


def _host(run: Run, task: Task, agent_id: str, at: int) -> HostAgent:
    """Also where the agent has never begun: whoever was told to begin it finds it ended."""
    node = run_state.node_of(run, task)
    return HostAgent(
        agent_id=agent_id,
        run_id=run.started.run_id,
        task_id=task.task_id,
        generation=task.generation,
        executor_id=EXECUTOR_ID,
        node=node.agent if node.HasField("agent") else None,
        command=node.command if node.HasField("command") else None,
        model=node.agent.role.model or run.started.model,
        at_unix_micros=at,
    )
