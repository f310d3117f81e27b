"""The limits on tasks at once: set, listed, and learned by whoever gives out tasks."""

from __future__ import annotations

import secrets

from crewlog.domain.admission import AGGREGATE_ID, EVERY_OTHER, Admission, Key
from crewlog.eventlog.owner import Clock, Meta, Owner
from crewlog.runtime.auth import current_principal
from crewlog.scheduler.admission import Limits
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.reactor import Reactor
from crewlog.v1.admission_pb2 import (
    AdmissionDimension,
    AdmissionLimit,
    AdmissionLimitList,
    ListAdmissionLimits,
    SetAdmissionLimit,
)
from crewlog.v1.admission_pb2_grpc import AdmissionServiceServicer
from crewlog.v1.answer_pb2 import Receipt


class AdmissionServer(AdmissionServiceServicer):
    def __init__(self, owner: Owner[Admission], dispatch: Dispatch, reactor: Reactor, clock: Clock) -> None:
        self._owner = owner
        self._dispatch = dispatch
        self._reactor = reactor
        self._clock = clock

    async def learn(self) -> None:
        """Takes over what the log says: at the start, and whenever it says something new."""
        known, _ = await self._owner.refresh(AGGREGATE_ID)
        self._dispatch.learn(known)
        self._reactor.feed()

    async def Set(self, request: SetAdmissionLimit, context: object) -> Receipt:
        request.at_unix_micros = self._clock()
        meta = Meta(secrets.token_hex(8), current_principal(), correlation_id="", on_behalf_of=request.by)
        outcome = await self._owner.handle(AGGREGATE_ID, request, meta)
        self._dispatch.learn(outcome.state)
        self._reactor.feed()
        return Receipt(revision=outcome.revision)

    async def List(self, request: ListAdmissionLimits, context: object) -> AdmissionLimitList:
        """All of them: there are few."""
        limits = self._dispatch.fleet.limits
        return AdmissionLimitList(limits=[_shown(limits, key) for key in sorted(limits.admission.limits)])


def _shown(limits: Limits, key: Key) -> AdmissionLimit:
    return AdmissionLimit(
        dimension=key.dimension,
        name=key.name,
        tasks_max=limits.admission.limits[key],
        tasks_at_work=limits.at_work(key) if key.name != EVERY_OTHER else _most_at_work(limits, key.dimension),
    )


def _most_at_work(limits: Limits, dimension: AdmissionDimension.ValueType) -> int:
    """Of any name that has no limit of its own."""
    named = (Key(dimension, name) for name in limits.names_at_work(dimension))
    return max((limits.at_work(key) for key in named if key not in limits.admission.limits), default=0)
