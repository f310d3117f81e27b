"""What clients read of an agent: a view is made from the state, and from nothing else."""

from __future__ import annotations

from crewlog.domain.agent.state import Agent, is_over
from crewlog.v1.agent_pb2 import AgentParked, AgentView
from crewlog.v1.run_pb2 import ParkCause


def view(agent: Agent, agent_id: str, *, revision: int = 0) -> AgentView:
    started = agent.started
    parked = None if is_over(agent) else agent.parked
    return AgentView(
        agent_id=agent_id,
        run_id=started.run_id,
        task_id=started.task_id,
        role=started.node.role.name,
        model=started.model if started.HasField("node") else "",
        status=agent.status,
        generation=agent.generation,
        executor_id=agent.executor_id,
        turn=len(agent.turns),
        tool_calls=agent.tool_calls,
        usage=agent.usage,
        spent_usd_micros=agent.spent.usd_micros,
        reserved_usd_micros=agent.reserved.usd_micros,
        allotment=agent.allotment.limit(),
        snapshot=agent.snapshot,
        started_at_unix_micros=started.at_unix_micros,
        ended_at_unix_micros=agent.ended_at_unix_micros,
        revision=revision,
        is_parked=parked is not None,
        park_cause=_park_cause(parked),
        resumes=agent.resumes,
        in_doubt=agent.in_doubt,
        last_receipt=agent.last_receipt,
    )


def _park_cause(parked: AgentParked | None) -> ParkCause.ValueType:
    if parked is None:
        return ParkCause.PARK_CAUSE_UNSPECIFIED
    return parked.cause or ParkCause.PARK_CAUSE_BUDGET
