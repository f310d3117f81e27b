"""Model calls of one agent: what they may cost is reserved, then they are made, then they are settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from crewlog.domain.agent_state import MODEL, Agent, ToolOutcome, Turn, left_usd_micros, tool_uses
from crewlog.domain.agent_steps import CallModel
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.models import conversation, prices
from crewlog.models.provider import AnthropicModel, ModelError, ModelReply, ModelRequest, input_tokens_bound
from crewlog.tools.registry import tool_definitions
from crewlog.v1.agent_pb2 import (
    ContentBlock,
    EffectKey,
    FinishModelCall,
    ModelAnswer,
    ModelFailure,
    StartModelCall,
    ToolUse,
)
from crewlog.v1.budget_pb2 import Price, Reservation

OUTPUT_TOKENS_MIN = 1_024
"""An answer that may not be longer than this is not worth its price."""


@dataclass(slots=True)
class Conversation:
    """What was said so far, with every body resolved. Kept by turn, so that a step costs what it adds."""

    blobs: BlobStore
    prompt: str = ""
    turns: list[conversation.Turn] = field(default_factory=list)

    async def messages(self, agent: Agent) -> list[dict[str, Any]]:
        if not self.prompt:
            self.prompt = (await bodies.load(self.blobs, agent.started.prompt)).decode(errors="replace")
        for turn in agent.turns[len(self.turns) :]:
            self.turns.append(await self._resolved(turn))
        return conversation.messages(self.prompt, self.turns)

    async def _resolved(self, turn: Turn) -> conversation.Turn:
        """Asked for only once all calls of the turn have an outcome."""
        outcomes = [await self._outcome(turn.outcomes[index]) for index, _ in tool_uses(turn)]
        return conversation.Turn([await self._block(block) for block in turn.content], outcomes)

    async def _outcome(self, outcome: ToolOutcome) -> conversation.ToolOutcome:
        text = await bodies.load(self.blobs, outcome.text)
        return conversation.ToolOutcome(text.decode(errors="replace"), outcome.is_error)

    async def _block(self, block: ContentBlock) -> ContentBlock:
        if not block.tool_use.input_json.HasField("blob"):
            return block
        resolved = ContentBlock()
        resolved.CopyFrom(block)
        resolved.tool_use.input_json.inline = await bodies.load(self.blobs, block.tool_use.input_json)
        return resolved


def request_of(agent: Agent, step: CallModel, messages: list[dict[str, Any]]) -> ModelRequest:
    role = agent.started.node.role
    return ModelRequest(
        model=agent.started.model,
        system=role.prompt,
        messages=messages,
        tools=tool_definitions(role.tools),
        output_tokens_max=step.output_tokens_max,
    )


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call is allowed to be: None for `reservation` where not even the smallest useful one fits."""

    price: Price
    output_tokens_max: int
    reservation: Reservation | None


def quote(agent: Agent, request: ModelRequest) -> Quote:
    """The worst case; where it does not fit into what is left, that of a shorter answer. Raises InvalidCommand for a
    model without a known price."""
    input_tokens = input_tokens_bound(request)
    price = prices.price_of(request.model, input_tokens=input_tokens)
    wanted = prices.worst_case(price, input_tokens, request.output_tokens_max)
    left = left_usd_micros(agent)
    if left is None or wanted.usd_micros <= left:
        return Quote(price, request.output_tokens_max, wanted)
    for_output = left - prices.worst_case(price, input_tokens, 0).usd_micros - 1
    affordable = for_output * 1_000_000 // max(1, price.output_usd_micros_per_mtok)
    if affordable < OUTPUT_TOKENS_MIN:
        return Quote(price, 0, None)
    return Quote(price, affordable, prices.worst_case(price, input_tokens, affordable))


def within(request: ModelRequest, quoted: Quote) -> ModelRequest:
    """The request, no longer than what was reserved for it."""
    return replace(request, output_tokens_max=quoted.output_tokens_max)


def start_command(
    agent_id: str, generation: int, step: CallModel, model: str, quoted: Quote, at: int
) -> StartModelCall:
    return StartModelCall(
        agent_id=agent_id,
        generation=generation,
        key=EffectKey(turn=step.turn, index=MODEL, attempt=step.attempt),
        model=model,
        output_tokens_max=quoted.output_tokens_max,
        reservation=quoted.reservation,
        at_unix_micros=at,
    )


async def perform(
    model: AnthropicModel,
    request: ModelRequest,
    started: StartModelCall,
    blobs: BlobStore,
    on_text: Callable[[str], None],
    now: Callable[[], int],
) -> FinishModelCall:
    """Makes the call, once; what came of it is the command that records it."""
    finish = FinishModelCall(agent_id=started.agent_id, generation=started.generation, key=started.key)
    began = time.monotonic()
    try:
        reply = await model.call(request, on_text)
    except ModelError as error:
        finish.failure.CopyFrom(_failure(error, started.reservation))
    else:
        duration_micros = int((time.monotonic() - began) * 1e6)
        finish.answer.CopyFrom(await _answer(reply, started.reservation.price, blobs, duration_micros))
    finish.at_unix_micros = now()
    return finish


def _failure(error: ModelError, reservation: Reservation) -> ModelFailure:
    return ModelFailure(
        failure=error.failure,
        cost_usd_micros=reservation.usd_micros if error.may_have_charged else 0,
        retry_after_millis=error.retry_after_millis,
    )


async def _answer(reply: ModelReply, price: Price, blobs: BlobStore, duration_micros: int) -> ModelAnswer:
    return ModelAnswer(
        content=[await _stored(block, blobs) for block in reply.content],
        stop_reason=reply.stop_reason,
        usage=reply.usage,
        cost_usd_micros=prices.cost(price, reply.usage),
        duration_micros=duration_micros,
        provider_request_id=reply.provider_request_id,
        model=reply.model,
        usage_estimated=reply.usage_estimated,
    )


async def _stored(block: ContentBlock, blobs: BlobStore) -> ContentBlock:
    if block.WhichOneof("block") != "tool_use":
        return block
    call = block.tool_use
    input_json = await bodies.store(blobs, call.input_json.inline)
    return ContentBlock(tool_use=ToolUse(tool_use_id=call.tool_use_id, tool=call.tool, input_json=input_json))
