"""The state of an agent: its conversation, its open effects and its money. The rules are in `decider`.

An effect is open from its intent to its outcome. `turns` is the conversation: what the model said, and what came of
each tool call; bodies stay references, so the state is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from crewlog.domain import amounts, enums
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.v1.agent_pb2 import (
    AgentParked,
    AgentStarted,
    AgentStatus,
    ContentBlock,
    EffectClass,
    EffectKey,
    MessageReceived,
    ModelAnswer,
    ModelFailure,
    ResumeReceipt,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Reservation, Usage
from crewlog.v1.run_pb2 import MessageMode, TaskResult
from crewlog.v1.workspace_pb2 import Snapshot
from immutables import Map

enums.as_attributes(AgentStatus, EffectClass, MessageMode)
MODEL = -1
ASK_TOOL = "ask"
COMMAND_TOOL = "command"
FINISH_TOOL = "finish"
SPAWN_TOOL = "spawn"
WAIT_TOOL = "wait_for_children"
INTERRUPTED = "interrupted"
INVALID_OUTPUT = "invalid_output"
Place: TypeAlias = tuple[int, int]
"""Turn and index of an effect."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect whose outcome is not recorded; `call` is None for a model call. `is_asked`: it was in doubt, and a
    person is asked about it."""

    attempt: int
    effect_class: EffectClass.ValueType
    call: ToolUse | None = None
    reserved: Amounts = ZERO
    started_at_unix_micros: int = 0
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """`reason` as in ToolFailure, where it is an error; `cut_from_bytes` as `text_cut_from_bytes` there."""

    text: Body
    is_error: bool
    reason: str = ""
    cut_from_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model, with the outcomes of its tool calls by their index. `is_reminded`: the model has ended
    without the structured output that its node wants, and is told so."""

    content: tuple[ContentBlock, ...]
    stop_reason: str
    outcomes: Map[int, ToolOutcome] = field(default_factory=Map)
    is_reminded: bool = False


@dataclass(frozen=True)
class Agent:
    """`told` are the messages by the turn whose model call reads them; `inbox` are those that are not read yet. `ran`
    is what came of the command, where the agent is one. `structured_json` was handed over in the turn `finished_turn`;
    `invalid_outputs` counts the attempts since then that did not fit. `shared` went to children, by the tool call."""

    status: AgentStatus.ValueType = AgentStatus.AGENT_STATUS_UNSPECIFIED
    started: AgentStarted = field(default_factory=AgentStarted)
    generation: int = 0
    executor_id: str = ""
    turns: tuple[Turn, ...] = ()
    open: Map[Place, Effect] = field(default_factory=Map)
    attempts: int = 0
    failures: int = 0
    last_failure: ModelFailure | None = None
    usage: Usage = field(default_factory=Usage)
    allotment: Amounts = ZERO
    allotment_revision: int = 0
    spent: Amounts = ZERO
    reserved: Amounts = ZERO
    lost_usd_micros: int = 0
    saved_usd_micros: int = 0
    parked: AgentParked | None = None
    idle_micros: int = 0
    messages: int = 0
    inbox: tuple[MessageReceived, ...] = ()
    told: Map[int, tuple[Body, ...]] = field(default_factory=Map)
    read: tuple[int, ...] = ()
    late: frozenset[tuple[int, int, int, int]] = frozenset()
    resumes: int = 0
    last_receipt: ResumeReceipt | None = None
    tool_calls: int = 0
    snapshot: Snapshot | None = None
    ran: ToolOutcome | None = None
    structured_json: str = ""
    finished_turn: int = 0
    invalid_outputs: int = 0
    shared: Map[Place, Amounts] = field(default_factory=Map)
    in_doubt: int = 0
    result: TaskResult | None = None
    failure: Failure | None = None
    ended_at_unix_micros: int = 0


INITIAL = Agent()


def is_over(agent: Agent) -> bool:
    return agent.status > AgentStatus.AGENT_STATUS_RUNNING


def readable(agent: Agent) -> list[MessageReceived]:
    """The messages that the next model call reads. One that is to wait is read when everything before it is done."""
    now = [message for message in agent.inbox if message.mode != MessageMode.MESSAGE_MODE_QUEUE]
    return now or (list(agent.inbox[:1]) if is_done(agent) else [])


def is_interrupted(agent: Agent) -> bool:
    """Whether somebody wants to be heard before anything else is done."""
    return any(message.mode == MessageMode.MESSAGE_MODE_INTERRUPT for message in agent.inbox)


def is_done(agent: Agent) -> bool:
    """Whether the model has done what it was asked to do so far."""
    if not agent.turns or agent.turns[-1].is_reminded:
        return False
    return agent.finished_turn == len(agent.turns) or is_last(agent.turns[-1])


def is_last(turn: Turn) -> bool:
    """Whether the model has nothing more to say or to do by itself."""
    return not turn.outcomes and turn.stop_reason not in ("pause_turn", "max_tokens")


def is_refusal(stop_reason: str) -> bool:
    """What such an answer asks for is not meant: its tool calls are not run."""
    return stop_reason == "refusal"


def late_key(generation: int, key: EffectKey) -> tuple[int, int, int, int]:
    return generation, key.turn, key.index, key.attempt


def is_noop(agent: Agent) -> bool:
    return agent.started.HasField("noop")


def is_command(agent: Agent) -> bool:
    return agent.started.HasField("command")


def has_model(agent: Agent) -> bool:
    """Whether there is somebody to talk to."""
    return not is_noop(agent) and not is_command(agent)


def wants_output(agent: Agent) -> bool:
    """Whether the agent has to hand over a structured output."""
    return bool(agent.started.node.output_schema) or agent.started.node.HasField("planning")


def tool_uses(turn: Turn) -> Iterator[tuple[int, ToolUse]]:
    """The tool calls of an answer with their indices, from 0."""
    return enumerate(block.tool_use for block in turn.content if block.HasField("tool_use"))


def spawned(agent: Agent) -> int:
    """How many children it has had."""
    return sum(
        1
        for turn in agent.turns
        for index, call in tool_uses(turn)
        if call.tool == SPAWN_TOOL and index in turn.outcomes and not turn.outcomes[index].is_error
    )


def fits(agent: Agent, wanted: Amounts) -> bool:
    """Whether a further call may cost so much at most."""
    return amounts.fits(agent.allotment, agent.spent + agent.reserved + wanted)


def amounts_of(reservation: Reservation) -> Amounts:
    """What a model call takes from the allotment until it is settled."""
    return Amounts(reservation.usd_micros, reservation.input_tokens_max, reservation.output_tokens_max, 1)


def amounts_used(usage: Usage, cost_usd_micros: int) -> Amounts:
    """What an answer has come to; input counts whether it was cached or not."""
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return Amounts(cost_usd_micros, read, usage.output_tokens, 1)


def tokens(agent: Agent) -> int:
    """Every token that was read or written, cached ones included."""
    used = agent.usage
    return used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens


def place_of(key: EffectKey) -> Place:
    return key.turn, key.index


def saved(answer: ModelAnswer) -> int:
    """What reading from the provider's cache has saved, against the price of other input; rounded down."""
    per_mtok = answer.price.input_usd_micros_per_mtok - answer.price.cache_read_usd_micros_per_mtok
    return max(0, answer.usage.cache_read_tokens * per_mtok) // 1_000_000
