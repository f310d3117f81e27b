"""CredentialService: the key of a run's model, for whoever holds the claim on one of its tasks, for memory only."""

from __future__ import annotations

from typing import Any

from crewlog.domain.errors import NotPermitted, StaleClaim, WrongState
from crewlog.gateway.config import ModelAccess
from crewlog.gateway.projection import Projection
from crewlog.gateway.queries import Queries
from crewlog.gateway.starting import HOW_TO_GET_A_CREDENTIAL, NO_CREDENTIAL
from crewlog.runtime.auth import Claim, current_claim
from crewlog.v1.agent_pb2 import GetModelCredential, ModelCredential
from crewlog.v1.agent_pb2_grpc import CredentialServiceServicer


class CredentialServer(CredentialServiceServicer):
    def __init__(self, projection: Projection, model: ModelAccess) -> None:
        self._projection = projection
        self._model = model

    async def Get(self, request: GetModelCredential, context: Any) -> ModelCredential:
        claim = current_claim()
        if claim.run_id != request.run_id:
            raise NotPermitted(f"the claim is for run {claim.run_id!r}, not for {request.run_id!r}")
        await self._check_latest(claim)
        if not self._model.api_key:
            raise WrongState(NO_CREDENTIAL, what_to_do=HOW_TO_GET_A_CREDENTIAL)
        return ModelCredential(
            api_key=self._model.api_key,
            base_url=self._model.base_url,
            scripted=self._model.scripted,
            name=self._model.credential,
        )

    async def _check_latest(self, claim: Claim) -> None:
        """As far as the projection knows: a claim that it has not seen yet is newer than what it shows."""
        latest = await self._projection.read(Queries.generation_of, claim.run_id, claim.task_id)
        if latest > claim.generation:
            raise StaleClaim(f"generation {latest} has task {claim.task_id!r} of run {claim.run_id!r}")
