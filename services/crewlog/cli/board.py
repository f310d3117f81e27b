"""What a run looks like while it goes on: one row per task. A pure fold of entries, with the live deltas beside it.

Deltas are hints: one that comes late, twice or after a gap changes what is shown and nothing else, and the recorded
outcome replaces it. What an attempt has written that came to nothing is withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from crewlog.cli import effects, tasks, wording
from crewlog.domain import names
from crewlog.domain.run import events as run_events
from crewlog.domain.run import state as run_state
from crewlog.domain.run import view as run_view
from crewlog.eventlog import codec
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import GateStatus, GateView, RunView, TaskStatus, TaskView
from crewlog.v1.run_service_pb2 import LiveDelta
from google.protobuf.message import Message
from immutables import Map

MODEL = -1
TAIL_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of what is being written, by one attempt at one effect of the turn."""

    index: int = MODEL
    attempt: int = 0
    end: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What an agent is at. `calls` are the tool calls that are open; `asking` is true while the model answers.
    `attempts` says, by index, which attempt is the earliest that is still listened to."""

    role: str = ""
    turn: int = 0
    asking: bool = False
    calls: Map[int, str] = field(default_factory=Map)
    attempts: Map[int, int] = field(default_factory=Map)
    tail: Tail = Tail()
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
    """The board with a piece of output that is being made, or without what is withdrawn."""
    progress = board.agents.get(delta.agent_id)
    if progress is None or not _is_awaited(progress, delta):
        return board
    changed = _withdrawn(progress, delta) if delta.withdrawn else _longer(progress, delta)
    return replace(board, agents=board.agents.set(delta.agent_id, changed))


def shown_of(board: Board, delta: LiveDelta) -> str:
    """What is shown now of the attempt that a piece of output comes from."""
    progress = board.agents.get(delta.agent_id)
    if progress is None or delta.turn != progress.turn:
        return ""
    tail = progress.tail
    return tail.text if (tail.index, tail.attempt) == (delta.index, delta.attempt) else ""


def view(board: Board) -> RunView:
    return run_view.view(board.run, revision=board.revision)


def is_over(board: Board) -> bool:
    return run_state.is_over(board.run)


def head(board: Board) -> RunView:
    """The run without its tasks."""
    return run_view.view(board.run, revision=board.revision, with_tasks=False)


def rows(board: Board) -> list[Row]:
    """A row per task, those to come included; a map is one row."""
    shown = view(board).tasks
    items = tasks.items_of(shown)
    questions = {gate.task_id: gate.question for gate in open_gates(board)}
    outer = (task for task in shown if task.parent_task_id not in items)
    return [_row_of(board, task, questions, items.get(task.task_id, ())) for task in outer]


def open_gates(board: Board) -> list[GateView]:
    return [gate for gate in run_view.gates(board.run) if gate.status == GateStatus.GATE_STATUS_OPEN]


def spent_usd_micros(board: Board) -> int:
    """Settled money, with that of calls whose task has not ended."""
    unended = (task.task_id for task in board.run.tasks.values() if not task.ended_at_unix_micros)
    open_agents = (names.agent_id(board.run.started.run_id, task_id) for task_id in unended)
    running = sum(board.agents[agent_id].cost_usd_micros for agent_id in open_agents if agent_id in board.agents)
    return board.run.spent.usd_micros + running


def _row_of(board: Board, task: TaskView, questions: Mapping[str, str], items: Sequence[TaskView]) -> Row:
    """The row of a map has what its items take."""
    parts = [_row(board, item, {}) for item in items]
    row = _row(board, task, questions)
    return replace(
        row,
        doing=tasks.what_came_of_it(task, questions.get(task.task_id, ""), items) if task.items else row.doing,
        tokens=row.tokens + sum(part.tokens for part in parts),
        cost_usd_micros=row.cost_usd_micros + sum(part.cost_usd_micros for part in parts),
    )


def _row(board: Board, task: TaskView, questions: Mapping[str, str]) -> Row:
    progress = board.agents.get(task.agent_id, Progress())
    claimed = task.status == TaskStatus.TASK_STATUS_CLAIMED
    return Row(
        task_id=task.task_id,
        role=task.role or progress.role,
        status=task.status,
        turn=progress.turn or task.result.turns,
        doing=_doing(progress) if claimed else tasks.what_came_of_it(task, questions.get(task.task_id, "")),
        tokens=progress.tokens or wording.tokens(task.result.usage),
        cost_usd_micros=progress.cost_usd_micros or task.result.cost_usd_micros,
        started_at_unix_micros=task.started_at_unix_micros,
        ended_at_unix_micros=task.ended_at_unix_micros,
    )


def _doing(progress: Progress) -> str:
    tail = progress.tail.text
    if progress.asking:
        return tail or "waits for the model"
    calls = ", ".join(progress.calls.values())
    return f"{calls} … {tail}" if tail and calls else calls


def _is_awaited(progress: Progress, delta: LiveDelta) -> bool:
    if delta.turn != progress.turn or delta.attempt < progress.attempts.get(delta.index, 0):
        return False
    return progress.asking if delta.index == MODEL else delta.index in progress.calls


def _longer(progress: Progress, delta: LiveDelta) -> Progress:
    tail = progress.tail
    follows = (tail.index, tail.attempt, tail.end) == (delta.index, delta.attempt, delta.offset)
    before = tail.text if follows else "…" if delta.offset else ""
    text = (before + delta.text)[-TAIL_CHARACTERS_MAX:]
    grown = Tail(delta.index, delta.attempt, delta.offset + len(delta.text), text)
    return replace(progress, tail=grown, attempts=progress.attempts.set(delta.index, delta.attempt))


def _withdrawn(progress: Progress, delta: LiveDelta) -> Progress:
    tail = Tail() if progress.tail.index == delta.index else progress.tail
    return replace(progress, tail=tail, attempts=progress.attempts.set(delta.index, delta.attempt + 1))


def _advance(board: Board, agent_id: str, fact: Message) -> Board:
    step = _STEPS.get(type(fact))
    if step is None:
        return board
    return replace(board, agents=board.agents.set(agent_id, step(board.agents.get(agent_id, Progress()), fact)))


def _started(progress: Progress, fact: agent.AgentStarted) -> Progress:
    return replace(progress, role=fact.node.role.name)


def _let_go(progress: Progress, _: agent.AgentTakenOver | agent.AgentParked) -> Progress:
    return replace(progress, tail=Tail())


def _asked(progress: Progress, fact: agent.ModelCallStarted) -> Progress:
    attempts = Map({MODEL: fact.key.attempt})
    return replace(progress, turn=fact.key.turn, asking=True, attempts=attempts, tail=Tail())


def _answered(progress: Progress, fact: agent.ModelCallSucceeded) -> Progress:
    used = progress.tokens + wording.tokens(fact.answer.usage)
    cost = progress.cost_usd_micros + fact.answer.cost_usd_micros
    return replace(progress, asking=False, tail=Tail(), tokens=used, cost_usd_micros=cost)


def _not_answered(progress: Progress, fact: agent.ModelCallFailed) -> Progress:
    cost = progress.cost_usd_micros + fact.failure.cost_usd_micros
    return replace(progress, asking=False, tail=Tail(), cost_usd_micros=cost)


def _called(progress: Progress, fact: agent.ToolCallStarted) -> Progress:
    calls = progress.calls.set(fact.key.index, effects.call_in_words(fact.call))
    attempts = progress.attempts.set(fact.key.index, fact.key.attempt)
    return replace(progress, calls=calls, attempts=attempts, tail=Tail())


def _in_doubt(progress: Progress, fact: agent.EffectPutInDoubt) -> Progress:
    """A tool call stays until it is known what is done about it; a model call is made again, with a new intent."""
    attempts = progress.attempts.set(fact.key.index, fact.key.attempt + 1)
    return replace(progress, asking=progress.asking and fact.key.index != MODEL, attempts=attempts, tail=Tail())


def _returned(progress: Progress, fact: agent.ToolCallSucceeded | agent.ToolCallFailed) -> Progress:
    calls = progress.calls.delete(fact.key.index) if fact.key.index in progress.calls else progress.calls
    return replace(progress, calls=calls, tail=Tail())


_STEPS: dict[type[Message], Callable[[Progress, Any], Progress]] = {
    agent.AgentStarted: _started,
    agent.AgentTakenOver: _let_go,
    agent.AgentParked: _let_go,
    agent.EffectPutInDoubt: _in_doubt,
    agent.ModelCallStarted: _asked,
    agent.ModelCallSucceeded: _answered,
    agent.ModelCallFailed: _not_answered,
    agent.ToolCallStarted: _called,
    agent.ToolCallSucceeded: _returned,
    agent.ToolCallFailed: _returned,
}
