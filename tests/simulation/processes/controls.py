"""Disks that do not do their part. With each of them the simulation has to go red; else it sees nothing."""

from __future__ import annotations

from collections.abc import Callable

from crewlog.eventlog import codec
from crewlog.eventlog.port import AggregateId
from crewlog.v1.entry_pb2 import Entry

from tests.simulation.processes.log import Disk

TAKING_OVER = ("agent_taken_over", "effect_put_in_doubt", "effect_reconciled")
INTENTS = ("model_call_started", "tool_call_started")


class WithoutVersionCheck(Disk):
    """Takes every entry, whatever has happened to the aggregate since."""

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        entries = self._of[aggregate]
        return await super().append(aggregate, payload, entries[-1].revision if entries else 0)


class _Rewriting(Disk):
    """Leaves facts out, and closes the chain of hashes over them, so that nothing but their absence shows."""

    leaves_out: tuple[str, ...] = ()

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        entry = Entry.FromString(payload)
        entries = self._of[aggregate]
        if aggregate.kind == "agent":
            self._leave_out(entry)
            if not entry.decisions:
                return expected_revision
            entry.ordinal = len(entries) + 1
            entry.previous_hash = codec.hash_of(entries[-1].payload) if entries else b""
        return await super().append(aggregate, entry.SerializeToString(), expected_revision)

    def _leave_out(self, entry: Entry) -> None:
        for decision in entry.decisions:
            kept = [event for event in decision.events if event.WhichOneof("fact") not in self.leaves_out]
            del decision.events[:]
            decision.events.extend(kept)
        decisions = [decision for decision in entry.decisions if decision.events]
        del entry.decisions[:]
        entry.decisions.extend(decisions)


class WithoutFencing(_Rewriting):
    """Whoever takes an agent over says so, and the log does not keep it."""

    leaves_out = TAKING_OVER


class WithoutIntents(_Rewriting):
    """Effects are performed, and the log does not know that they were begun."""

    leaves_out = INTENTS


CONTROLS: dict[str, Callable[[], Disk]] = {
    "no version check": WithoutVersionCheck,
    "no fencing": WithoutFencing,
    "no intents": WithoutIntents,
}
