"""`crewlog recover`: what another executor goes on with, agent by agent, and taking them from one that is stuck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crewlog.cli import receipts, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line, write_message
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.recovery_pb2 import AgentRecovery, RecoverRun, Recovery

NAME_CHARACTERS = 11


async def recover(gateway: Gateway, output: Output, run_id: str, *, dry_run: bool) -> int:
    if not run_id and not dry_run:
        raise InvalidCommand(
            "which run?", what_to_do="name one, or look at all of them first: crewlog recover --dry-run"
        )
    found = await gateway.runs.Recover(RecoverRun(run_id=run_id, dry_run=dry_run))
    if output is not Output.TABLE:
        write_message(found, output)
    else:
        write_line("\n".join(in_words(found.agents)))
    say(_what_was_done(found, run_id, dry_run))
    return 0


def in_words(agents: Sequence[AgentRecovery]) -> list[str]:
    """A heading for each agent, and what becomes of each part of its work."""
    if not agents:
        return ["no agent is at work"]
    return [line for agent in agents for line in _agent(agent)]


def _agent(agent: AgentRecovery) -> Iterator[str]:
    yield wording.plain(f"{agent.run_id}  {agent.task_id}  ({_where(agent)})")
    for name, value in receipts.facts(agent.receipt):
        yield f"  {name:<{NAME_CHARACTERS}}{value}"


def _where(agent: AgentRecovery) -> str:
    if agent.is_parked:
        return f"{wording.park_cause(agent.park_cause)}; after {wording.counted(agent.generation, 'claim')}"
    return f"on {agent.executor_id}, generation {agent.generation}"


def _what_was_done(found: Recovery, run_id: str, dry_run: bool) -> str:
    if dry_run:
        return f"nothing was done: this is what another executor would go on with at revision {found.revision}"
    if all(agent.is_parked for agent in found.agents):
        return f"nothing to do: no executor is at work on run {run_id}"
    return f"taken away from their executors at revision {found.revision}: others go on from the last recorded step"
