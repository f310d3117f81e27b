"""What an agent needs a person for: its own questions, and effects of which nobody knows whether they happened.

The executor lets go of the agent while it waits. The answer comes with the next grant and is the outcome of the call.
"""

from __future__ import annotations

from crewlog.domain.agent.state import Agent
from crewlog.domain.agent.steps import Ask
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.executor.tool_calls import key_of
from crewlog.tools.answers import NotDone
from crewlog.tools.ask import parse_question
from crewlog.v1.agent_pb2 import EffectReconciled, FinishToolCall, ReconcileEffect, ToolFailure, ToolOutput, ToolUse
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import GateKind, Question
from crewlog.v1.scheduler_pb2 import GateOutcome

RUN_AGAIN, TELL_UNKNOWN = "run_again", "tell_unknown"
INPUT_CHARACTERS_SHOWN = 1_000


async def question_of(step: Ask, blobs: BlobStore, tools: frozenset[str]) -> Question | FinishToolCall:
    """What to ask; or the outcome of a call that may not ask, or asks in a form that nobody can answer."""
    call = step.effect.call or ToolUse()
    input_json = await bodies.load(blobs, call.input_json)
    turn, index = step.place
    if step.kind == GateKind.GATE_KIND_UNKNOWN_OUTCOME:
        question = _about_doubt(call.tool, input_json)
    else:
        try:
            question = parse_question(input_json, tools)
        except NotDone as refusal:
            failure = ToolFailure(reason=refusal.reason, text=Body(inline=refusal.text.encode()))
            return FinishToolCall(key=key_of(step.place, step.effect), failure=failure)
    question.turn, question.index, question.kind = turn, index, step.kind
    return question


def _about_doubt(tool: str, input_json: bytes) -> Question:
    shown = input_json.decode(errors="replace")[:INPUT_CHARACTERS_SHOWN]
    return Question(
        question=f"The process that ran {tool} was killed, and nobody knows whether it took effect: {shown}\n"
        "Run it again, or tell the agent that the outcome is not known?",
        choices=[RUN_AGAIN, TELL_UNKNOWN],
        default_choice=TELL_UNKNOWN,
    )


def settled(agent: Agent, outcome: GateOutcome) -> FinishToolCall | ReconcileEffect | None:
    """The command that an answer leads to; None where the call has its outcome already."""
    effect = agent.open.get((outcome.turn, outcome.index))
    if effect is None:
        return None
    key = key_of((outcome.turn, outcome.index), effect)
    if outcome.kind != GateKind.GATE_KIND_UNKNOWN_OUTCOME:
        return FinishToolCall(key=key, output=ToolOutput(text=Body(inline=_answer(outcome).encode())))
    if not effect.is_asked:
        return None
    again, told = EffectReconciled.RESOLUTION_RUN_AGAIN, EffectReconciled.RESOLUTION_TOLD_UNKNOWN
    return ReconcileEffect(key=key, resolution=again if outcome.answer == RUN_AGAIN else told)


def _answer(outcome: GateOutcome) -> str:
    if not outcome.is_expired:
        return outcome.answer
    default = f" Go on with the declared answer: {outcome.answer}" if outcome.answer else ""
    return f"Nobody has answered in time.{default}"
