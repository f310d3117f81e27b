"""Runs that wait: for an executor with the right labels, or for room under a limit. The best one goes first.

What comes first is the effective priority: that of the run, and one more for every minute that it waits; so the order
of two runs never changes while they wait. Of two turns in a row at least one goes to the highest priority that waits,
however long others have waited. Who has got something waits anew, behind those of the same priority.

A run that may go on is offered a place, and the place is kept for it until it was looked at: nobody passes it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from crewlog.domain.admission import Key
from crewlog.eventlog.owner import Clock
from crewlog.scheduler.admission import Labels, Limits, Needs
from crewlog.scheduler.fleet import Fleet

LEVEL_MICROS = 60_000_000
"""As much waiting as counts as one more in priority."""
OFFER_SECONDS = 5.0
STALE_MAX = 64


class Place(NamedTuple):
    """What runs wait for: an executor with these labels, and where a key is named, first of all room under that."""

    labels: Labels
    key: Key | None = None


class Waiter(NamedTuple):
    """Sorts as who comes first."""

    rank: int
    since: int
    run_id: str
    priority: int


def waiter(run_id: str, priority: int, since: int) -> Waiter:
    return Waiter(since - priority * LEVEL_MICROS, since, run_id, priority)


class Lane:
    """The runs that wait for one place, by priority. What has left is taken from its heap when it comes up."""

    def __init__(self) -> None:
        self._waiters: dict[str, Waiter] = {}
        self._heaps: dict[int, list[Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, new: Waiter) -> None:
        known = self._waiters.get(new.run_id)
        if known is not None and known <= new:
            return
        self._waiters[new.run_id] = new
        heap = self._heaps.setdefault(new.priority, [])
        heapq.heappush(heap, new)
        if len(heap) > STALE_MAX + 2 * len(self._waiters):
            heap[:] = sorted(each for each in self._waiters.values() if each.priority == new.priority)

    def leave(self, run_id: str) -> None:
        self._waiters.pop(run_id, None)

    def heads(self) -> Iterator[Waiter]:
        """The first of each priority."""
        for priority, heap in list(self._heaps.items()):
            while heap and self._waiters.get(heap[0].run_id) is not heap[0]:
                heapq.heappop(heap)
            if heap:
                yield heap[0]
            else:
                del self._heaps[priority]

    def in_order(self) -> list[str]:
        return [each.run_id for each in sorted(self._waiters.values())]


class Wait(NamedTuple):
    since: int
    place: Place


@dataclass(slots=True)
class Turn:
    """A run that is looked at: what it has waited for, and what it was offered. `served` are the needs of which it has
    got something now."""

    run_id: str
    priority: int
    waits: dict[Needs, Wait] = field(default_factory=dict)
    offers: tuple[Place, ...] = ()
    blocked: set[Needs] = field(default_factory=set)
    served: set[Needs] = field(default_factory=set)

    def use_offer(self, needs: Needs) -> bool:
        for place in self.offers:
            if place.labels == needs.labels and (place.key is None or place.key in needs.keys):
                self.offers = tuple(other for other in self.offers if other is not place)
                return True
        return False


@dataclass(slots=True)
class _Member:
    waits: dict[Needs, Wait] = field(default_factory=dict)
    lanes: set[Place] = field(default_factory=set)


Lanes: TypeAlias = dict[Key | None, dict[Labels, Lane]]


class Queue:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._limits: Limits = fleet.limits
        self._members: dict[str, _Member] = {}
        self._lanes: Lanes = {}
        self._offers: dict[str, dict[Place, int]] = {}
        self._offered: Counter[Place] = Counter()
        self._overtook = False

    def turn(self, run_id: str, priority: int) -> Turn:
        """The run leaves whatever it waits for, to be looked at anew."""
        turn = Turn(run_id, priority)
        member = self._members.pop(run_id, None)
        if member is not None:
            turn.waits = member.waits
            for place in member.lanes:
                self._leave(place, run_id)
        turn.offers = tuple(self._offers.get(run_id, ()))
        for place in turn.offers:
            self._take_offer(run_id, place)
        return turn

    def join(self, turn: Turn, needs: Needs, place: Place, waits_since: int, now: int) -> None:
        known = turn.waits.get(needs)
        since = now if needs in turn.served else known.since if known is not None else waits_since
        member = self._members.setdefault(turn.run_id, _Member())
        member.waits[needs] = Wait(since, place)
        member.lanes.add(place)
        lane = self._lanes.setdefault(place.key, {}).setdefault(place.labels, Lane())
        lane.join(waiter(turn.run_id, turn.priority, since))
        turn.blocked.add(needs)
        if place.key is not None:
            self._limits.freed.add(place.key)

    def obstacle(self, turn: Turn, needs: Needs) -> Place | None:
        """What the run has to wait for, if it is not only a free executor; others may come first."""
        full = self._limits.full(needs)
        if full is not None:
            return Place(needs.labels, full)
        if not (self._members or self._offers) or turn.use_offer(needs):
            return None
        for key in needs.keys:
            if key in self._lanes or not self._limits.has_room(key, beside=self._offers_under(key)):
                return Place(needs.labels, key)
        return Place(needs.labels) if self._is_contended(needs.labels) else None

    def offer(self, clock: Clock) -> list[str]:
        """The runs that may try again, the best first."""
        if not self._lanes:
            self._limits.freed.clear()
            return []
        now = clock()
        self._expire(now)
        found: dict[str, None] = {}
        while (best := self._best()) is not None:
            place, run_id = best
            member = self._members[run_id]
            self._leave(place, run_id)
            member.lanes.discard(place)
            self._offers.setdefault(run_id, {})[place] = now
            self._offered[place] += 1
            found[run_id] = None
        return list(found)

    def recheck(self) -> None:
        """The limits are others now."""
        self._limits.freed.update(key for key in self._lanes if key is not None)

    def wait_of(self, run_id: str, needs: Needs) -> Wait | None:
        """What the run waits for where it needs this."""
        member = self._members.get(run_id)
        return member.waits.get(needs) if member is not None else None

    def in_order(self, place: Place) -> list[str]:
        lane = self._lanes.get(place.key, {}).get(place.labels)
        return lane.in_order() if lane is not None else []

    def _leave(self, place: Place, run_id: str) -> None:
        lanes = self._lanes[place.key]
        lane = lanes[place.labels]
        lane.leave(run_id)
        if not lane:
            del lanes[place.labels]
            if not lanes:
                del self._lanes[place.key]

    def _take_offer(self, run_id: str, place: Place) -> None:
        self._offered[place] -= 1
        if not self._offered[place]:
            del self._offered[place]
        offers = self._offers[run_id]
        del offers[place]
        if not offers:
            del self._offers[run_id]

    def _expire(self, now: int) -> None:
        """A run that was not looked at for so long, because the log does not answer, keeps no place."""
        for run_id, offers in list(self._offers.items()):
            for place, at in list(offers.items()):
                if not 0 <= now - at <= OFFER_SECONDS * 1e6:
                    self._take_offer(run_id, place)

    def _best(self) -> tuple[Place, str] | None:
        """Who is to go on next, of all who could."""
        heads = [(head, place) for place, lane in self._open() if self._has_room(place) for head in lane.heads()]
        if not heads:
            return None
        best, urgent = min(heads, key=_turn), min(heads, key=lambda each: (-each[0].priority, _turn(each)))
        if best[0].priority < urgent[0].priority and self._overtook:
            best = urgent
        self._overtook = best[0].priority < urgent[0].priority
        return best[1], best[0].run_id

    def _open(self) -> Iterator[tuple[Place, Lane]]:
        """The lanes that a limit does not keep back."""
        freed = self._limits.freed
        freed -= {key for key in freed if key not in self._lanes or not self._limits.has_room(key)}
        opened: list[Key | None] = [None, *freed]
        for key in opened:
            for labels, lane in self._lanes.get(key, {}).items():
                yield Place(labels, key), lane

    def _has_room(self, place: Place) -> bool:
        labels, key = place
        if self._fleet.free(labels) <= self._offers_for(labels):
            return False
        return key is None or self._limits.has_room(key, beside=self._offers_under(key))

    def _is_contended(self, labels: Labels) -> bool:
        """Whether others could take the executor that the labels are for."""
        if any(self._fleet.shares(place.labels, labels) for place, _ in self._open()):
            return True
        offers = self._offers_for(labels)
        return offers > 0 and self._fleet.free(labels) <= offers

    def _offers_for(self, labels: Labels) -> int:
        return sum(count for place, count in self._offered.items() if self._fleet.shares(place.labels, labels))

    def _offers_under(self, key: Key) -> int:
        return sum(count for place, count in self._offered.items() if place.key == key)


def _turn(each: tuple[Waiter, Place]) -> tuple[Waiter, str, list[str]]:
    """A run can wait for several places since the same moment: then any order will do, but there is one."""
    head, place = each
    return head, str(place.key or ""), sorted(place.labels)
