"""What an attempt has said that came to nothing is taken back, for certain, and nothing of it is shown any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crewlog.gateway import queries
from crewlog.gateway.projection import Projection
from crewlog.gateway.withdrawing import Attempts
from crewlog.v1.agent_pb2 import (
    ContentBlock,
    EffectClass,
    EffectKey,
    FinishAgent,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    ModelAnswer,
    ToolOutput,
    ToolSpec,
    ToolUse,
)
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import TaskResult
from crewlog.v1.run_service_pb2 import LiveDelta, WatchRun

from tests.service.gateway.acting import NOON, Spending, answer, failure, start

AGENT = "run-1_a-1"
PURE, REVERSIBLE = EffectClass.EFFECT_CLASS_PURE, EffectClass.EFFECT_CLASS_REVERSIBLE


def delta(turn: int = 1, attempt: int = 1, index: int = -1, **fields: Any) -> LiveDelta:
    return LiveDelta(run_id="run-1", agent_id=AGENT, turn=turn, attempt=attempt, index=index, **fields)


def withdrawn(turn: int = 1, attempt: int = 1, index: int = -1) -> LiveDelta:
    return delta(turn, attempt, index, withdrawn=True)


class Watcher:
    """One stream with live output."""

    def __init__(self, world: Any, from_revision: int = 0) -> None:
        request = WatchRun(run_id="run-1", from_revision=from_revision, with_live=True)
        self.stream = aiter(world.run_service.Watch(request))
        self.world = world

    async def next(self) -> LiveDelta | int:
        """A piece of live output, or the revision of an entry."""
        async with asyncio.timeout(20):
            message = await anext(self.stream)
        live: LiveDelta = message.live
        return live if message.HasField("live") else int(message.entry.revision)

    async def up_to(self, revision: int) -> list[LiveDelta]:
        """The live output before an entry."""
        found = []
        while (message := await self.next()) != revision:
            if isinstance(message, LiveDelta):
                found.append(message)
        return found

    async def shown(self, *deltas: LiveDelta) -> list[LiveDelta]:
        """What is passed on of these. The last one comes from an agent that nothing is known of."""
        last = LiveDelta(run_id="run-1", agent_id="run-1_z-1", turn=1, attempt=1, text="last")
        for each in (*deltas, last):
            await self.world.live.publish("local", "run-1", each.SerializeToString())
        found = []
        while (message := await self.next()) != last:
            assert isinstance(message, LiveDelta)
            found.append(message)
        return found


@pytest.fixture
async def run(world: Any) -> Spending:
    """The agent of task a calls the model."""
    run = Spending(world, "run-1", await world.register())
    await world.start_run("run-1", run.project_id)
    await world.claim("run-1")
    await run.act("a", host(run), start(1))
    return run


def host(run: Spending, generation: int = 1) -> HostAgent:
    command = run.host("a", generation)
    command.tools.extend((ToolSpec(name="read", effect_class=PURE), ToolSpec(name="bash", effect_class=REVERSIBLE)))
    return command


@pytest.fixture
def watch(world: Any, until: Any) -> Callable[..., Awaitable[Watcher]]:
    async def watch(from_revision: int = 0) -> Watcher:
        """Has got everything, and listens."""
        head, readers = await world.log.head(), len(world.live._readers)
        watcher = Watcher(world, from_revision)
        if from_revision < head:
            await watcher.up_to(head)
        await until(lambda: len(world.live._readers) > readers)
        return watcher

    return watch


def tool_calls(turn: int = 1) -> FinishModelCall:
    calls = [ContentBlock(tool_use=ToolUse(tool_use_id=name, tool=name)) for name in ("read", "bash")]
    answer = ModelAnswer(content=calls, stop_reason="tool_use")
    return FinishModelCall(key=EffectKey(turn=turn, index=-1, attempt=1), answer=answer)


def tool_ended(index: int, generation: int = 1, attempt: int = 1) -> FinishToolCall:
    key = EffectKey(turn=1, index=index, attempt=attempt)
    return FinishToolCall(key=key, output=ToolOutput(), generation=generation)


async def test_a_call_whose_executor_is_gone_is_withdrawn_and_the_next_one_shown(
    world: Any, run: Spending, watch: Any
) -> None:
    watcher = await watch()
    assert await watcher.shown(delta(text="Dear")) == [delta(text="Dear")]
    revision = await run.act("a", host(run, 2))
    assert await watcher.up_to(revision) == [withdrawn()]
    again = start(1, 2)
    again.generation = 2
    await watcher.up_to(await run.act("a", again))
    zombie = delta(offset=4, text=" Sir")
    assert await watcher.shown(zombie, delta(attempt=2, text="Hi"), zombie) == [delta(attempt=2, text="Hi")]


async def test_a_call_that_failed_is_withdrawn(run: Spending, watch: Any) -> None:
    watcher = await watch()
    revision = await run.act("a", failure(1, charged=True))
    assert await watcher.up_to(revision) == [withdrawn()]
    assert await watcher.shown(delta(text="late"), delta(attempt=2, text="new")) == [delta(attempt=2, text="new")]


async def test_what_comes_after_the_outcome_is_not_shown_and_nothing_is_withdrawn(run: Spending, watch: Any) -> None:
    watcher = await watch()
    assert await watcher.up_to(await run.act("a", tool_calls())) == []
    first = delta(index=0, text="a line")
    assert await watcher.shown(delta(text="late"), first) == [first]
    assert await watcher.up_to(await run.act("a", tool_ended(0))) == []
    second = delta(index=1, text="a line")
    assert await watcher.shown(first, second) == [second]
    revision = await run.act("a", tool_ended(1), start(2))
    assert await watcher.up_to(revision) == []
    assert await watcher.shown(second, delta(2, text="Dear"), first) == [delta(2, text="Dear")]


async def test_a_tool_in_doubt_is_withdrawn_and_runs_again_without_an_intent(run: Spending, watch: Any) -> None:
    watcher = await watch()
    await run.act("a", tool_calls(), tool_ended(0))
    revision = await run.act("a", host(run, 2))
    assert await watcher.up_to(revision) == [withdrawn(index=1)]
    again = delta(attempt=2, index=1, text="again")
    assert await watcher.shown(delta(index=1, text="zombie"), again) == [again]
    revision = await run.act("a", *_of(2, FinishAgent(cancelled=TaskResult(), at_unix_micros=NOON)))
    assert await watcher.up_to(revision) == [withdrawn(attempt=2, index=1)]


async def test_an_agent_that_ends_in_the_middle_of_a_call_takes_it_back(run: Spending, watch: Any) -> None:
    watcher = await watch()
    revision = await run.act("a", FinishAgent(cancelled=TaskResult(), at_unix_micros=NOON))
    assert await watcher.up_to(revision) == [withdrawn()]
    assert await watcher.shown(delta(text="late"), delta(2, text="later")) == []


@pytest.mark.parametrize("entries_before", [0, 1, 100])
async def test_who_comes_later_sees_nothing_of_what_was_given_up(
    run: Spending, watch: Any, entries_before: int
) -> None:
    await run.act("a", tool_calls(), tool_ended(0))
    revision = await run.act("a", host(run, 2))
    watcher = await watch(max(0, revision - entries_before))
    dead = [delta(text="a"), delta(index=0, text="b"), delta(index=1, text="c")]
    alive = delta(attempt=2, index=1, text="d")
    assert await watcher.shown(*dead, alive) == [alive]


@pytest.mark.parametrize("how", ["failed", "lost"])
async def test_who_comes_between_two_attempts_sees_nothing_of_the_first(run: Spending, watch: Any, how: str) -> None:
    ended = failure(1, charged=True) if how == "failed" else host(run, 2)
    watcher = await watch(await run.act("a", ended))
    assert await watcher.shown(delta(text="late"), delta(attempt=2, text="new")) == [delta(attempt=2, text="new")]


async def test_who_comes_again_gets_the_withdrawal_that_he_has_missed(world: Any, run: Spending) -> None:
    before = await world.log.head()
    revision = await run.act("a", host(run, 2))
    assert await Watcher(world, before).up_to(revision) == [withdrawn()]
    revision = await run.act("a", *_of(2, start(1, 2), FinishAgent(cancelled=TaskResult(), at_unix_micros=NOON)))
    assert await Watcher(world, revision - 1).up_to(revision) == [withdrawn(attempt=2)]


async def test_an_agent_that_is_over_says_nothing_to_those_who_come_later(run: Spending, watch: Any) -> None:
    revision = await run.act("a", FinishAgent(cancelled=TaskResult(), at_unix_micros=NOON))
    watcher = await watch(revision)
    assert await watcher.shown(delta(text="late"), delta(9, text="late")) == []


async def test_nothing_is_shown_before_the_stream_has_caught_up(
    world: Any, run: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the attempt is on the last page, and its executor has not stopped to speak."""
    monkeypatch.setattr(queries, "PAGE_ENTRIES_MAX", 2)
    read = Projection.read

    async def read_while_a_zombie_speaks(self: Projection, query: Any, *args: Any) -> Any:
        if query is queries.Queries.page:
            await world.live.publish("local", "run-1", delta(text="zombie").SerializeToString())
        return await read(self, query, *args)

    monkeypatch.setattr(Projection, "read", read_while_a_zombie_speaks)
    revision = await run.act("a", host(run, 2))
    watcher = Watcher(world)
    assert await watcher.up_to(revision) == [withdrawn()]
    assert await watcher.shown(delta(text="zombie")) == []


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_of_an_attempt_comes_after_its_withdrawal(world: Any, seed: int) -> None:
    """Calls that fail, succeed and are lost in any order, with pieces of any attempt in between."""
    chance = random.Random(seed)
    run = Spending(world, "run-1", await world.register())
    await world.start_run("run-1", run.project_id)
    await run.act("a", host(run))
    await _random_calls(chance, run)
    attempts, dead = Attempts(), set[tuple[int, int, int]]()
    for stored in await _entries_of_agent(world):
        for piece in attempts.withdrawals(stored):
            dead.add((piece.turn, piece.index, piece.attempt))
        for turn in range(1, 9):
            for attempt in range(1, 12):
                if (turn, -1, attempt) in dead:
                    assert not attempts.is_wanted(delta(turn, attempt))
    state, _ = await world.agents.state(AGENT)
    for turn, index in state.open:
        assert attempts.is_wanted(delta(turn, state.open[turn, index].attempt, index))
    assert dead


async def _random_calls(chance: random.Random, run: Spending) -> None:
    turn, attempt, generation = 1, 1, 1
    for _ in range(12):
        await run.act("a", *_of(generation, start(turn, attempt)))
        match chance.choice(("answered", "failed", "lost")):
            case "answered":
                await run.act("a", *_of(generation, answer(turn, 1, attempt)))
                turn, attempt = turn + 1, 1
            case "failed":
                failed = failure(turn, charged=False)
                failed.key.attempt = attempt
                await run.act("a", *_of(generation, failed))
                attempt += 1
            case _:
                generation += 1
                await run.act("a", host(run, generation))
                attempt += 1
    await run.act("a", host(run, generation + 1), *_of(generation + 1, start(turn, attempt)))


def _of(generation: int, *commands: Any) -> tuple[Any, ...]:
    for command in commands:
        command.generation = generation
    return commands


async def _entries_of_agent(world: Any) -> list[Entry]:
    async for batch in world.log.follow(0):
        return [Entry.FromString(stored.payload) for stored in batch if stored.aggregate.kind == "agent"]
    return []
