"""What the log says about a run, folded here by the rules themselves: the state after any entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from crewlog.domain import change, names, workspace
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent import view as agent_view
from crewlog.domain.agent.state import Agent
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run import state as run_state
from crewlog.domain.run import view as run_view
from crewlog.domain.run.state import Run
from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import AgentView, ToolCallFailed, ToolCallSucceeded
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import MessageSent, RunView
from crewlog.v1.workspace_pb2 import ChangeCommitted, Snapshot, WorkspacePrepared
from immutables import Map

_RULES: dict[str, Any] = {"run": run_rules, "agent": agent_rules, "workspace": workspace, "change": change}


@dataclass(frozen=True, slots=True)
class Files:
    """Files as they were recorded last, and by whom."""

    tree: str
    recorded_by: str
    revision: int


@dataclass(frozen=True, slots=True)
class Past:
    """The states of everything that belongs to a run, with the revision of the last entry of each."""

    states: Map[tuple[str, str], Any] = field(default_factory=Map)
    revisions: Map[tuple[str, str], int] = field(default_factory=Map)
    files: Files | None = None
    revision: int = 0

    @property
    def run(self) -> Run:
        found = [state for (kind, _), state in self.states.items() if kind == "run"]
        return found[0] if found else run_state.INITIAL


def fold(past: Past, recorded: RecordedEntry) -> Past:
    """Raises UnknownEvent rather than guess."""
    aggregate = recorded.entry.aggregate
    key = (aggregate.kind, aggregate.id)
    rules = _RULES.get(aggregate.kind)
    files = past.files
    state = past.states.get(key, rules.INITIAL if rules else None)
    for fact in codec.facts(recorded.entry):
        state = rules.evolve(state, fact) if rules else state
        tree = _tree_of(fact)
        files = Files(tree, aggregate.id, recorded.revision) if tree else files
    return replace(
        past,
        states=past.states.set(key, state),
        revisions=past.revisions.set(key, recorded.revision),
        files=files,
        revision=recorded.revision,
    )


def fold_all(entries: Iterable[RecordedEntry], up_to: int | None = None) -> Past:
    """The state after the last entry, or after the last one up to a revision."""
    past = Past()
    for recorded in entries:
        if up_to is not None and recorded.revision > up_to:
            break
        past = fold(past, recorded)
    return past


def view_of_run(past: Past, trace_id: str = "") -> RunView:
    """What a client would have read at that moment."""
    revision = past.revisions.get(("run", past.run.started.run_id), 0)
    return run_view.view(past.run, revision=revision, trace_id=trace_id)


def views_of_agents(past: Past) -> list[AgentView]:
    """In the order of their start."""
    agents: list[tuple[str, Agent]] = [(id, state) for (kind, id), state in past.states.items() if kind == "agent"]
    views = [agent_view.view(state, id, revision=past.revisions["agent", id]) for id, state in agents]
    return sorted(views, key=lambda view: (view.started_at_unix_micros, view.agent_id))


def messages(past: Past) -> Iterator[tuple[MessageSent, bool]]:
    """What was said to the agents, by task, each with whether its agent has read it."""
    run_id = past.run.started.run_id
    for task_id, sent in past.run.messages.items():
        agent: Agent = past.states.get(("agent", names.agent_id(run_id, task_id)), agent_rules.INITIAL)
        yield from ((message, message.number in agent.read) for message in sent)


def task_of(files: Files) -> str:
    return files.recorded_by.removeprefix(names.run_of(files.recorded_by)).removeprefix("_")


def _tree_of(fact: object) -> str:
    match fact:
        case ToolCallSucceeded(output=output):
            return _tree(output.snapshot)
        case ToolCallFailed(failure=failure):
            return _tree(failure.snapshot)
        case WorkspacePrepared(snapshot=snapshot):
            return _tree(snapshot)
        case ChangeCommitted(tree=tree):
            return tree
        case _:
            return ""


def _tree(snapshot: Snapshot) -> str:
    return snapshot.tree
