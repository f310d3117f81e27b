"""The one function that runs every command of every service.

    fold what is new, decide, append at the revision that was folded; on a conflict read and decide again.

An owner keeps the state of the aggregates it works on, so a command costs one append and no read: that the append was
accepted proves that the state was current. Where nothing is appended, nothing is proven, and what is new is read before
the command is answered. Commands that wait for the same aggregate are decided one by one and go into one entry.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from crewlog.domain.decider import Decider, decide_and_evolve, fold
from crewlog.domain.errors import Contention, Refused, TooLarge, Unavailable, WrongState
from crewlog.eventlog import codec
from crewlog.eventlog.port import AggregateId, AppendInDoubt, EventLog, WrongRevision
from crewlog.v1.entry_pb2 import Actor, Aggregate, Decision, Entry
from google.protobuf.message import Message

S = TypeVar("S")

Clock = Callable[[], int]
"""The time in microseconds since 1970."""

ATTEMPTS_MAX = 8
COMMANDS_PER_ENTRY_MAX = 256
STATES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Meta:
    """Who asks, why, and under which claim. The command id is the client's: it names the decision in the log."""

    command_id: str
    principal: str
    correlation_id: str
    causation_id: str = ""
    on_behalf_of: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """`revision` is that of the entry, or of the state that said that there is nothing to do."""

    revision: int
    events: Sequence[Message]
    state: S


@dataclass(frozen=True, slots=True)
class Foreseen(Generic[S]):
    """What was decided before the owner was asked. It holds wherever the state is `before` itself."""

    before: S
    events: Sequence[Message]
    after: S


@dataclass(frozen=True, slots=True)
class Request(Generic[S]):
    command: Message
    meta: Meta
    foreseen: Foreseen[S] | None = None


@dataclass(slots=True)
class _Waiting(Generic[S]):
    request: Request[S]
    answer: asyncio.Future[Outcome[S]]


@dataclass(slots=True)
class _Aggregate(Generic[S]):
    id: AggregateId
    state: S
    revision: int = 0
    ordinal: int = 0
    hash: bytes = b""
    loaded: bool = False
    waiting: list[_Waiting[S]] = field(default_factory=list)
    worker: asyncio.Task[None] | None = None


class _Known(Generic[S]):
    """STATES_MAX aggregates; what was not asked for the longest goes, what is being worked on stays."""

    def __init__(self, tenant: str, decider: Decider[S]) -> None:
        self._tenant = tenant
        self._decider = decider
        self._aggregates: OrderedDict[str, _Aggregate[S]] = OrderedDict()

    def get(self, id: str) -> _Aggregate[S]:
        aggregate = self._aggregates.get(id)
        if aggregate is None:
            aggregate = _Aggregate(AggregateId(self._tenant, self._decider.KIND, id), self._decider.INITIAL)
            self._evict()
            self._aggregates[id] = aggregate
        self._aggregates.move_to_end(id)
        return aggregate

    def forget(self, id: str) -> None:
        aggregate = self._aggregates.get(id)
        if aggregate is not None and aggregate.worker is None:
            del self._aggregates[id]

    def _evict(self) -> None:
        if len(self._aggregates) >= STATES_MAX:
            idle = (id for id, aggregate in self._aggregates.items() if aggregate.worker is None)
            self._aggregates.pop(next(idle, ""), None)


@dataclass(slots=True)
class _Draft(Generic[S]):
    """Decisions that are not stored yet, and what they would lead to."""

    state: S
    decisions: list[Decision] = field(default_factory=list)
    accepted: list[tuple[_Waiting[S], Sequence[Message], S]] = field(default_factory=list)
    refused: list[tuple[_Waiting[S], Refused]] = field(default_factory=list)
    generation: int = 0


class Owner(Generic[S]):
    """Runs the commands of one kind of aggregate. Only one kind of service may own a kind; several copies are safe."""

    def __init__(self, log: EventLog, decider: Decider[S], *, tenant: str, clock: Clock, code_version: str) -> None:
        self._log = log
        self._decider = decider
        self._clock = clock
        self._code_version = code_version
        self._known: _Known[S] = _Known(tenant, decider)

    async def handle(self, id: str, command: Message, meta: Meta) -> Outcome[S]:
        """Decides and appends. A command that was carried out before appends nothing.

        Raises Refused as the decider does, WrongState when the history in the log is damaged, Contention after
        ATTEMPTS_MAX lost races, Unavailable when the log does not answer: then the command may or may not have been
        carried out, and the same command may be sent again.
        """
        return await self._wait(self._known.get(id), Request(command, meta))

    async def handle_together(self, id: str, requests: Sequence[Request[S]]) -> list[Outcome[S] | BaseException]:
        """As `handle` for each, in one entry where they fit; what it would raise stands in the place of the outcome."""
        aggregate = self._known.get(id)
        answers = [self._wait(aggregate, request) for request in requests]
        return await asyncio.gather(*answers, return_exceptions=True)

    async def state(self, id: str) -> tuple[S, int]:
        """The state as far as this owner knows it, and its revision; reads the log the first time."""
        aggregate = self._known.get(id)
        return (aggregate.state, aggregate.revision) if aggregate.loaded else await self.refresh(id)

    async def refresh(self, id: str) -> tuple[S, int]:
        """The state with everything that others have appended before the call."""
        aggregate = self._known.get(id)
        await self._catch_up(aggregate)
        return aggregate.state, aggregate.revision

    def assume_new(self, id: str) -> None:
        """Spares the first read of an aggregate that probably has no entry; where it has one, the append finds out."""
        self._known.get(id).loaded = True

    def forget(self, id: str) -> None:
        """Drops what is kept of an aggregate that is not worked on any more."""
        self._known.forget(id)

    def _wait(self, aggregate: _Aggregate[S], request: Request[S]) -> asyncio.Future[Outcome[S]]:
        answer: asyncio.Future[Outcome[S]] = asyncio.get_running_loop().create_future()
        aggregate.waiting.append(_Waiting(request, answer))
        if aggregate.worker is None:
            aggregate.worker = asyncio.get_running_loop().create_task(self._work(aggregate))
        return answer

    async def _work(self, aggregate: _Aggregate[S]) -> None:
        batch: list[_Waiting[S]] = []
        try:
            while aggregate.waiting:
                batch = aggregate.waiting[:COMMANDS_PER_ENTRY_MAX]
                del aggregate.waiting[:COMMANDS_PER_ENTRY_MAX]
                await self._run(aggregate, batch)
        except BaseException as bug:
            _fail(batch + aggregate.waiting, bug)
            aggregate.waiting.clear()
            aggregate.loaded = False
            if not isinstance(bug, Exception):
                raise
        finally:
            aggregate.worker = None

    async def _run(self, aggregate: _Aggregate[S], batch: list[_Waiting[S]]) -> None:
        for _ in range(ATTEMPTS_MAX):
            draft = await self._draft(aggregate, batch)
            try:
                await self._store(aggregate, draft)
            except WrongRevision:
                aggregate.loaded = False
                continue
            except TooLarge as refusal:
                await self._run_in_halves(aggregate, batch, refusal)
            except AppendInDoubt as doubt:
                aggregate.loaded = False
                raise Unavailable(
                    f"the log did not answer: {doubt}", what_to_do="send the same command again"
                ) from doubt
            return
        raise Contention(f"{aggregate.id.kind} {aggregate.id.id} is being changed by others", what_to_do="try again")

    async def _run_in_halves(self, aggregate: _Aggregate[S], batch: list[_Waiting[S]], refusal: TooLarge) -> None:
        """Commands that do not fit into one entry may fit into several; one that does not fit alone is refused."""
        if len(batch) == 1:
            _fail(batch, refusal)
            return
        middle = len(batch) // 2
        await self._run(aggregate, batch[:middle])
        await self._run(aggregate, batch[middle:])

    async def _draft(self, aggregate: _Aggregate[S], batch: list[_Waiting[S]]) -> _Draft[S]:
        was_loaded = aggregate.loaded
        if not was_loaded:
            await self._catch_up(aggregate)
        draft = _decide(self._decider, aggregate.state, batch)
        if was_loaded and not draft.decisions and await self._catch_up(aggregate):
            return _decide(self._decider, aggregate.state, batch)
        return draft

    async def _store(self, aggregate: _Aggregate[S], draft: _Draft[S]) -> None:
        if draft.decisions:
            entry = self._entry(aggregate, draft)
            payload = entry.SerializeToString()
            aggregate.revision = await self._log.append(aggregate.id, payload, aggregate.revision)
            aggregate.ordinal = entry.ordinal
            aggregate.hash = codec.hash_of(payload)
            aggregate.state = draft.state
        _answer(draft, aggregate.revision)

    def _entry(self, aggregate: _Aggregate[S], draft: _Draft[S]) -> Entry:
        id = aggregate.id
        return Entry(
            epoch=self._log.epoch,
            aggregate=Aggregate(tenant=id.tenant, kind=id.kind, id=id.id),
            ordinal=aggregate.ordinal + 1,
            generation=draft.generation,
            recorded_at_unix_micros=self._clock(),
            code_version=self._code_version,
            decider_version=self._decider.VERSION,
            previous_hash=aggregate.hash,
            decisions=draft.decisions,
        )

    async def _catch_up(self, aggregate: _Aggregate[S]) -> bool:
        """Folds what is new, once, even where two tasks catch up at the same time; says whether anything was."""
        before = aggregate.revision
        for stored in await self._log.read(aggregate.id, before):
            if stored.revision <= aggregate.revision:
                continue
            entry = Entry.FromString(stored.payload)
            _check_follows(aggregate, entry)
            aggregate.state = fold(self._decider, codec.facts(entry), aggregate.state)
            aggregate.revision, aggregate.ordinal = stored.revision, entry.ordinal
            aggregate.hash = codec.hash_of(stored.payload)
        aggregate.loaded = True
        return aggregate.revision > before


def _check_follows(aggregate: _Aggregate[S], entry: Entry) -> None:
    """Refuses to guess what stood in an entry that the log does not give any more."""
    if entry.ordinal != aggregate.ordinal + 1 or entry.previous_hash != aggregate.hash:
        raise WrongState(
            f"{aggregate.id.kind} {aggregate.id.id} is damaged in the log: entry {entry.ordinal} does not follow entry"
            f" {aggregate.ordinal}",
            what_to_do="nothing is decided about it any more; put back the log, see docs/reliability.md",
        )


def _decide(decider: Decider[S], state: S, batch: list[_Waiting[S]]) -> _Draft[S]:
    """One command after the other, each on what those before it lead to."""
    draft = _Draft(state)
    for waiting in batch:
        if waiting.answer.done():
            continue
        try:
            events, draft.state = _decided(decider, draft.state, waiting.request)
        except Refused as refusal:
            draft.refused.append((waiting, refusal))
            continue
        draft.accepted.append((waiting, events, draft.state))
        if events:
            meta = waiting.request.meta
            draft.decisions.append(_decision(meta, events))
            draft.generation = max(draft.generation, meta.generation)
    return draft


def _decided(decider: Decider[S], state: S, request: Request[S]) -> tuple[Sequence[Message], S]:
    foreseen = request.foreseen
    if foreseen is not None and foreseen.before is state:
        return foreseen.events, foreseen.after
    return decide_and_evolve(decider, state, request.command)


def _decision(meta: Meta, events: Sequence[Message]) -> Decision:
    return Decision(
        command_id=meta.command_id,
        actor=Actor(principal=meta.principal, on_behalf_of=meta.on_behalf_of),
        correlation_id=meta.correlation_id,
        causation_id=meta.causation_id,
        events=[codec.pack(event) for event in events],
    )


def _answer(draft: _Draft[S], revision: int) -> None:
    for waiting, events, state in draft.accepted:
        if not waiting.answer.done():
            waiting.answer.set_result(Outcome(revision, events, state))
    for waiting, refusal in draft.refused:
        if not waiting.answer.done():
            waiting.answer.set_exception(refusal)


def _fail(batch: list[_Waiting[S]], error: BaseException) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(
                error if isinstance(error, Exception) else Unavailable("the owner is stopping")
            )
