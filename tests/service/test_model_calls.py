"""A model call is settled at the price of what was used, never above what was reserved, over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from crewlog.domain.agent.state import amounts_of, amounts_used
from crewlog.domain.agent.steps import CallModel
from crewlog.domain.amounts import ZERO, Amounts, fits
from crewlog.eventlog.memory import MemoryBlobs
from crewlog.executor import model_calls
from crewlog.models.prices import PriceList, cost
from crewlog.models.provider import AnthropicModel, ModelRequest, Timeouts
from crewlog.models.scripted import serve_scripted
from crewlog.v1.agent_pb2 import FinishModelCall, StartModelCall
from crewlog.v1.budget_pb2 import Usage

TIERED = "claude-haiku-5-5"
LIST = PriceList()
NOW = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp() * 1e6)
SCRIPT = """
name: test
scripts:
  - prompt: silent
    steps:
      - {say: Hi, omit_usage: true}
  - prompt: broken
    steps:
      - {say: Hi, disconnect_after: 2}
  - prompt: busy
    steps:
      - {say: Hi, error: {status: 529}}
  - steps:
      - say: Hi
"""


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[AnthropicModel]:
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve_scripted(path))
        client = AnthropicModel("key", url, timeouts=Timeouts(total_seconds=10))
        stack.push_async_callback(client.close)
        yield client


async def called(model: AnthropicModel, text: str, limit: Amounts = ZERO) -> tuple[StartModelCall, FinishModelCall]:
    """Quotes, starts and performs a call as the host does."""
    request = ModelRequest(TIERED, "Role: tester", [{"role": "user", "content": text}], [], 2_000)
    quoted = await model_calls.best_quote(request, LIST, limit, ZERO, model.count_tokens)
    assert quoted.reservation is not None
    step = CallModel(turn=1, attempt=1, output_tokens_max=2_000, after_millis=0)
    started = model_calls.start_command(step, TIERED, quoted, "scripted", [])
    started.at_unix_micros = NOW
    request = model_calls.within(request, quoted)
    finished = await model_calls.perform(model, request, started, MemoryBlobs(), lambda _: None, LIST)
    return started, finished


@pytest.mark.parametrize("limit", [ZERO, Amounts(usd_micros=100_000)])
async def test_what_was_used_is_charged_in_its_own_tier(model: AnthropicModel, limit: Amounts) -> None:
    started, finished = await called(model, "word " * 40_000, limit)
    answer, reserved = finished.answer, started.reservation
    assert reserved.counted_by == ("provider" if limit else "bound")
    assert answer.price.input_usd_micros_per_mtok == 100_000
    assert reserved.price.input_usd_micros_per_mtok == (100_000 if limit else 500_000)
    assert answer.price.source.endswith("2026-11-20")
    assert answer.cost_usd_micros == cost(answer.price, answer.usage)
    assert fits(amounts_of(reserved), amounts_used(answer.usage, answer.cost_usd_micros))


async def test_a_long_input_is_charged_in_the_dear_tier(model: AnthropicModel) -> None:
    started, finished = await called(model, "word " * 90_000)
    assert finished.answer.price.input_usd_micros_per_mtok == 500_000
    assert fits(amounts_of(started.reservation), amounts_used(finished.answer.usage, finished.answer.cost_usd_micros))


@pytest.mark.parametrize("limit", [ZERO, Amounts(usd_micros=100_000)])
async def test_without_a_count_what_was_reserved_is_charged_and_no_more(model: AnthropicModel, limit: Amounts) -> None:
    started, finished = await called(model, "silent " * 40_000, limit)
    reserved = started.reservation
    assert finished.answer.usage_estimated
    assert finished.answer.usage == Usage(
        cache_write_tokens=reserved.input_tokens_max, output_tokens=reserved.output_tokens_max
    )
    assert fits(amounts_of(reserved), amounts_used(finished.answer.usage, finished.answer.cost_usd_micros))


async def test_a_lost_answer_costs_what_was_reserved_and_a_refused_call_nothing(model: AnthropicModel) -> None:
    started, finished = await called(model, "broken")
    assert finished.failure.may_have_charged
    assert finished.failure.cost_usd_micros == started.reservation.usd_micros > 0
    _, finished = await called(model, "busy")
    assert not finished.failure.may_have_charged
    assert finished.failure.cost_usd_micros == 0


async def test_the_start_names_the_credential(model: AnthropicModel) -> None:
    started, _ = await called(model, "Go")
    assert (started.credential, started.model, started.output_tokens_max) == ("scripted", TIERED, 2_000)
