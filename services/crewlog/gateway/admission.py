"""AdmissionService: limits on tasks at once, checked here and kept by the scheduler."""

from __future__ import annotations

from typing import Any

from crewlog.gateway.control_checks import check_limit
from crewlog.runtime.auth import current_principal
from crewlog.v1.admission_pb2 import AdmissionLimitList, ListAdmissionLimits, SetAdmissionLimit
from crewlog.v1.admission_pb2_grpc import AdmissionServiceServicer
from crewlog.v1.answer_pb2 import Receipt


class AdmissionServer(AdmissionServiceServicer):
    """`limits` is the service of the scheduler."""

    def __init__(self, limits: Any) -> None:
        self._limits = limits

    async def Set(self, request: SetAdmissionLimit, context: Any) -> Receipt:
        check_limit(request)
        command = SetAdmissionLimit(
            dimension=request.dimension, name=request.name, tasks_max=request.tasks_max, by=current_principal()
        )
        receipt: Receipt = await self._limits.Set(command)
        return receipt

    async def List(self, request: ListAdmissionLimits, context: Any) -> AdmissionLimitList:
        limits: AdmissionLimitList = await self._limits.List(request)
        return limits
