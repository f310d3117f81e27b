"""How a task ends: with its files committed and named, whatever has become of it."""

from __future__ import annotations

from dataclasses import dataclass

from crewlog.domain.agent.ends import output_of
from crewlog.domain.agent.state import is_noop
from crewlog.domain.agent.steps import SUMMARY_CHARACTERS_MAX
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.executor import paying
from crewlog.executor.desk import Desk
from crewlog.executor.session import Session
from crewlog.v1.agent_pb2 import FinishAgent
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import TaskFailure, TaskResult


@dataclass(frozen=True, slots=True)
class Ending:
    session: Session
    desk: Desk
    blobs: BlobStore

    async def succeed(self, output: str) -> None:
        """While the commit is made somebody may have said something: then the agent goes on."""
        result = TaskResult() if is_noop(self.session.agent) else await self._result(output)
        if not self.session.agent.inbox:
            self.session.do(FinishAgent(succeeded=result))

    async def fail(self, failure: Failure) -> None:
        result = await self._result(output_of(self.session.agent))
        self.session.do(FinishAgent(failed=TaskFailure(failure=failure, result=result)))

    def fail_at_once(self, failure: Failure) -> None:
        """Without a commit, because that is what may have failed."""
        self.session.do(FinishAgent(failed=TaskFailure(failure=failure, result=TaskResult())))

    async def cancel(self) -> None:
        self.session.do(FinishAgent(cancelled=await self._result(output_of(self.session.agent))))

    async def without_money(self, budget_id: str) -> None:
        """Ends the agent with what is done, because this budget has no more."""
        await self.fail(paying.failure(self.session.agent, budget_id))

    async def _result(self, output: str) -> TaskResult:
        commit, snapshot = await self.desk.commit(self.session.agent, self.session.revision)
        return TaskResult(
            output=await bodies.store(self.blobs, output.encode(errors="replace")),
            summary=output.strip()[:SUMMARY_CHARACTERS_MAX],
            commit=commit,
            snapshot=snapshot,
        )
