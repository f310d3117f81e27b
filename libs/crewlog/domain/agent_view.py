"""What clients read of an agent: a view is made from the state, and from nothing else."""

from __future__ import annotations

from crewlog.domain.agent_state import Agent
from crewlog.v1.agent_pb2 import AgentView


def view(agent: Agent, agent_id: str, *, revision: int = 0) -> AgentView:
    started = agent.started
    return AgentView(
        agent_id=agent_id,
        run_id=started.run_id,
        task_id=started.task_id,
        role=started.node.role.name,
        model=started.model,
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
    )
