"""`replay --verify`: is the history whole, is it unchanged, and does it lead to what the platform shows?

Checks, from the bytes as they are stored: that each entry says what was delivered, and for which run; that the entries
of an aggregate are numbered without gaps and each names the hash of the one before; that nothing happened that must
never happen (crewlog.domain.conduct.invariants); that every agent could have gone on from each of its entries; that
every blob has the hash that names it; and that the rules, applied again from the beginning, lead to the receipts in the
log and to the views that the gateway's projection gives. Performs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crewlog.cli import agents_past, following, past
from crewlog.cli.gateway import Gateway
from crewlog.cli.past import Past
from crewlog.domain import names
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.errors import Refused, UnknownEvent
from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import AgentView, ListAgents
from crewlog.v1.body_pb2 import BlobRef
from crewlog.v1.entry_pb2 import Entry, RecordedEntry
from crewlog.v1.run_pb2 import GetRun, RunView
from crewlog.v1.workspace_pb2 import GetBlob
from google.protobuf.message import DecodeError, Message

_POSITIONS = ("revision", "trace_id")
"""Fields of a view that say where it was read, not what is."""
_OF_A_RUN = ("run", "agent", "workspace", "change")


class Difference(Exception):
    """The first thing that is not as it has to be."""


@dataclass(slots=True)
class Checked:
    """How much was looked at."""

    entries: int = 0
    events: int = 0
    aggregates: int = 0
    hashes: int = 0
    blobs: int = 0
    views: int = 0


@dataclass(slots=True)
class _Chain:
    """What the next entry of an aggregate has to fit."""

    ordinal: int = 0
    hash: bytes = b""
    epoch: str = ""


@dataclass(slots=True)
class _Chains:
    by_aggregate: dict[tuple[str, str, str], _Chain] = field(default_factory=dict)
    revision: int = 0


async def verify(gateway: Gateway, run_id: str) -> Checked:
    """Raises Difference at the first one; Refused where there is no such run."""
    view = await gateway.runs.Get(GetRun(run_id=run_id))
    agents = (await gateway.agents.List(ListAgents(run_id=run_id, at_least_revision=view.revision))).agents
    entries = await following.until_now(gateway, run_id, with_stored=True)
    checked = check_history(entries)
    checked.blobs = await _check_blobs(gateway, entries)
    checked.views = _check_views(entries, view, agents)
    return checked


def check_history(entries: Sequence[RecordedEntry]) -> Checked:
    """Checks the stored bytes of entries that came with them: of one run, or of a whole log."""
    checked, chains = Checked(), _Chains()
    for recorded in entries:
        _check_entry(chains, recorded)
        checked.entries += 1
        checked.hashes += bool(recorded.entry.previous_hash)
        checked.events += sum(len(decision.events) for decision in recorded.entry.decisions)
    checked.aggregates = len(chains.by_aggregate)
    for broken in _broken([recorded.entry for recorded in entries]):
        raise Difference(broken)
    if not entries:
        raise Difference("the log holds nothing of this run")
    return checked


def _broken(entries: Sequence[Entry]) -> Iterator[str]:
    yield from violations(entries)
    try:
        yield from agents_past.mistakes(entry for entry in entries if entry.aggregate.kind == "agent")
    except UnknownEvent as unknown:
        yield str(unknown)


def check_run_view(found: Past, shown: RunView) -> None:
    """Compares what the rules say with what the projection shows."""
    _compare(f"run {shown.run_id}", past.view_of_run(found), shown)


def blobs_of(entries: Sequence[RecordedEntry]) -> dict[bytes, int]:
    """Every blob that the entries name, with its size."""
    return {ref.sha256: ref.size_bytes for recorded in entries for ref in _blob_refs(recorded.entry)}


def _check_entry(chains: _Chains, recorded: RecordedEntry) -> None:
    entry, where = recorded.entry, f"the entry at revision {recorded.revision}"
    if recorded.revision <= chains.revision:
        raise Difference(f"{where} came after revision {chains.revision}")
    chains.revision = recorded.revision
    if _parsed(recorded.stored) != entry:
        raise Difference(f"{where} is not what its stored bytes say")
    aggregate = entry.aggregate
    chain = chains.by_aggregate.setdefault((aggregate.tenant, aggregate.kind, aggregate.id), _Chain(epoch=entry.epoch))
    name = f"{aggregate.kind} {aggregate.id}"
    if entry.ordinal != chain.ordinal + 1:
        raise Difference(f"{where} is number {entry.ordinal} of {name}, where number {chain.ordinal + 1} has to be")
    if entry.previous_hash != chain.hash:
        raise Difference(f"{where} does not fit the entry of {name} before it: one of them was changed")
    if entry.epoch != chain.epoch:
        raise Difference(f"{where} is of another log than the one of {name} before it")
    chain.ordinal, chain.hash = entry.ordinal, codec.hash_of(recorded.stored)
    of_a_run = aggregate.kind in _OF_A_RUN
    if of_a_run and any(decision.correlation_id != names.run_of(aggregate.id) for decision in entry.decisions):
        raise Difference(f"{where} was not decided for the run of {name}: it would be in another trace")


def _parsed(stored: bytes) -> Entry | None:
    try:
        return Entry.FromString(stored)
    except DecodeError:
        return None


async def _check_blobs(gateway: Gateway, entries: Sequence[RecordedEntry]) -> int:
    blobs = blobs_of(entries)
    for sha256, size in blobs.items():
        try:
            content = (await gateway.events.ReadBlob(GetBlob(sha256=sha256))).content
        except Refused as refusal:
            raise Difference(f"blob {sha256.hex()} cannot be read: {refusal.message}") from refusal
        if hashlib.sha256(content).digest() != sha256 or len(content) != size:
            raise Difference(f"blob {sha256.hex()} does not hold what its name says")
    return len(blobs)


def _check_views(entries: Sequence[RecordedEntry], run: RunView, agents: Sequence[AgentView]) -> int:
    """A run may go on while it is read: each aggregate is folded up to where its view is."""
    seen_up_to = {("agent", agent.agent_id): agent.revision for agent in agents}
    shown = [each for each in entries if each.revision <= seen_up_to.get(_key(each), run.revision)]
    try:
        found = past.fold_all(shown)
    except UnknownEvent as unknown:
        raise Difference(str(unknown)) from unknown
    check_run_view(found, run)
    folded = {view.agent_id: view for view in past.views_of_agents(found)}
    for agent in agents:
        _compare(f"agent {agent.agent_id}", folded.pop(agent.agent_id, AgentView()), agent)
    for missing in folded:
        raise Difference(f"the projection does not show agent {missing}")
    return 1 + len(agents)


def _key(recorded: RecordedEntry) -> tuple[str, str]:
    return recorded.entry.aggregate.kind, recorded.entry.aggregate.id


def _compare(name: str, folded: Message, shown: Message) -> None:
    for field_of_view in folded.DESCRIPTOR.fields:
        if field_of_view.name in _POSITIONS:
            continue
        wanted, given = getattr(folded, field_of_view.name), getattr(shown, field_of_view.name)
        if wanted != given:
            raise Difference(
                f"{name}: {field_of_view.name} is {_short(given)} in the projection, and {_short(wanted)} after the log"
            )


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 120 else text[:119] + "…")


def _blob_refs(message: Message) -> Iterator[BlobRef]:
    if isinstance(message, BlobRef):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for each in value if descriptor.is_repeated else (value,):
            yield from _blob_refs(each)
