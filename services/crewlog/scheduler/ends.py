"""What the log of an agent says about its task: that it has ended, that it waits, or how far it has come."""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.domain import names
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import Agent
from crewlog.domain.decider import fold
from crewlog.eventlog import codec
from crewlog.eventlog.owner import Clock
from crewlog.eventlog.port import AggregateId, EventLog
from crewlog.v1.agent_pb2 import AgentCancelled, AgentFailed, AgentParked, AgentStatus, AgentSucceeded
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import EndTask, ParkTask, TaskFailure, TaskResult

LATE = "late_outcome_recorded"


class Ends:
    """Reads the agents of one tenant."""

    def __init__(self, log: EventLog, tenant: str, clock: Clock) -> None:
        self._log = log
        self._tenant = tenant
        self._clock = clock

    async def of(
        self, run_id: str, task_id: str, generation: int
    ) -> tuple[EndTask | ParkTask | None, TaskResult | None]:
        """What the agent of the task ended with, if it did; else what it has come to so far."""
        entries = [Entry.FromString(stored.payload) for stored in await self._log.read(self._agent(run_id, task_id))]
        if not entries:
            return None, None
        end = end_under(_last_word(entries), generation, self._clock())
        if end is not None:
            return end, None
        state: Agent = fold(agent_rules, (fact for entry in entries for fact in codec.facts(entry)))
        return None, agent_rules.result_so_far(state, self._clock())

    async def at_a_glance(self, run_id: str, task_id: str, generation: int) -> EndTask | ParkTask | None:
        """What the agent of the task ended with, if it did: one entry says so, nearly always."""
        last = await self._log.last(self._agent(run_id, task_id))
        if last is None:
            return None
        entry = Entry.FromString(last.payload)
        if _is_late(entry):
            return (await self.of(run_id, task_id, generation))[0]
        return end_under(entry, generation, self._clock())

    def _agent(self, run_id: str, task_id: str) -> AggregateId:
        return AggregateId(self._tenant, "agent", names.agent_id(run_id, task_id))


def _last_word(entries: Sequence[Entry]) -> Entry:
    """What an older generation has appended as evidence decides nothing."""
    return next((entry for entry in reversed(entries) if not _is_late(entry)), entries[-1])


def _is_late(entry: Entry) -> bool:
    return entry.decisions[-1].events[-1].WhichOneof("fact") == LATE


def end_under(entry: Entry, generation: int, at: int) -> EndTask | ParkTask | None:
    """As `end_of`, for a claim of this generation: that an older one has parked the agent does not end it."""
    end = end_of(entry, at)
    return None if isinstance(end, ParkTask) and end.generation < generation else end


def end_of(entry: Entry, at: int) -> EndTask | ParkTask | None:
    """The command that an agent's last entry leads to, when no executor works on it after that.

    `at` is the scheduler's time: what is due in the run goes by one clock, not by those of the executors.
    """
    last = codec.unpack(entry.decisions[-1].events[-1])
    run_id, _, task_id = entry.aggregate.id.partition("_")
    end = EndTask(run_id=run_id, task_id=task_id, at_unix_micros=at)
    match last:
        case AgentParked():
            return ParkTask(
                run_id=run_id,
                task_id=task_id,
                generation=entry.generation,
                budget_id=last.budget_id,
                wanted=last.wanted,
                so_far=last.so_far,
                at_unix_micros=at,
                cause=last.cause,
                question=last.question if last.HasField("question") else None,
                failure=last.failure if last.HasField("failure") else None,
                not_before_unix_micros=last.not_before_unix_micros,
            )
        case AgentSucceeded():
            end.succeeded.CopyFrom(last.result)
        case AgentFailed():
            end.failed.CopyFrom(TaskFailure(failure=last.failure, result=last.result))
        case AgentCancelled():
            end.cancelled.CopyFrom(last.result)
        case _:
            return None
    return end


def end_of_state(agent: Agent, run_id: str, task_id: str, at: int) -> EndTask:
    """What the run has to record for an agent that is over."""
    end = EndTask(run_id=run_id, task_id=task_id, at_unix_micros=at)
    match agent.status:
        case AgentStatus.AGENT_STATUS_SUCCEEDED:
            end.succeeded.CopyFrom(agent.result or TaskResult())
        case AgentStatus.AGENT_STATUS_FAILED:
            end.failed.CopyFrom(TaskFailure(failure=agent.failure, result=agent.result))
        case _:
            end.cancelled.CopyFrom(agent.result or TaskResult())
    return end
