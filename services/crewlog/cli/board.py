"""What a run looks like while it goes on: one row per task. A pure fold of entries, with the live deltas beside it.

Deltas are hints: one that comes late, twice or after a gap changes what is shown and nothing else, and the recorded
outcome replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from crewlog.cli import effects, wording
from crewlog.domain import names, run_events, run_state, run_view
from crewlog.eventlog import codec
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import RunView, TaskStatus, TaskView
from crewlog.v1.run_service_pb2 import LiveDelta
from google.protobuf.message import Message
from immutables import Map

MODEL = -1
TAIL_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Progress:
    """What an agent is at. `calls` are the tool calls that are open; `asking` is true while the model answers."""

    role: str = ""
    turn: int = 0
    asking: bool = False
    calls: Map[int, str] = field(default_factory=Map)
    tail: str = ""
    tail_of: int = MODEL
    tail_end: int = 0
    tokens: int = 0
    cost_usd_micros: int = 0


@dataclass(frozen=True, slots=True)
class Board:
    run: run_state.Run = run_state.INITIAL
    agents: Map[str, Progress] = field(default_factory=Map)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    task_id: str
    role: str
    status: TaskStatus.ValueType
    turn: int
    doing: str
    tokens: int
    cost_usd_micros: int
    started_at_unix_micros: int
    ended_at_unix_micros: int


def fold(board: Board, recorded: RecordedEntry) -> Board:
    """The board after an entry. What this release does not know is left out: a board decides nothing."""
    aggregate = recorded.entry.aggregate
    for fact in codec.known_facts([recorded.entry]):
        if aggregate.kind == "run":
            board = replace(board, run=run_events.evolve(board.run, cast(run_events.Event, fact)))
        elif aggregate.kind == "agent":
            board = _advance(board, aggregate.id, fact)
    return replace(board, revision=recorded.revision)


def stream(board: Board, delta: LiveDelta) -> Board:
    """The board with a piece of output that is being made."""
    progress = board.agents.get(delta.agent_id)
    if progress is None or not _is_awaited(progress, delta):
        return board
    follows = (progress.tail_of, progress.tail_end) == (delta.index, delta.offset)
    before = progress.tail if follows else "…" if delta.offset else ""
    tail = (before + delta.text)[-TAIL_CHARACTERS_MAX:]
    end = delta.offset + len(delta.text)
    grown = replace(progress, tail=tail, tail_of=delta.index, tail_end=end)
    return replace(board, agents=board.agents.set(delta.agent_id, grown))


def view(board: Board) -> RunView:
    return run_view.view(board.run, revision=board.revision)


def is_over(board: Board) -> bool:
    return run_state.is_over(board.run)


def rows(board: Board) -> list[Row]:
    """A row per task, those to come included."""
    return [_row(board, task) for task in view(board).tasks]


def spent_usd_micros(board: Board) -> int:
    """Settled money, with that of calls whose task still runs."""
    open_agents = (names.agent_id(board.run.started.run_id, task_id) for task_id in board.run.open)
    running = sum(board.agents[agent_id].cost_usd_micros for agent_id in open_agents if agent_id in board.agents)
    return board.run.spent.usd_micros + running


def _row(board: Board, task: TaskView) -> Row:
    progress = board.agents.get(task.agent_id, Progress())
    claimed = task.status == TaskStatus.TASK_STATUS_CLAIMED
    return Row(
        task_id=task.task_id,
        role=task.role or progress.role,
        status=task.status,
        turn=progress.turn or task.result.turns,
        doing=_doing(progress) if claimed else _ended(task),
        tokens=progress.tokens or wording.tokens(task.result.usage),
        cost_usd_micros=progress.cost_usd_micros or task.result.cost_usd_micros,
        started_at_unix_micros=task.started_at_unix_micros,
        ended_at_unix_micros=task.ended_at_unix_micros,
    )


def _doing(progress: Progress) -> str:
    if progress.asking:
        return progress.tail or "waits for the model"
    calls = ", ".join(progress.calls.values())
    return f"{calls} … {progress.tail}" if progress.tail and calls else calls


def _ended(task: TaskView) -> str:
    return task.failure.message or task.result.summary


def _is_awaited(progress: Progress, delta: LiveDelta) -> bool:
    if delta.turn != progress.turn:
        return False
    return progress.asking if delta.index == MODEL else delta.index in progress.calls


def _advance(board: Board, agent_id: str, fact: Message) -> Board:
    step = _STEPS.get(type(fact))
    if step is None:
        return board
    return replace(board, agents=board.agents.set(agent_id, step(board.agents.get(agent_id, Progress()), fact)))


def _started(progress: Progress, fact: agent.AgentStarted) -> Progress:
    return replace(progress, role=fact.node.role.name)


def _taken_over(progress: Progress, _: agent.AgentTakenOver) -> Progress:
    return replace(progress, asking=False, calls=Map(), tail="", tail_end=0)


def _asked(progress: Progress, fact: agent.ModelCallStarted) -> Progress:
    return replace(progress, turn=fact.key.turn, asking=True, tail="", tail_of=MODEL, tail_end=0)


def _answered(progress: Progress, fact: agent.ModelCallSucceeded) -> Progress:
    used = progress.tokens + wording.tokens(fact.answer.usage)
    cost = progress.cost_usd_micros + fact.answer.cost_usd_micros
    return replace(progress, asking=False, tail="", tail_end=0, tokens=used, cost_usd_micros=cost)


def _not_answered(progress: Progress, fact: agent.ModelCallFailed) -> Progress:
    cost = progress.cost_usd_micros + fact.failure.cost_usd_micros
    return replace(progress, asking=False, tail="", tail_end=0, cost_usd_micros=cost)


def _called(progress: Progress, fact: agent.ToolCallStarted) -> Progress:
    calls = progress.calls.set(fact.key.index, effects.call_in_words(fact.call))
    return replace(progress, calls=calls, tail="", tail_end=0)


def _returned(progress: Progress, fact: agent.ToolCallSucceeded | agent.ToolCallFailed) -> Progress:
    calls = progress.calls.delete(fact.key.index) if fact.key.index in progress.calls else progress.calls
    return replace(progress, calls=calls, tail="", tail_end=0)


_STEPS: dict[type[Message], Callable[[Progress, Any], Progress]] = {
    agent.AgentStarted: _started,
    agent.AgentTakenOver: _taken_over,
    agent.ModelCallStarted: _asked,
    agent.ModelCallSucceeded: _answered,
    agent.ModelCallFailed: _not_answered,
    agent.ToolCallStarted: _called,
    agent.ToolCallSucceeded: _returned,
    agent.ToolCallFailed: _returned,
}
