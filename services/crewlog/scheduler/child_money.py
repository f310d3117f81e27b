"""Money on its way down to child runs: from the run at the top, step by step, each a command on one of the runs.

What has to be done next is worked out from their logs alone, in crewlog.domain.run.child_money, so whoever leads next
goes on where this one was. The allotment grows in the parent first, and a crash before the child run has heard of it
leaves an allotment that it does not use yet.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import money as run_money
from crewlog.domain.run.child_money import Step
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.scheduler.entries import PRINCIPAL
from crewlog.scheduler.funding import CHUNK
from crewlog.v1.run_pb2 import GateStatus

STEPS_MAX = 64
"""For one call of an agent: each takes it nearer, and others may take what it got."""

ChildTask = tuple[str, str]
"""The run and its task that is a run of its own."""
Changed = Callable[[str, Outcome[Run]], None]
logger = logging.getLogger(__name__)


class ChildMoney:
    """`changed` is the reactor's."""

    def __init__(self, owner: Owner[Run], clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._boot = f"{clock():x}"
        self._numbers = itertools.count(1)
        self._waiting: dict[str, dict[ChildTask, None]] = {}
        self._seen: dict[str, object] = {}
        self.changed: Changed

    async def more(self, run_id: str, wanted: Amounts) -> bool:
        """Whether the run has so much left now: what it lacks is got from its parents, where they have it."""
        for _ in range(STEPS_MAX):
            chain = await self._chain(run_id)
            missing = run_child_money.missing(chain[0], wanted)
            if not missing:
                return True
            step = run_child_money.supply(chain, missing, CHUNK, self._clock())
            if step is None:
                return False
            await self._do(step)
        return False

    async def settle(self, key: ChildTask, run_id: str) -> None:
        """Does what has to be done about all that waits in the child run."""
        chain = await self._chain(run_id)
        self._watch(key, chain)
        while (step := run_child_money.next_step(chain, CHUNK, self._clock())) is not None:
            if not await self._do(step):
                break
            chain = await self._chain(run_id)
        if not run_child_money.waiting(chain[0]):
            self.forget(key)

    def waiting_for(self, run: Run) -> list[ChildTask]:
        """The child runs, at any depth, that wait for more from the run, if it may have something to say to them."""
        run_id = run.started.run_id
        if run_id not in self._waiting:
            return []
        closed = sum(gate.status != GateStatus.GATE_STATUS_OPEN for gate in run.gates.values())
        seen = (run.limit, run_money.left(run), closed)
        if self._seen.get(run_id) == seen:
            return []
        self._seen[run_id] = seen
        return list(self._waiting[run_id])

    def forget(self, key: ChildTask) -> None:
        """It waits for nothing."""
        for run_id in [run_id for run_id, keys in self._waiting.items() if key in keys]:
            self._waiting[run_id].pop(key)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
                self._seen.pop(run_id, None)

    def _watch(self, key: ChildTask, chain: list[Run]) -> None:
        """Before it is worked out what to do: nothing that happens meanwhile is missed."""
        for run in chain[1:] if run_child_money.waiting(chain[0]) else ():
            self._waiting.setdefault(run.started.run_id, {})[key] = None
            self._seen.pop(run.started.run_id, None)

    async def _chain(self, run_id: str) -> list[Run]:
        """The run, and then whose task each one is."""
        chain: list[Run] = []
        while run_id:
            run, _ = await self._owner.state(run_id)
            chain.append(run)
            run_id = run.started.parent.run_id
        return chain

    async def _do(self, step: Step) -> bool:
        """Whether anything has come of it. A refusal says that one of the runs has gone on meanwhile."""
        run_id, command = step
        meta = Meta(f"{self._boot}-m{next(self._numbers)}", PRINCIPAL, correlation_id=run_id)
        try:
            outcome = await self._owner.handle(run_id, command, meta)
        except (Unavailable, Contention):
            raise
        except Refused as refusal:
            logger.info("money of run %s: %s", run_id, refusal)
            return False
        if outcome.events:
            self.changed(run_id, outcome)
        return bool(outcome.events)
