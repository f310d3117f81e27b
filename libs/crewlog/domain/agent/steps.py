"""What an agent does next. Reads the state and the time, and never the world.

The loop of the executor is: ask for the next step, make it durable, perform it, record what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from crewlog.domain.agent.ends import command_failure, output_failure, output_of
from crewlog.domain.agent.state import (
    ASK_TOOL,
    INTERRUPTED,
    WAIT_TOOL,
    Agent,
    Effect,
    Place,
    Turn,
    has_model,
    is_command,
    is_done,
    is_refusal,
    tokens,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import GateKind

TURNS_MAX = 200
DURATION_SECONDS_MAX = 3_600
OUTPUT_TOKENS_MAX = 8_192
MODEL_ATTEMPTS_MAX = 6
RETRY_MILLIS_FIRST = 500
RETRY_MILLIS_MAX = 60_000
WAIT_MILLIS_MAX = 120_000
SUMMARY_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class CallModel:
    """When an attempt has failed: `after_millis` is how long to wait, which the caller may shorten by chance, but not
    below the provider's wish, `after_millis_min`."""

    turn: int
    attempt: int
    output_tokens_max: int
    after_millis: int = 0
    after_millis_min: int = 0


@dataclass(frozen=True, slots=True)
class RunTools:
    """The tool calls without an outcome, in the order of the answer."""

    calls: tuple[tuple[Place, Effect], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A person has to say something before the conversation can go on: an answer, or what to do about a doubt."""

    place: Place
    effect: Effect
    kind: GateKind.ValueType


@dataclass(frozen=True, slots=True)
class WaitForChildren:
    """The agent lets go of its executor until its children have ended."""

    place: Place
    effect: Effect


@dataclass(frozen=True, slots=True)
class Wait:
    """The provider refuses. It is asked again when somebody says so, or by itself after `millis`."""

    failure: Failure
    millis: int = 0


@dataclass(frozen=True, slots=True)
class Succeed:
    output: str


@dataclass(frozen=True, slots=True)
class Fail:
    failure: Failure
    output: str


Step: TypeAlias = CallModel | RunTools | Ask | WaitForChildren | Wait | Succeed | Fail


def next_step(agent: Agent, now_unix_micros: int) -> Step:
    """The next thing to do. Tool calls come first: a conversation goes on only when each of them has an outcome."""
    if agent.open:
        return _settle_open(agent)
    if not has_model(agent):
        return _end_without_model(agent)
    if is_done(agent) and not agent.inbox:
        return _end(agent, agent.turns[-1])
    failure = output_failure(agent) or _limit_reached(agent, now_unix_micros)
    if failure is not None:
        return Fail(failure, output_of(agent))
    return _call_model(agent)


def seconds_left(agent: Agent, now_unix_micros: int) -> float:
    """Of the time that the task may be worked on. What it has waited for money, people or a pause does not count."""
    return (agent.started.limits.duration_seconds_max or DURATION_SECONDS_MAX) - _seconds(agent, now_unix_micros)


def _seconds(agent: Agent, now_unix_micros: int) -> float:
    return (now_unix_micros - agent.started.at_unix_micros - agent.idle_micros) / 1e6


def _settle_open(agent: Agent) -> Step:
    """What an executor can do comes before what others have to."""
    effects = sorted(agent.open.items(), key=lambda item: item[0])
    calls = tuple((place, effect) for place, effect in effects if not _needs_others(effect))
    if calls:
        return RunTools(calls)
    place, effect = effects[0]
    if effect.call is not None and effect.call.tool == WAIT_TOOL:
        return WaitForChildren(place, effect)
    return Ask(place, effect, GateKind.GATE_KIND_UNKNOWN_OUTCOME if effect.is_asked else GateKind.GATE_KIND_QUESTION)


def _needs_others(effect: Effect) -> bool:
    return effect.is_asked or (effect.call is not None and effect.call.tool in (ASK_TOOL, WAIT_TOOL))


def _end_without_model(agent: Agent) -> Step:
    failure = command_failure(agent) if is_command(agent) else None
    return Succeed(output_of(agent)) if failure is None else Fail(failure, output_of(agent))


def _end(agent: Agent, last: Turn) -> Step:
    if not is_refusal(last.stop_reason):
        return Succeed(output_of(agent))
    failure = Failure(
        reason="model_refused",
        message="the model refused to go on",
        what_to_do="word the task differently, or choose another model",
    )
    return Fail(failure, output_of(agent))


def _call_model(agent: Agent) -> Step:
    last = agent.last_failure
    wish = 0 if last is None else last.retry_after_millis
    if last is not None and last.failure.reason != INTERRUPTED:
        if not last.failure.retryable or agent.failures >= MODEL_ATTEMPTS_MAX:
            return Wait(last.failure)
        if wish > WAIT_MILLIS_MAX:
            return Wait(last.failure, wish)
    return CallModel(
        turn=len(agent.turns) + 1,
        attempt=agent.attempts + 1,
        output_tokens_max=agent.started.limits.output_tokens_max or OUTPUT_TOKENS_MAX,
        after_millis=max(wish, _back_off(agent.failures)),
        after_millis_min=wish,
    )


def _back_off(failures: int) -> int:
    return min(RETRY_MILLIS_MAX, RETRY_MILLIS_FIRST << (failures - 1)) if failures else 0


def _limit_reached(agent: Agent, now_unix_micros: int) -> Failure | None:
    limits = agent.started.limits
    seconds = _seconds(agent, now_unix_micros)
    used: tuple[tuple[str, float, float], ...] = (
        ("turns", len(agent.turns), limits.turns_max or TURNS_MAX),
        ("seconds", seconds, limits.duration_seconds_max or DURATION_SECONDS_MAX),
        ("tokens", tokens(agent), limits.tokens_max or float("inf")),
    )
    for unit, amount, limit in used:
        if amount >= limit:
            return _limit_failure(unit, limit)
    return None


def _limit_failure(unit: str, limit: float) -> Failure:
    return Failure(
        reason=f"{unit}_exhausted",
        message=f"the agent has used its {limit:.0f} {unit}",
        what_to_do="raise the limit in the role, or give it a smaller task",
    )
