"""CostService: sums of what was spent, by whatever they are asked for."""

from __future__ import annotations

from typing import Any

from crewlog.domain.errors import TooLarge
from crewlog.gateway import money_checks
from crewlog.gateway.money_queries import COST_ROWS_MAX, CostFilter, costs
from crewlog.gateway.projection import Projection
from crewlog.v1.budget_service_pb2 import CostTable, QueryCost
from crewlog.v1.budget_service_pb2_grpc import CostServiceServicer


class CostServer(CostServiceServicer):
    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    async def Query(self, request: QueryCost, context: Any) -> CostTable:
        money_checks.check_cost(request)
        await self._projection.reached(request.at_least_revision)
        wanted = CostFilter(request.run_id, request.project_id, request.from_unix_micros, request.to_unix_micros)
        table = await self._projection.read(costs, tuple(request.by), request.time_zone, wanted)
        if len(table.rows) > COST_ROWS_MAX:
            raise TooLarge(
                f"there are more than {COST_ROWS_MAX} rows", what_to_do="ask for a shorter time, a run or a project"
            )
        return table
