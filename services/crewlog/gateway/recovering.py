"""What a later generation would find if it took over the agents that are at work: read, and nothing is done."""

from __future__ import annotations

from crewlog.domain.agent import recovery as agent_recovery
from crewlog.domain.agent import state as agent_state
from crewlog.domain.agent import view as agent_view
from crewlog.domain.errors import TooLarge
from crewlog.domain.workflow.validation import NODES_MAX
from crewlog.gateway import schema
from crewlog.gateway.queries import Queries
from crewlog.v1.recovery_pb2 import AgentRecovery, Recovery

RECOVERY_AGENTS_MAX = NODES_MAX
_AT_WORK = """
select agent.agent_id from agent join run on run.run_id = agent.run_id
where not run.is_over and agent.revision <> agent.view_revision
"""


def recovery(queries: Queries, run_id: str) -> Recovery | None:
    """The agents that are not over, in the order of their start; of every run that is not over where none is named.

    None when there is no such run. Raises TooLarge where there are more than RECOVERY_AGENTS_MAX.
    """
    condition, values = (" and run.run_id = ?", [run_id]) if run_id else ("", [])
    query = f"{_AT_WORK}{condition} order by agent.started limit {RECOVERY_AGENTS_MAX + 1}"
    with queries.snapshot() as connection:
        if run_id and not queries.has_run(run_id):
            return None
        ids = [agent_id for (agent_id,) in connection.execute(query, values).fetchall()]
        if len(ids) > RECOVERY_AGENTS_MAX:
            raise TooLarge(f"there are more than {RECOVERY_AGENTS_MAX} agents", what_to_do="ask for those of one run")
        found = [_recovery_of(queries, agent_id) for agent_id in ids]
        revision = schema.number(connection, "revision")
    return Recovery(revision=revision, agents=[each for each in found if each is not None])


def _recovery_of(queries: Queries, agent_id: str) -> AgentRecovery | None:
    folded = queries.folded(("agent", agent_id))
    agent = folded.state
    if agent_state.is_over(agent):
        return None
    view = agent_view.view(agent, agent_id)
    return AgentRecovery(
        run_id=view.run_id,
        task_id=view.task_id,
        agent_id=agent_id,
        executor_id=view.executor_id,
        generation=view.generation,
        is_parked=view.is_parked,
        park_cause=view.park_cause,
        receipt=agent_recovery.receipt(agent),
    )
