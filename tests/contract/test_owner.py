"""The owner, over every log: what it appends, what it answers, and what it does when others are faster."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from crewlog.domain.errors import Conflict, Contention, InvalidCommand, NotFound, TooLarge, Unavailable
from crewlog.eventlog import owner as owners
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.owner import Meta, Outcome, Owner
from crewlog.eventlog.port import AggregateId, AppendInDoubt, EventLog, Stored, WrongRevision
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.project_pb2 import GetProject, ProjectRegistered, RegisterProject
from google.protobuf.message import Message

NOW = 1_700_000_000_000_000


@dataclass(frozen=True)
class Folder:
    """All paths under which a project was ever registered."""

    paths: tuple[str, ...] = ()


class Paths:
    """Rules small enough to read: a path is registered once, `/forbidden` never, and NotFound needs no entry."""

    KIND = "project"
    VERSION = 3
    INITIAL = Folder()

    @staticmethod
    def decide(folder: Folder, command: Message) -> list[Message]:
        match command:
            case GetProject():
                if not folder.paths:
                    raise NotFound("nothing was registered")
                return []
            case RegisterProject(path="/forbidden"):
                raise InvalidCommand("this path is forbidden")
            case RegisterProject(path="/only-the-first") if folder.paths:
                raise Conflict("something was registered before")
            case RegisterProject(path=path):
                return [] if path in folder.paths else [ProjectRegistered(path=path)]
            case _:
                raise AssertionError(command)

    @staticmethod
    def evolve(folder: Folder, event: ProjectRegistered) -> Folder:
        return replace(folder, paths=(*folder.paths, event.path))


def owner_on(log: EventLog) -> Owner[Folder]:
    return Owner(log, Paths(), tenant="local", clock=lambda: NOW, code_version="1.2.3")


def meta(command_id: str = "c1", generation: int = 0) -> Meta:
    return Meta(command_id, "service:test", "run-1", "cause-1", "local", generation)


def register(path: str) -> RegisterProject:
    return RegisterProject(path=path)


@pytest.fixture
def id(unique_id: Callable[[], str]) -> str:
    return unique_id()


@pytest.fixture
def owner(log: EventLog) -> Owner[Folder]:
    return owner_on(log)


async def stored(log: EventLog, id: str) -> list[Stored]:
    return await log.read(AggregateId("local", "project", id))


async def entries(log: EventLog, id: str) -> list[Entry]:
    return [Entry.FromString(one.payload) for one in await stored(log, id)]


def paths_of(entry: Entry) -> list[str]:
    return [event.project_registered.path for decision in entry.decisions for event in decision.events]


class InterferingLog:
    """A log in which something happens right before an append: here others are faster, or nothing is heard."""

    def __init__(self, log: EventLog, before_append: Callable[[bytes], object]) -> None:
        self._log = log
        self._before_append = before_append
        self.epoch = log.epoch
        self.follow, self.head, self.read = log.follow, log.head, log.read
        self.last, self.last_of_each = log.last, log.last_of_each
        self.appends = 0

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        self.appends += 1
        interference = self._before_append(payload)
        if asyncio.iscoroutine(interference):
            await interference
        return await self._log.append(aggregate, payload, expected_revision)


async def test_an_entry_says_who_why_when_and_by_which_rules(log: EventLog, owner: Owner[Folder], id: str) -> None:
    outcome = await owner.handle(id, register("/a"), meta("c1", generation=4))
    (entry,) = await entries(log, id)
    assert (entry.epoch, entry.ordinal, entry.generation, entry.recorded_at_unix_micros) == (log.epoch, 1, 4, NOW)
    assert (entry.code_version, entry.decider_version, entry.previous_hash) == ("1.2.3", 3, b"")
    assert (entry.aggregate.tenant, entry.aggregate.kind, entry.aggregate.id) == ("local", "project", id)
    (decision,) = entry.decisions
    assert (decision.command_id, decision.correlation_id, decision.causation_id) == ("c1", "run-1", "cause-1")
    assert (decision.actor.principal, decision.actor.on_behalf_of) == ("service:test", "local")
    assert paths_of(entry) == ["/a"]
    assert outcome == Outcome((await stored(log, id))[0].revision, [ProjectRegistered(path="/a")], Folder(("/a",)))


async def test_ordinals_are_gapless_and_hashes_make_a_chain(log: EventLog, id: str) -> None:
    for number in range(5):
        await owner_on(log).handle(id, register(f"/{number}"), meta())
    previous = b""
    for ordinal, one in enumerate(await stored(log, id), 1):
        entry = Entry.FromString(one.payload)
        assert (entry.ordinal, entry.previous_hash) == (ordinal, previous)
        previous = hashlib.sha256(one.payload).digest()


async def test_the_same_command_twice_appends_nothing(log: EventLog, owner: Owner[Folder], id: str) -> None:
    first = await owner.handle(id, register("/a"), meta())
    again = await owner.handle(id, register("/a"), meta())
    elsewhere = await owner_on(log).handle(id, register("/a"), meta())
    assert [again, elsewhere] == [Outcome(first.revision, [], Folder(("/a",)))] * 2
    assert len(await stored(log, id)) == 1


async def test_commands_that_wait_go_into_one_entry(log: EventLog, owner: Owner[Folder], id: str) -> None:
    await owner.handle(id, register("/0"), meta())
    outcomes = await asyncio.gather(
        *(owner.handle(id, register(f"/{n}"), meta(f"c{n}", generation=n)) for n in range(1, 21))
    )
    _, entry = await entries(log, id)
    assert [decision.command_id for decision in entry.decisions] == [f"c{n}" for n in range(1, 21)]
    assert entry.generation == 20
    assert len({outcome.revision for outcome in outcomes}) == 1
    assert outcomes[0].state == Folder(("/0", "/1"))
    assert outcomes[-1].state == Folder(tuple(f"/{n}" for n in range(21)))


async def test_a_later_command_sees_what_an_earlier_one_in_the_entry_did(
    log: EventLog, owner: Owner[Folder], id: str
) -> None:
    first, same, too_late = await asyncio.gather(
        owner.handle(id, register("/a"), meta("c1")),
        owner.handle(id, register("/a"), meta("c2")),
        owner.handle(id, register("/only-the-first"), meta("c3")),
        return_exceptions=True,
    )
    assert isinstance(first, Outcome)
    assert isinstance(same, Outcome)
    assert same.events == []
    assert isinstance(too_late, Conflict)
    assert [paths_of(entry) for entry in await entries(log, id)] == [["/a"]]


async def test_refusals_do_not_disturb_others(log: EventLog, owner: Owner[Folder], id: str) -> None:
    outcomes = await asyncio.gather(
        *(owner.handle(id, register(path), meta()) for path in ("/a", "/forbidden", "/b", "/forbidden", "/c")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Outcome, InvalidCommand, Outcome, InvalidCommand, Outcome]
    assert [paths_of(entry) for entry in await entries(log, id)] == [["/a", "/b", "/c"]]


async def test_a_refused_command_leaves_no_entry(log: EventLog, owner: Owner[Folder], id: str) -> None:
    with pytest.raises(InvalidCommand):
        await owner.handle(id, register("/forbidden"), meta())
    assert await stored(log, id) == []
    assert await owner.state(id) == (Folder(), 0)


async def test_after_a_conflict_it_decides_again(log: EventLog, id: str) -> None:
    here, there = owner_on(log), owner_on(log)
    await here.handle(id, register("/a"), meta())
    await there.handle(id, register("/b"), meta())
    await here.handle(id, register("/c"), meta())
    outcome = await there.handle(id, register("/a"), meta())
    assert outcome.events == []
    assert [paths_of(entry) for entry in await entries(log, id)] == [["/a"], ["/b"], ["/c"]]
    assert [entry.ordinal for entry in await entries(log, id)] == [1, 2, 3]


async def test_a_refusal_is_never_based_on_what_is_out_of_date(log: EventLog, id: str) -> None:
    here, there = owner_on(log), owner_on(log)
    with pytest.raises(NotFound):
        await here.handle(id, GetProject(), meta())
    await there.handle(id, register("/a"), meta())
    assert (await here.handle(id, GetProject(), meta())).state == Folder(("/a",))


async def test_what_is_refused_after_a_conflict_was_refused_by_the_new_state(log: EventLog, id: str) -> None:
    here, there = owner_on(log), owner_on(log)
    await here.state(id)
    await there.handle(id, register("/a"), meta())
    outcomes = await asyncio.gather(
        here.handle(id, GetProject(), meta()),
        here.handle(id, register("/only-the-first"), meta()),
        here.handle(id, register("/b"), meta()),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Outcome, Conflict, Outcome]
    assert [paths_of(entry) for entry in await entries(log, id)] == [["/a"], ["/b"]]


async def test_owners_race_and_every_command_is_carried_out_once(log: EventLog, id: str) -> None:
    racers = [owner_on(log) for _ in range(4)]

    async def insist(owner: Owner[Folder], path: str) -> None:
        while True:
            try:
                await owner.handle(id, register(path), meta())
                return
            except Contention:
                continue

    async with asyncio.timeout(30):
        await asyncio.gather(*(insist(owner, f"/{n}") for n in range(30) for owner in racers))
    all_entries = await entries(log, id)
    assert sorted(path for entry in all_entries for path in paths_of(entry)) == sorted(f"/{n}" for n in range(30))
    assert [entry.ordinal for entry in all_entries] == list(range(1, len(all_entries) + 1))
    states = {(await owner_on(log).state(id))[0]} | {
        (await owner.handle(id, GetProject(), meta())).state for owner in racers
    }
    assert len(states) == 1


async def test_who_loses_every_race_is_told(log: EventLog, id: str) -> None:
    rival = owner_on(log)

    async def be_faster(payload: bytes) -> None:
        await rival.handle(id, register(f"/rival-{slow_log.appends}"), meta())

    slow_log = InterferingLog(log, be_faster)
    with pytest.raises(Contention):
        await owner_on(slow_log).handle(id, register("/mine"), meta())
    assert slow_log.appends == owners.ATTEMPTS_MAX
    assert all(paths_of(entry) != ["/mine"] for entry in await entries(log, id))


async def test_state_while_others_catch_up_is_folded_once(log: EventLog, id: str) -> None:
    for path in ("/a", "/b"):
        await owner_on(log).handle(id, register(path), meta())
    owner = owner_on(log)
    states = await asyncio.gather(*(owner.state(id) for _ in range(5)), owner.handle(id, register("/c"), meta()))
    assert len(states) == 6
    assert (await owner.state(id))[0] == Folder(("/a", "/b", "/c"))
    await owner.handle(id, register("/d"), meta())
    assert [entry.ordinal for entry in await entries(log, id)] == [1, 2, 3, 4]


@pytest.mark.parametrize("was_stored", [True, False])
async def test_after_an_append_in_doubt_it_reads_before_it_decides(log: EventLog, id: str, was_stored: bool) -> None:
    doubts = 1

    async def lose(payload: bytes) -> None:
        nonlocal doubts
        if doubts:
            doubts -= 1
            if was_stored:
                await log.append(AggregateId("local", "project", id), payload, first.revision)
            raise AppendInDoubt("no answer")

    owner = owner_on(InterferingLog(log, lose))
    first = await owner_on(log).handle(id, register("/a"), meta())
    with pytest.raises(Unavailable):
        await owner.handle(id, register("/b"), meta())
    await owner.handle(id, register("/b"), meta())
    await owner.handle(id, register("/c"), meta())
    all_entries = await entries(log, id)
    assert [paths_of(entry) for entry in all_entries] == [["/a"], ["/b"], ["/c"]]
    assert [entry.ordinal for entry in all_entries] == [1, 2, 3]


async def test_a_log_that_refuses_fails_the_command_and_not_the_next(log: EventLog, id: str) -> None:
    full = [True]

    def refuse(payload: bytes) -> None:
        if full.pop() if full else False:
            raise Unavailable("the log is full")

    owner = owner_on(InterferingLog(log, refuse))
    with pytest.raises(Unavailable):
        await owner.handle(id, register("/a"), meta())
    await owner.handle(id, register("/b"), meta())
    assert [paths_of(entry) for entry in await entries(log, id)] == [["/b"]]


async def test_commands_that_do_not_fit_into_one_entry_go_into_several(
    log: EventLog, owner: Owner[Folder], id: str
) -> None:
    sizes = [1_500_000, 1_500_000, 5_000_000, 1_500_000, 1_500_000]
    outcomes = await asyncio.gather(
        *(owner.handle(id, register("/" + str(n) * size), meta()) for n, size in enumerate(sizes)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Outcome, Outcome, TooLarge, Outcome, Outcome]
    assert [path[1] for entry in await entries(log, id) for path in paths_of(entry)] == ["0", "1", "3", "4"]


async def test_whoever_stops_waiting_disturbs_nobody(log: EventLog, owner: Owner[Folder], id: str) -> None:
    tasks = [asyncio.create_task(owner.handle(id, register(f"/{n}"), meta())) for n in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if not isinstance(outcome, Outcome)] == [asyncio.CancelledError]


async def test_assume_new_spares_the_read_and_finds_out_when_it_was_wrong(log: EventLog, id: str) -> None:
    await owner_on(log).handle(id, register("/a"), meta())
    owner = owner_on(log)
    owner.assume_new(id)
    await owner.handle(id, register("/b"), meta())
    assert (await owner.state(id))[0] == Folder(("/a", "/b"))


async def test_what_is_forgotten_is_read_again(log: EventLog, owner: Owner[Folder], id: str) -> None:
    await owner.handle(id, register("/a"), meta())
    owner.forget(id)
    owner.forget(id)
    assert (await owner.state(id))[0] == Folder(("/a",))


async def test_states_that_nobody_asks_for_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "STATES_MAX", 3)
    log = MemoryLog()
    reads: list[str] = []
    counting = InterferingLog(log, lambda payload: None)

    async def read(aggregate: AggregateId, after_revision: int = 0) -> Sequence[Stored]:
        reads.append(aggregate.id)
        return await log.read(aggregate, after_revision)

    counting.read = read  # type: ignore[assignment]
    owner = owner_on(counting)
    for id in ("a", "b", "c", "a", "d", "a", "c", "b"):
        await owner.state(id)
    assert reads == ["a", "b", "c", "d", "b"]


async def test_the_interference_is_real(log: EventLog, id: str) -> None:
    """The log that these tests put in between refuses as the one below it does."""
    with pytest.raises(WrongRevision):
        await InterferingLog(log, lambda payload: None).append(AggregateId("local", "project", id), b"x", 5)
