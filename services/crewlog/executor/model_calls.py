"""Model calls of one agent: what they may cost is reserved, then they are made, then they are settled.

What is reserved rests on a count of the input. The bound comes first, as it costs nothing; where the call does not fit
by it, the provider's own count decides (docs/adr/0003-counting-input.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from crewlog.domain.agent.state import (
    MODEL,
    Agent,
    ToolOutcome,
    Turn,
    amounts_of,
    amounts_used,
    tool_uses,
    wants_output,
)
from crewlog.domain.agent.steps import CallModel
from crewlog.domain.amounts import ZERO, Amounts, over
from crewlog.eventlog import bodies
from crewlog.eventlog.port import BlobStore
from crewlog.models import conversation, prices
from crewlog.models.prices import BOUND, PROVIDER_COUNT, PriceList
from crewlog.models.provider import (
    AnthropicModel,
    ModelError,
    ModelReply,
    ModelRequest,
    Timeouts,
    input_tokens_bound,
    input_tokens_counted,
)
from crewlog.tools import finish, offered
from crewlog.v1.agent_pb2 import (
    ContentBlock,
    EffectKey,
    FinishModelCall,
    MessageReceived,
    ModelAnswer,
    ModelFailure,
    StartModelCall,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Price, Reservation, Usage

logger = logging.getLogger(__name__)

Count = Callable[[ModelRequest], Awaitable[int]]

OUTPUT_TOKENS_MIN = 1_024
"""An answer that may not be longer than this is not worth its price."""
_NOT_RUN = ToolOutcome(Body(inline=b"This was not run: you have refused to go on."), is_error=True)


@dataclass(slots=True)
class Conversation:
    """What was said so far, with every body resolved. It is kept as it is sent, so a step costs what it adds. After the
    last turn more may be said."""

    blobs: BlobStore
    _past: conversation.Transcript | None = None
    _turns: int = 0
    _last: tuple[int, conversation.Turn] = (0, conversation.Turn(()))

    async def messages(self, agent: Agent, unread: Sequence[MessageReceived] = ()) -> list[dict[str, Any]]:
        """For the next model call, which reads what is `unread` for the first time."""
        count = len(agent.turns)
        said = await self._said([*agent.told.get(count + 1, ()), *(message.text for message in unread)])
        if not count:
            return conversation.messages(_joined(await self._prompt(agent), said), [])
        if self._past is None:
            self._past = conversation.Transcript(_joined(await self._prompt(agent), await self._told(agent, 1)))
        for number in range(self._turns + 1, count):
            said_then = _after(agent.turns[number - 1], await self._told(agent, number + 1))
            self._past.add(replace(await self._turn(agent, number), said=said_then))
            self._turns = number
        whole = self._past.copy()
        whole.add(replace(await self._turn(agent, count), said=_after(agent.turns[-1], said)))
        return whole.messages()

    async def _prompt(self, agent: Agent) -> str:
        return _joined(await self._said([agent.started.prompt]), finish.INSTRUCTION if wants_output(agent) else "")

    async def _told(self, agent: Agent, number: int) -> str:
        """What the call of a turn was the first to read."""
        return await self._said(agent.told.get(number, ()))

    async def _turn(self, agent: Agent, number: int) -> conversation.Turn:
        if self._last[0] != number:
            self._last = (number, await self._resolved(agent.turns[number - 1]))
        return self._last[1]

    async def _resolved(self, turn: Turn) -> conversation.Turn:
        """Asked for only once all calls of the turn have an outcome. Those of a refusal have none: nothing was run."""
        outcomes = [await self._outcome(turn.outcomes.get(index, _NOT_RUN)) for index, _ in tool_uses(turn)]
        return conversation.Turn([await self._block(block) for block in turn.content], outcomes)

    async def _said(self, texts: Sequence[Body]) -> str:
        return _joined(*[(await bodies.load(self.blobs, text)).decode(errors="replace") for text in texts])

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


def _after(turn: Turn, said: str) -> str:
    """What the user says after a turn."""
    return _joined(finish.REMINDER if turn.is_reminded else "", said)


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def request_of(agent: Agent, step: CallModel, messages: list[dict[str, Any]]) -> ModelRequest:
    role = agent.started.node.role
    return ModelRequest(
        model=agent.started.model,
        system=role.prompt,
        messages=messages,
        tools=offered.definitions(agent.started.node),
        output_tokens_max=step.output_tokens_max,
    )


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call may be. `reservation` is None where not even the shortest useful answer fits. By so much the whole
    answer exceeds what is left: `wanted`; and by so much the shortest useful one: `wanted_at_least`."""

    price: Price
    output_tokens_max: int
    reservation: Reservation | None
    wanted: Amounts
    wanted_at_least: Amounts
    counted_by: str

    @property
    def depends_on_count(self) -> bool:
        """Whether more could fit if the input were smaller than its bound."""
        return self.counted_by == BOUND and bool(self.wanted.usd_micros or self.wanted.input_tokens)


async def best_quote(
    request: ModelRequest, price_list: PriceList, limit: Amounts, used: Amounts, count: Count
) -> Quote:
    """By the bound; where the whole answer does not fit by it, by the provider's count. Where the provider does not
    count, the bound holds. Raises InvalidCommand for a model without a known price."""
    quoted = bound_quote(request, price_list, limit, used)
    if not quoted.depends_on_count:
        return quoted
    try:
        tokens = input_tokens_counted(request, await count(request))
    except ModelError as error:
        logger.warning("the input is not counted, so its bound holds: %s", error)
        return quoted
    price = price_list.price_of(request.model, tokens)
    return quote(request, price, tokens, limit, used, counted_by=PROVIDER_COUNT)


def bound_quote(request: ModelRequest, price_list: PriceList, limit: Amounts, used: Amounts) -> Quote:
    """By the bound. Raises InvalidCommand for a model without a known price."""
    tokens = input_tokens_bound(request)
    return quote(request, price_list.price_of(request.model, tokens), tokens, limit, used)


def quote(
    request: ModelRequest, price: Price, input_tokens: int, limit: Amounts, used: Amounts, *, counted_by: str = BOUND
) -> Quote:
    """The worst case of the whole answer; where it does not fit beside what is used, that of a shorter one. The price
    is the one for an input of this size."""

    def reserving(output_tokens: int) -> Reservation:
        return prices.worst_case(price, input_tokens, output_tokens, counted_by=counted_by)

    whole, shortest = request.output_tokens_max, min(request.output_tokens_max, OUTPUT_TOKENS_MIN)
    wanted = over(limit, used + amounts_of(reserving(whole)))
    if not wanted:
        return Quote(price, whole, reserving(whole), ZERO, ZERO, counted_by)
    if wanted_at_least := over(limit, used + amounts_of(reserving(shortest))):
        return Quote(price, 0, None, wanted, wanted_at_least, counted_by)
    longest = _longest_answer(whole, price, input_tokens, limit, used)
    return Quote(price, longest, reserving(longest), wanted, ZERO, counted_by)


def _longest_answer(whole: int, price: Price, input_tokens: int, limit: Amounts, used: Amounts) -> int:
    longest = whole
    if limit.output_tokens:
        longest = min(longest, limit.output_tokens - used.output_tokens)
    if limit.usd_micros:
        longest = prices.longest_answer(price, input_tokens, longest, limit.usd_micros - used.usd_micros)
    return longest


def within(request: ModelRequest, quoted: Quote) -> ModelRequest:
    """The request, no longer than what was reserved for it."""
    return replace(request, output_tokens_max=quoted.output_tokens_max)


def start_command(
    step: CallModel, model: str, quoted: Quote, credential: str, messages: Sequence[int]
) -> StartModelCall:
    """`credential` names the key that the call is made with; `messages` are the numbers of those that it holds anew."""
    return StartModelCall(
        key=EffectKey(turn=step.turn, index=MODEL, attempt=step.attempt),
        model=model,
        output_tokens_max=quoted.output_tokens_max,
        reservation=quoted.reservation,
        credential=credential,
        messages=messages,
    )


async def perform(
    model: AnthropicModel,
    request: ModelRequest,
    started: StartModelCall,
    blobs: BlobStore,
    on_text: Callable[[str], None],
    price_list: PriceList,
    timeouts: Timeouts | None = None,
) -> FinishModelCall:
    """Makes the call, once; what came of it is the command that records it."""
    finish = FinishModelCall(key=started.key)
    began = time.monotonic()
    try:
        reply = await model.call(request, on_text, timeouts)
    except ModelError as error:
        finish.failure.CopyFrom(_failure(error, started.reservation))
    else:
        duration_micros = int((time.monotonic() - began) * 1e6)
        usage = _usage(reply, started.reservation)
        price = _charged(started, usage, price_list)
        finish.answer.CopyFrom(await _answer(reply, usage, price, blobs, duration_micros))
    return finish


def cut_off(started: StartModelCall, reason: str) -> FinishModelCall:
    """The outcome of a call that was given up while it was under way: the provider may charge it."""
    failure = Failure(reason=reason, message=f"the call was cut off: {reason}", retryable=True)
    lost = ModelFailure(failure=failure, cost_usd_micros=started.reservation.usd_micros, may_have_charged=True)
    return FinishModelCall(key=started.key, failure=lost)


def _failure(error: ModelError, reservation: Reservation) -> ModelFailure:
    return ModelFailure(
        failure=error.failure,
        cost_usd_micros=reservation.usd_micros if error.may_have_charged else 0,
        retry_after_millis=error.retry_after_millis,
        may_have_charged=error.may_have_charged,
    )


def _usage(reply: ModelReply, reservation: Reservation) -> Usage:
    """As reported. Where it was not, the most that was reserved, as cache writes, the dearest kind of input."""
    if not reply.usage_estimated:
        return reply.usage
    return Usage(cache_write_tokens=reservation.input_tokens_max, output_tokens=reservation.output_tokens_max)


def _charged(started: StartModelCall, usage: Usage, price_list: PriceList) -> Price:
    """The price for the input that there was: that of a bound may lie in a dearer tier."""
    at = datetime.fromtimestamp(started.at_unix_micros / 1e6, UTC)
    return price_list.price_of(started.model, amounts_used(usage, 0).input_tokens, at)


async def _answer(reply: ModelReply, usage: Usage, price: Price, blobs: BlobStore, duration_micros: int) -> ModelAnswer:
    return ModelAnswer(
        content=[await _stored(block, blobs) for block in reply.content],
        stop_reason=reply.stop_reason,
        usage=usage,
        cost_usd_micros=prices.cost(price, usage),
        duration_micros=duration_micros,
        provider_request_id=reply.provider_request_id,
        model=reply.model,
        usage_estimated=reply.usage_estimated,
        price=price,
    )


async def _stored(block: ContentBlock, blobs: BlobStore) -> ContentBlock:
    if block.WhichOneof("block") != "tool_use":
        return block
    call = block.tool_use
    input_json = await bodies.store(blobs, call.input_json.inline)
    return ContentBlock(tool_use=ToolUse(tool_use_id=call.tool_use_id, tool=call.tool, input_json=input_json))
